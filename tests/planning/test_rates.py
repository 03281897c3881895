"""Rates: every number of the table has an origin, files are checked, other models are scaled by their operations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ray_synth.classifier.models import residual_network
from ray_synth.config import Experiment, load_experiment
from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError
from ray_synth.planning.rates import (
    TABLE,
    UNMEASURED,
    Measure,
    Rates,
    classifier_flops,
    fingerprint,
    gpu_names,
    gpu_rates,
    images_of,
    load_rates,
    pixel_flops,
    priced,
    save_rates,
)
from ray_synth.planning.sizes import Sizes, published_sizes

from ..conftest import ROOT
from .conftest import exactly, rates_of

KINDS = ("derived: ", "guess: ", "own: ")


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


@pytest.mark.parametrize("gpu", ["T4", "L4", "A10G", "A100", "H100"])
def test_every_gpu_plans_imagenet(gpu: str) -> None:
    e = load_experiment(ROOT / "sweeps" / "imagenet.yaml")
    rates = gpu_rates(gpu, e, published_sizes(e))
    assert rates.price is not None
    assert rates.spot_price is not None
    assert 0 < rates.spot_price.value < rates.price.value
    assert 0.1 < rates.image.value < 10
    assert rates.update.value > 0


def test_a_faster_gpu_is_faster() -> None:
    e = load_experiment(ROOT / "sweeps" / "imagenet.yaml")
    sizes = published_sizes(e)
    images = [gpu_rates(gpu, e, sizes).image.value for gpu in ("T4", "L4", "A10G", "A100", "H100")]
    updates = [gpu_rates(gpu, e, sizes).update.value for gpu in ("T4", "L4", "A10G", "A100", "H100")]
    assert images == sorted(images, reverse=True)
    assert updates == sorted(updates, reverse=True)


def test_a_gpu_that_is_not_in_the_table(small: Experiment, sizes: Sizes) -> None:
    with pytest.raises(InputError, match=r"--gpu must be one of T4, .*, got 'V100'; .*--calibrate --save-rates"):
        gpu_rates("V100", small, sizes)
    assert gpu_rates("a100", small, sizes).hardware == "A100"
    assert set(gpu_names()) == {"T4", "L4", "A10G", "A100", "H100"}


def test_published_models_come_out_as_published() -> None:
    e = load_experiment(ROOT / "sweeps" / "real_fake" / "imagenette.yaml")
    sizes = replace(published_sizes(e), shape=(224, 224, 3))
    assert classifier_flops(e, sizes).value == pytest.approx(8.2e9)
    rates = gpu_rates("A100", e, sizes)
    # 2,470 images a second in mixed precision.
    assert rates.update_one_side.value == pytest.approx(e.classifier.batch_size / 2470, rel=0.01)
    assert classifier_flops(e, replace(sizes, shape=(448, 448, 3))).value == pytest.approx(4 * 8.2e9)


def test_spectra_go_by_pixels(small: Experiment, sizes: Sizes) -> None:
    whole, half = (gpu_rates("A100", small, replace(sizes, shape=(side, side, 3))) for side in (32, 16))
    assert whole.judged_image.value == pytest.approx(4 * half.judged_image.value)
    assert whole.judged_image.value == pytest.approx(0.005 * (32 / 224) ** 2)


def test_other_models_are_counted(small: Experiment, sizes: Sizes) -> None:
    counted = classifier_flops(small, sizes)
    larger = classifier_flops(small, replace(sizes, shape=(16, 16, 1)))
    assert counted.origin == "counted by torch"
    assert 3 < larger.value / counted.value < 5
    assert pixel_flops(small, replace(sizes, shape=(16, 16, 1))) > 3 * pixel_flops(small, sizes)


@pytest.mark.parametrize(("side", "published"), [(32, 2 * 0.56e9), (64, 8 * 0.56e9), (224, 3.6e9)])
def test_residual_networks_of_small_images_are_counted_with_their_own_stem(
    small: Experiment, sizes: Sizes, side: int, published: float
) -> None:
    """0.56 GMAC of a ResNet-18 with a stem of stride 1 at 32x32; four times as many at 64x64."""
    e = small.model_copy(update={"classifier": small.classifier.model_copy(update={"model": "resnet18"})})
    found = classifier_flops(e, replace(sizes, shape=(side, side, 3))).value
    network = residual_network("resnet18", (side, side), 10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    assert found == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert found == pytest.approx(published, rel=0.03)
    upscaled = e.model_copy(update={"classifier": e.classifier.model_copy(update={"image_size": side})})
    assert classifier_flops(upscaled, sizes).value == found


def test_rates_survive_a_file(tmp_path: Path, small: Experiment, sizes: Sizes) -> None:
    for rates in (rates_of(image=0.1, image_bytes=0.0), gpu_rates("L4", small, sizes)):
        rates = replace(rates, image_bytes=97.5, measured_for={"image shape": "x"})
        save_rates(rates, tmp_path / "rates.json")
        assert load_rates(tmp_path / "rates.json") == rates


def test_what_was_not_measured_is_no_number_in_a_file(tmp_path: Path) -> None:
    save_rates(replace(rates_of(image=0.1), update=UNMEASURED), tmp_path / "rates.json")
    raw = json.loads((tmp_path / "rates.json").read_text())
    assert raw["update"] is None
    assert raw["image"]["value"] == 0.1
    rates = load_rates(tmp_path / "rates.json")
    assert rates.lacks("update")
    assert not rates.lacks("image")
    assert not rates.lacks("price")  # there may be none
    assert not rates.lacks("chunk")  # which takes no seconds of its own


def test_files_that_hold_no_rates_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    with pytest.raises(InputError, match=r"rates file not found.*--calibrate --save-rates"):
        load_rates(file)
    file.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_rates(file)
    for broken in ({}, [], {"limits": {}}, {**rates_of().to_dict(), "image": {"value": -1, "sigma": 0, "origin": "x"}}):
        file.write_text(json.dumps(broken))
        with pytest.raises(InputError, match="does not hold rates"):
            load_rates(file)
    with pytest.raises(InputError, match=r"cannot be written.*--save-rates"):
        save_rates(rates_of(), tmp_path / "nowhere" / "rates.json")


def test_rates_of_another_generator_are_refused(small: Experiment, sizes: Sizes) -> None:
    rates = replace(rates_of(), measured_for=fingerprint(small, sizes))
    more = small.model_copy(update={"generate": small.generate.model_copy(update={"images_per_class": 9999})})
    longer = small.model_copy(update={"generator": small.generator.model_copy(update={"steps": 9999})})
    assert rates.for_experiment(more, sizes) == rates.for_experiment(longer, sizes) == rates
    steps = small.model_copy(update={"generate": small.generate.model_copy(update={"num_inference_steps": 9})})
    with pytest.raises(InputError, match="another generator"):
        rates.for_experiment(steps, sizes)
    near = small.generate.filter.model_copy(update={"near_copies": True})
    filtered = small.model_copy(update={"generate": small.generate.model_copy(update={"filter": near})})
    with pytest.raises(InputError, match="another generator"):
        rates.for_experiment(filtered, sizes)
    often = small.model_copy(update={"classifier": small.classifier.model_copy(update={"evaluations": 9})})
    with pytest.raises(InputError, match="another classifier"):  # a trial holds its validation passes
        rates.for_experiment(often, sizes)
    with pytest.raises(InputError, match="another image shape"):
        rates.for_experiment(small, replace(sizes, shape=(9, 9, 1)))


def test_rates_of_a_data_set_of_another_size_are_refused(small: Experiment, sizes: Sizes) -> None:
    """An estimate and a trial read whole sets: their seconds are of so many images, a few more or less."""
    rates = replace(rates_of(), measured_for=fingerprint(small, sizes), measured_on=images_of(small, sizes))
    assert rates.for_experiment(small, replace(sizes, train=104, test=999)) == rates
    with pytest.raises(InputError, match=r"measured with 100 training images, and there are 1,000; leave --rates out"):
        rates.for_experiment(small, replace(sizes, train=1000))
    with pytest.raises(InputError, match="measured with 50 validation images, and there are 20"):
        rates.for_experiment(small, replace(sizes, validation=20))
    few = small.model_copy(update={"estimate": small.estimate.model_copy(update={"pilot_ratio": 2.0})})
    with pytest.raises(InputError, match="800 synthetic images of the estimate, and there are 200"):
        rates.for_experiment(few, sizes)


def test_the_command_line_replaces_prices(small: Experiment, sizes: Sizes) -> None:
    rates = gpu_rates("A100", small, sizes)
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


def test_fewer_gpus_of_an_instance_cost_their_share(small: Experiment, sizes: Sizes) -> None:
    whole, one = (gpu_rates("A100", small, sizes, gpus_per_node=count) for count in (8, 1))
    assert one.price is not None
    assert whole.price is not None
    assert one.price.value == pytest.approx(whole.price.value / 8)


def test_uncertainties_add_up() -> None:
    measure = Measure(value=2.0, sigma=0.3, origin="a")
    assert measure.times(3, sigma=0.4, note="b") == Measure(value=6.0, sigma=0.5, origin="a; b")
    assert all(getattr(rates_of(), one.name) is not None for one in fields(Rates) if "None" not in str(one.type))
    assert exactly(1.0).sigma == 0
