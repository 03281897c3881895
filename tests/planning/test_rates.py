"""Rates: every number of the table has an origin, files are checked, other models are scaled by their operations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ray_synth.classifier.flops import forward_flops
from ray_synth.classifier.models import residual_network
from ray_synth.config import Classifier, load_experiment
from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError
from ray_synth.hardware.gpus import TABLE, Card, Gpu, card_here, gpu_named, gpu_names
from ray_synth.hardware.measure import Measure
from ray_synth.pipeline import Run
from ray_synth.planning.rates import Rates, gpu_rates, load_rates, measured_with, priced, save_rates
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder

from ..conftest import DIGITS, ROOT
from .conftest import exactly, rates_of

KINDS = ("derived: ", "guess: ", "own: ")
IMAGENET = ROOT / "sweeps" / "imagenet.yaml"


def run_of(tmp_path: Path, **changes: object) -> Run:
    return Run(load_experiment(DIGITS, changes), RunFolder(tmp_path / "out"), Reporter())


def imagenet(tmp_path: Path) -> Run:
    """By its published size."""
    return Run(load_experiment(IMAGENET), RunFolder(tmp_path / "out"), Reporter(), described=True)


def of_gpu(name: str, run: Run) -> Rates:
    return gpu_rates(name, run.stages.values())


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and "origin" not in value:
        for key, each in value.items():
            yield from leaves(each, f"{name}.{key}")
    else:
        yield name, value


def test_every_number_of_the_table_has_an_origin() -> None:
    raw = read_yaml(TABLE.read_text())
    for name, value in leaves({key: raw[key] for key in ("gpus", "flops", "overheads", "limits")}):
        if name.endswith((".instance", ".gpus_per_node")):
            continue
        assert set(value) == {"value", "sigma", "origin"}, name
        origin = value["origin"]
        assert origin.startswith(KINDS) or any(character.isdigit() for character in origin), name
        if origin.startswith(("derived: ", "guess: ")):
            assert value["sigma"] >= 0.1, f"{name}: what is derived or guessed is not certain"
    assert raw["prices_read"]


def test_a_gpu_of_this_machine_is_the_one_with_least_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    of = {0: SimpleNamespace(name="A", total_memory=2**35, major=9, minor=0),
          1: SimpleNamespace(name="B", total_memory=2**34, major=7, minor=5)}  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert card_here() is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", of.get)
    assert card_here() == Card(name="B", memory=2**34, fuses_bfloat16=False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert card_here() is None
    assert [gpu_named(name).card.fuses_bfloat16 for name in gpu_names()] == [False, True, True, True, True]
    assert gpu_named("H100").card.memory == 80 * 2**30


@pytest.mark.parametrize("gpu", ["T4", "L4", "A10G", "A100", "H100"])
def test_every_gpu_plans_imagenet(tmp_path: Path, gpu: str) -> None:
    rates = of_gpu(gpu, imagenet(tmp_path))
    assert rates.price is not None
    assert rates.spot_price is not None
    assert 0 < rates.spot_price.value < rates.price.value
    assert 0.1 < rates.seconds["image"].value < 10
    assert rates.seconds["update"].value > 0


def test_a_faster_gpu_is_faster(tmp_path: Path) -> None:
    run = imagenet(tmp_path)
    found = [of_gpu(gpu, run).seconds for gpu in ("T4", "L4", "A10G", "A100", "H100")]
    for unit in ("image", "update", "training_update"):
        seconds = [each[unit].value for each in found]
        assert seconds == sorted(seconds, reverse=True)


def test_a_gpu_that_is_not_in_the_table() -> None:
    with pytest.raises(InputError, match=r"--gpu must be one of T4, .*, got 'V100'; .*--calibrate --save-rates"):
        gpu_named("V100")
    assert gpu_named("a100").name == "A100"
    assert set(gpu_names()) == {"T4", "L4", "A10G", "A100", "H100"}


def flops(settings: Classifier, side: int, channels: int = 3, gpu: Gpu | None = None) -> Measure:
    return forward_flops(gpu or gpu_named("A100"), settings, (side, side, channels), 10)


def test_published_models_come_out_as_published(tmp_path: Path) -> None:
    e = load_experiment(ROOT / "sweeps" / "real_fake" / "imagenette.yaml")
    run = Run(e, RunFolder(tmp_path / "out"), Reporter(), described=True)
    assert run.inputs.shape == (224, 224, 3)
    assert flops(e.classifier, 224).value == pytest.approx(8.2e9)
    # 2,470 images a second in mixed precision.
    one_side = of_gpu("A100", run).seconds["update_one_side"].value
    assert one_side == pytest.approx(e.classifier.batch_size / 2470, rel=0.01)
    assert flops(e.classifier, 448).value == pytest.approx(4 * 8.2e9)


def test_spectra_go_by_pixels(tmp_path: Path) -> None:
    whole, half = (
        of_gpu("A100", run_of(tmp_path, **{"data.image_size": side})).seconds["judged_image"].value for side in (32, 16)
    )
    assert whole == pytest.approx(4 * half)
    assert whole == pytest.approx(0.005 * 32 * 32 / (224 * 224 * 3))


def test_other_models_are_counted(tmp_path: Path) -> None:
    counted, larger = (flops(Classifier(), side, channels=1) for side in (8, 16))
    assert counted.origin == "counted by torch"
    assert 3 < larger.value / counted.value < 5
    small, large = (run_of(tmp_path, **{"data.image_size": side}) for side in (8, 16))
    of_small, of_large = (of_gpu("A100", run).seconds["generator_step"].value for run in (small, large))
    assert of_large > 3 * of_small


@pytest.mark.parametrize(("side", "published"), [(32, 2 * 0.56e9), (64, 8 * 0.56e9), (224, 3.6e9)])
def test_residual_networks_of_small_images_are_counted_with_their_own_stem(side: int, published: float) -> None:
    """0.56 GMAC of a ResNet-18 with a stem of stride 1 at 32x32; four times as many at 64x64."""
    found = flops(Classifier(model="resnet18"), side).value
    network = residual_network("resnet18", (side, side), 10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    assert found == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert found == pytest.approx(published, rel=0.03)
    assert flops(Classifier(model="resnet18", image_size=side), 8).value == found


def test_rates_survive_a_file(tmp_path: Path) -> None:
    for rates in (rates_of(image=0.1), of_gpu("L4", run_of(tmp_path))):
        rates = replace(rates, image_bytes=97.5, measured_for={"image shape": "x", "training images": 100})
        save_rates(rates, tmp_path / "rates.json")
        assert load_rates(tmp_path / "rates.json") == rates


def test_what_was_not_measured_is_no_number_in_a_file(tmp_path: Path) -> None:
    rates = rates_of(image=0.1)
    save_rates(replace(rates, seconds={"image": rates.seconds["image"]}), tmp_path / "rates.json")
    raw = json.loads((tmp_path / "rates.json").read_text())
    assert list(raw["seconds"]) == ["image"]
    assert raw["seconds"]["image"]["value"] == 0.1
    assert "update" not in load_rates(tmp_path / "rates.json").measures()


def test_files_that_hold_no_rates_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    with pytest.raises(InputError, match=r"rates file not found.*--calibrate --save-rates"):
        load_rates(file)
    file.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_rates(file)
    wrong = {"image": {"value": -1, "sigma": 0, "origin": "x"}}
    for broken in ({}, [], {"limits": {}}, {**rates_of().to_dict(), "seconds": wrong}, {"seconds": {"image": 3}}):
        file.write_text(json.dumps(broken))
        with pytest.raises(InputError, match="does not hold rates"):
            load_rates(file)
    with pytest.raises(InputError, match=r"cannot be written.*--save-rates"):
        save_rates(rates_of(), tmp_path / "nowhere" / "rates.json")


def test_rates_of_another_generator_are_refused(tmp_path: Path) -> None:
    rates = replace(rates_of(), measured_for=measured_with(run_of(tmp_path).stages.values()))

    def held(**changes: object) -> Rates:
        return rates.holding_for(run_of(tmp_path, **changes).stages.values())

    assert held(**{"generate.images_per_class": 999}) == held(**{"generator.steps": 9999}) == rates
    for other in ({"generate.num_inference_steps": 9}, {"generate.filter.near_copies": True}):
        with pytest.raises(InputError, match="another generator"):
            held(**other)
    with pytest.raises(InputError, match="another classifier"):  # a trial holds its validation passes
        held(**{"classifier.evaluations": 9})
    with pytest.raises(InputError, match="another image shape"):
        held(**{"data.image_size": 16})


def test_rates_of_a_data_set_of_another_size_are_refused(tmp_path: Path) -> None:
    """An estimate and a trial read whole sets: their seconds are of so many images, a few more or less."""
    measured = measured_with(run_of(tmp_path).stages.values())
    run = run_of(tmp_path)

    def held(**changed: int) -> Rates:
        of = {**measured, **{name.replace("_", " "): count for name, count in changed.items()}}
        return replace(rates_of(), measured_for=of).holding_for(run.stages.values())

    assert held(training_images=104)
    with pytest.raises(InputError, match=r"measured with 1,000 training images, and there are 100; leave --rates out"):
        held(training_images=1000)
    with pytest.raises(InputError, match="measured with 20 validation images, and there are"):
        held(validation_images=20)
    with pytest.raises(InputError, match="measured with 200 synthetic images of the estimate, and there are 800"):
        held(synthetic_images_of_the_estimate=200)


def test_the_command_line_replaces_prices(tmp_path: Path) -> None:
    rates = of_gpu("A100", run_of(tmp_path))
    assert rates.price is not None
    assert rates.spot_price is not None
    half = priced(rates, price=rates.price.value / 2, spot_interruptions=0.25, gpus_per_node=4)
    assert half.spot_price is not None
    assert half.spot_price.value == pytest.approx(rates.spot_price.value / 2)
    assert (half.interruptions.value, half.slots) == (0.25, 4)
    assert priced(rates, price=None, spot_interruptions=None) == rates
    for wrong, match in (({"price": -1.0}, "--price must be >= 0"), ({"spot_interruptions": 99.0}, "between 0 and 60")):
        with pytest.raises(InputError, match=match):
            priced(rates, **{"price": None, "spot_interruptions": None, **wrong})


def test_fewer_gpus_of_an_instance_cost_their_share(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    whole, one = (gpu_rates("A100", run.stages.values(), gpus_per_node=count) for count in (8, 1))
    assert one.price is not None
    assert whole.price is not None
    assert one.price.value == pytest.approx(whole.price.value / 8)


def test_uncertainties_add_up() -> None:
    measure = Measure(value=2.0, sigma=0.3, origin="a")
    assert measure.times(3, sigma=0.4, note="b") == Measure(value=6.0, sigma=0.5, origin="a; b")
    assert exactly(1.0).sigma == 0
