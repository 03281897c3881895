"""The sweep on Ray Tune: images made when a trial needs them, failures that stop nobody, trials of several workers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_synth.config import Experiment, load_experiment
from ray_synth.data.images import ImageSet, first_per_class
from ray_synth.data.splits import Splits
from ray_synth.errors import WorkError
from ray_synth.runs import RunFolder
from ray_synth.runtime import ray_session
from ray_synth.sweep.ledger import TRIALS, Trial
from ray_synth.sweep.tuner import run_sweep
from tests.conftest import DIGITS

pytestmark = pytest.mark.slow
SMALL = {"classifier.updates": 20, "classifier.evaluations": 2, "classifier.batch_size": 16, "data.shots": 4}


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with ray_session():
        yield


def swept(folder: Path, splits: Splits, **settings: Any) -> tuple[list[Trial], list[float]]:
    """A sweep over real digits as synthetic ones: its trials, and the ratios that images were asked for."""
    overrides = {**SMALL, **{f"sweep.{name}": value for name, value in settings.items()}}
    experiment: Experiment = load_experiment(DIGITS, overrides)
    asked: list[float] = []

    def images(ratio: float) -> ImageSet:
        asked.append(ratio)
        count = int(np.ceil(max([1.0, *asked]) * 10))
        return splits.generator.take(first_per_class(splits.generator.labels, np.full(10, count)))

    trials = run_sweep(
        RunFolder(folder), experiment, splits.train, splits.validation, images, prior=None, max_ratio=4.0
    )
    return trials, asked


@pytest.mark.long
def test_images_are_made_when_a_trial_needs_them_and_once(tmp_path: Path, splits: Splits) -> None:
    trials, asked = swept(tmp_path, splits, num_trials=8, prior="none", sampler="random")
    assert len(trials) == 8
    assert asked[0] == 0.0
    assert asked[1:] == sorted(asked[1:])  # each time more
    assert asked[-1] == max(t.setting.synthetic_ratio for t in trials)
    with (tmp_path / TRIALS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial_id"] for row in rows] == [f"t{i:05d}" for i in range(8)]
    assert all(float(row["seconds"]) > 0 and row["num_synthetic"].isdigit() for row in rows)
    first = [(t.trial_id, t.setting, t.accuracy) for t in trials]
    again, _ = swept(tmp_path / "again", splits, num_trials=8, prior="none", sampler="random", concurrency=2)
    assert [(t.trial_id, t.setting, t.accuracy) for t in again] == first  # the same seed, the same sweep


def test_images_that_do_not_come_end_the_sweep(tmp_path: Path, splits: Splits) -> None:
    e = load_experiment(DIGITS, {**SMALL, "sweep.prior": "none", "sweep.num_trials": 3})
    few = splits.generator.take(first_per_class(splits.generator.labels, np.full(10, 1)))
    images = lambda ratio: few  # noqa: E731
    with pytest.raises(WorkError, match=r"a trial at ratio .* needs more synthetic images"):
        run_sweep(RunFolder(tmp_path), e, splits.train, splits.validation, images, prior=None, max_ratio=4.0)
    with (tmp_path / TRIALS).open(newline="") as file:
        assert next(csv.reader(file))[:2] == ["trial_id", "status"]
        assert next(csv.reader(file))[:2] == ["t00000", "complete"]  # what was tried is told


def test_a_trial_that_diverges_is_failed_and_the_search_goes_on(tmp_path: Path, splits: Splits) -> None:
    space = {"learning_rate": {"choices": [2e-3, 10.0]}, "optimizer": {"choices": ["sgd"]}, "lambda_1": None,
             "lambda_2": None, "clusters_per_class": None, "synthetic_ratio": {"choices": [0, 1]}}  # fmt: skip
    trials, _ = swept(tmp_path, splits, num_trials=10, prior="none", sampler="grid", space=space, pruner="none")
    by_rate = {rate: {t.status for t in trials if t.setting.classifier["learning_rate"] == rate} for rate in (2e-3, 10)}
    assert by_rate[2e-3] == {"complete"}
    assert len(trials) == 5  # the grid, and ratio 0 as the file has it
    failed = [t for t in trials if t.status == "failed"]
    assert all("learning_rate" in t.error and not t.again for t in failed)
    assert all(np.isnan(t.accuracy) for t in failed)
    assert by_rate[10.0] == {"failed"}


@pytest.mark.long
def test_trials_of_two_workers(tmp_path: Path, splits: Splits) -> None:
    more = {"num_trials": 2, "prior": "none", "sampler": "random", "pruner": "none"}
    one, _ = swept(tmp_path / "one", splits, **more)
    two, _ = swept(tmp_path / "two", splits, **more, workers_per_trial=2)
    assert [t.setting for t in two] == [t.setting for t in one]
    assert [t.status for t in two] == ["complete"] * 2
    for a, b in zip(one, two, strict=True):  # each worker has batch normalisation of its own
        assert b.accuracy == pytest.approx(a.accuracy, abs=0.2)
        assert len(b.history) == len(a.history)


@pytest.mark.long
def test_a_trial_of_two_workers_that_is_stopped_early_gives_its_place_back(tmp_path: Path, splits: Splits) -> None:
    trials, _ = swept(
        tmp_path, splits, num_trials=4, prior="none", sampler="random", grace=1, reduction_factor=1.01,
        workers_per_trial=2,
    )  # fmt: skip
    assert len(trials) == 4  # a place that stayed taken would end in waiting for ever
    assert "pruned" in {t.status for t in trials}
