"""The calibration: its arithmetic on made-up times, and once on the real code in small."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ray_synth.allocation import ALLOCATIONS, Allocation
from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.setting import default_setting
from ray_synth.config import changed, load_experiment
from ray_synth.data.images import ImageSet, first_per_class
from ray_synth.errors import InputError
from ray_synth.hardware.measure import Measure, spread
from ray_synth.nodes import Nodes
from ray_synth.pipeline import Run
from ray_synth.planning.calibrate import calibrate
from ray_synth.planning.plan import plan
from ray_synth.planning.rates import load_rates, save_rates
from ray_synth.planning.work import work_of
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import Chunk, Plan
from ray_synth.stages import Generate
from ray_synth.stages.bench import Bench, refuse_others, stand_in
from ray_synth.stages.bench_sampling import _items, chunk_seconds
from ray_synth.stages.bench_trainings import _asked, fit_trials, small_experiment

from ..conftest import DIGITS
from .test_work import run_in


def test_trials_give_fixed_seconds_and_those_of_an_update() -> None:
    real = 100
    rows = [
        (synthetic, updates, 0.5 + 0.001 * (real + synthetic) + updates * (0.02 if synthetic else 0.01))
        for synthetic in (0, 800)
        for updates in (10, 40, 70, 100)
    ]
    assert fit_trials(rows, real) == pytest.approx((0.5, 0.001, 0.02, 0.01, 0.0), abs=1e-6)


def test_noise_becomes_the_sigma_and_no_rate_is_negative() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (synthetic, updates, updates * 0.02 * float(np.exp(0.2 * rng.standard_normal())))
        for synthetic in (0, 800)
        for updates in (10, 40, 70, 100)
    ]
    found = fit_trials(rows, 100)
    assert min(found) >= 0
    assert found[2] == pytest.approx(0.02, rel=0.3)
    assert 0.05 < found[4] < 0.4
    only_real = [(0, updates, updates * 0.02) for updates in (10, 50, 100)]
    assert fit_trials(only_real, 100)[2:4] == pytest.approx((0.02, 0.02), rel=0.2)


def test_chunks_of_busy_actors() -> None:
    assert chunk_seconds([12.0, 12.1, 14.0, 14.2, 16.1, 16.2], actors=2)[0] == pytest.approx(2.05)
    assert chunk_seconds([5.0], actors=2) == (5.0, 0.3, 0.0)
    steady, uneven = (chunk_seconds(ends, 1)[1] for ends in ([1, 2, 3, 4.0], [1, 2, 5, 5.5]))
    assert uneven > steady


@pytest.mark.parametrize("actors", [1, 2, 8])
def test_the_spread_of_a_chunk_does_not_shrink_with_more_of_them(actors: int) -> None:
    """But that of their mean does."""
    rng = np.random.default_rng(0)
    found: dict[int, list[tuple[float, float]]] = {5: [], 80: []}
    for rounds, rows in found.items():
        for _ in range(200):
            times = rng.lognormal(0.0, 0.1, (actors, rounds))
            rows.append(chunk_seconds(np.sort(times.cumsum(axis=1), axis=None).tolist(), actors)[1:])
    few, many = (np.sqrt(np.square(rows).mean(axis=0)) for rows in found.values())
    assert few[1] == pytest.approx(0.1, rel=0.25)
    assert many[1] == pytest.approx(0.1, rel=0.25)
    assert many[0] < few[0]


def test_spread_of_repeated_pieces() -> None:
    assert spread([1.0]) == 0.0
    assert spread([2.0, 2.0, 2.0]) == 0.0
    logs = np.random.default_rng(0).normal(0, 0.3, 400)
    assert spread(np.exp(logs).tolist()) == pytest.approx(0.3 / 20, rel=0.1)


def test_stand_ins_fill_every_class(digits: ImageSet) -> None:
    few = digits.take(slice(0, 60))
    images = stand_in(few, 25)
    assert np.bincount(images.labels).tolist() == [25] * 10
    assert np.bincount(stand_in(few, np.arange(10)).labels, minlength=10).tolist() == list(range(10))
    assert images.images().shape == (250, 8, 8, 1)
    assert images.images().dtype == np.uint8


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("given_", [[True, True, True], [False, True, True], [False, False, True]])
def test_stand_ins_are_enough_for_uneven_classes(digits: ImageSet, given_: list[bool], allocation: Allocation) -> None:
    real = digits.take(first_per_class(digits.labels, np.asarray([15, 15, 5, *[0] * 7])))
    real = replace(real, class_names=real.class_names[:3])
    e = changed(load_experiment(DIGITS), {"data.allocation": allocation})
    inputs: Any = SimpleNamespace(real_counts=real.counts, given=np.asarray(given_), experiment=e)
    for ratio in (0.01, 0.5, 0.88, 3.0):
        synthetic = stand_in(real, _asked(SimpleNamespace(inputs=inputs), ratio))  # type: ignore[arg-type]
        data = ExperimentData(experiment=e, real=real, synthetic=synthetic, validation=real)
        counts = data.counts(default_setting(e, 3, ratio))
        assert (counts <= data.available).all()
        assert counts.sum() == pytest.approx(ratio * 35, abs=1.5)


def test_chunks_of_classes_that_have_images_are_measured() -> None:
    plan = Plan(
        generator_digest="0", chunk_digest="0", images_per_class=(0, 9, 0, 9), chunk_size=8, available=(0, 5, 0, 9)
    )
    items = _items(None, SimpleNamespace(plan=plan), 8, 1)  # type: ignore[arg-type]
    assert {(item["label"], item["stop"] - item["start"]) for item in items} == {(1, 5), (3, 5)}


def test_the_small_sweep_is_an_experiment() -> None:
    e = small_experiment(load_experiment(DIGITS), 3.0, [5, 20, 50])
    assert e.sweep.num_trials == 6
    assert set(e.sweep.searched) == {"synthetic_ratio", "updates"}
    assert (e.sweep.pruner, e.sweep.prior, e.classifier.updates, e.classifier.budget) == ("none", "none", 50, "updates")


def test_a_cluster_of_several_machines_is_not_calibrated() -> None:
    """The pieces lie in a temporary folder, and the slots that are measured are those of one node."""
    one = Nodes(cpus=4, gpus=(0,), most_cpus=4, most_gpus=(0,), grows=False)
    refuse_others(one)
    with pytest.raises(InputError, match=r"has 2 machines; type --gpu NAME or --rates FILE .*--save-rates FILE there"):
        refuse_others(replace(one, gpus=(0, 0)))
    with pytest.raises(InputError, match="adds machines"):
        refuse_others(replace(one, grows=True))


def test_a_cluster_is_joined_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = run_in(tmp_path / "out"), []
    monkeypatch.setattr(Bench, "start_ray", lambda bench: said.append("ray"))
    for stage in run.stages.values():
        monkeypatch.setattr(stage, "calibrate", lambda bench, name=stage.name: said.append(name))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    calibrate(run, work_of(run), started=time.monotonic())
    assert said == [stage.name for stage in run.stages.values()]
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    said.clear()
    calibrate(run, work_of(run), started=time.monotonic())
    assert said == ["ray", *(stage.name for stage in run.stages.values())]


def test_reading_images_back_is_measured_wherever_a_stage_does_it(tmp_path: Path) -> None:
    run = run_in(tmp_path / "out")

    def measured(until: str | None = None) -> Measure | None:
        bench = Bench(run.inputs, RunFolder(tmp_path / "scratch"), work_of(run, until).units - {"image"})
        run.of(Generate).calibrate(bench)
        return bench.found.get("read_image")

    assert measured(until="generate") is None
    without_any = measured()  # neither here nor in the run's folder
    assert without_any is not None
    assert without_any.value > 0
    assert without_any.origin == "measured here on real images of 8 pixels a side"
    (made,) = (tmp_path / "scratch" / "synthetic").iterdir()
    name = Chunk(run.of(Generate).images.chunk_digest[:12], 0, 0, 3).name
    run.folder.write(f"synthetic/{name}", made.read_bytes())
    made.unlink()
    of_the_run = measured(until="estimate")
    assert of_the_run is not None
    assert of_the_run.value > 0
    assert of_the_run.origin == "measured here"


@pytest.mark.slow
@pytest.mark.long
def test_a_calibration_measures_every_stage_and_leaves_nothing(tmp_path: Path) -> None:
    tiny = {
        "generator.block_out_channels": [8, 16],
        "generator.steps": 40,
        "generate.images_per_class": 12,
        "generate.num_inference_steps": 4,
        "generate.chunk_size": 6,
        "data.shots": 4,
        "classifier.updates": 24,
        "classifier.evaluations": 2,
        "classifier.batch_size": 16,
        "sweep.num_trials": 5,
        "evaluate.repeats": 1,
    }
    run = Run(load_experiment(DIGITS, tiny), RunFolder(tmp_path / "out"), Reporter())
    work = work_of(run)
    rates = calibrate(run, work, started=time.monotonic())
    for name in (
        "generator_step",
        "image",
        "pool_start",
        "read_image",
        "estimate",
        "tune_start",
        "update",
        "train_start",
        "evaluate",
        "judged_image",
    ):
        assert rates.seconds[name].value > 0, name
    assert rates.image_bytes is not None
    assert 10 < rates.image_bytes < 1000  # small, beside what a parquet file holds around them
    assert not (tmp_path / "out").exists()
    save_rates(rates, tmp_path / "rates.json")
    assert load_rates(tmp_path / "rates.json").holding_for(run.stages.values()) == rates
    found = plan(work, rates)
    assert [stage.name for stage in found.stages][1:] == [
        "finetune",
        "generate",
        "estimate",
        "sweep",
        "train",
        "evaluate",
        "report",
    ]
    assert found.here.money is None
