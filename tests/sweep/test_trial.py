"""A trial: means over seeds, early stops, failures as results, and going on after a kill."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.predict import balanced_accuracy
from ray_synth.classifier.setting import default_setting
from ray_synth.classifier.train import fit
from ray_synth.config import Experiment, load_experiment
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError, WorkError
from ray_synth.runs import RunFolder
from ray_synth.sweep import trial as room
from ray_synth.sweep.slots import TrialSlots
from ray_synth.sweep.trial import SweepData, run_trial
from ray_synth.training.team import Team
from tests.conftest import DIGITS

SMALL = {"classifier.updates": 30, "classifier.evaluations": 3, "classifier.batch_size": 16, "sweep.repeats": 2}


@pytest.fixture
def work(tmp_path: Path, splits: Splits) -> SweepData:
    return SweepData(
        url=str(tmp_path),
        data=ExperimentData(
            experiment=load_experiment(DIGITS, SMALL),
            real=splits.train,
            synthetic=splits.generator,  # real digits that the classifier does not know: a perfect generator
            validation=splits.validation,
        ),
    )


def config(work: SweepData, ratio: float = 2.0, cuts: dict[int, float] | None = None, **values: Any) -> dict[str, Any]:
    setting = default_setting(work.data.experiment, 10, ratio).to_dict() | values
    return {"trial_id": "t00000", "setting": setting, "cuts": cuts or {}}


def rows_of(work: SweepData, config: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    run_trial(config, work, report=rows.append)
    return rows


def test_a_trial_reports_the_mean_over_its_seeds(work: SweepData) -> None:
    row = rows_of(work, config(work))[-1]
    assert row["status"] == "complete"
    assert len(row["history"]) == 6
    one, two = (row["history"][2], 2 * row["history"][5] - row["history"][2])
    assert row["accuracy"] == pytest.approx((one + two) / 2)
    assert row["accuracy_std"] == pytest.approx(abs(one - two) / 2)
    assert one != two
    assert 0 < row["balanced_accuracy"] <= 1
    e = work.data.experiment
    alone = fit(*work.data.at(default_setting(e, 10, 2.0)), seed=_first_seed(e))
    assert alone.accuracy == one


def _first_seed(experiment: Experiment) -> int:
    from ray_synth.seeding import derive_seed

    return derive_seed("trial", experiment.seed)


def test_a_trial_below_its_cut_stops_there(work: SweepData) -> None:
    row = rows_of(work, config(work, cuts={2: 1.1}))[-1]
    assert row["status"] == "pruned"
    assert len(row["history"]) == 2
    assert rows_of(work, config(work, cuts={2: 0.0}))[-1]["status"] == "complete"


def test_what_goes_wrong_is_a_result(work: SweepData, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> dict[str, Any]:
        def train(*args: Any, **more: Any) -> None:
            raise error

        monkeypatch.setattr(room, "fit", train)
        return rows_of(work, config(work))[-1]

    diverged = fails(WorkError("the loss is nan at update 3"))
    assert (diverged["status"], diverged["again"], diverged["error"]) == (
        "failed",
        False,
        "the loss is nan at update 3",
    )
    assert math.isnan(diverged["accuracy"])
    broken = fails(RuntimeError("CUDA error: launch failure\nmore"))
    assert (broken["again"], broken["error"]) == (True, "RuntimeError: CUDA error: launch failure")


def test_what_goes_wrong_for_one_worker_of_several_is_raised(work: SweepData, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*args: Any, **more: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(room, "fit", train)
    monkeypatch.setattr(type(work.data), "at", lambda *given: (None, None, None))  # nobody is there to share with
    said: list[Any] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        run_trial(config(work), work, report=said.append, team=Team(rank=1, size=2))
    assert not said


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_a_long_trial_goes_on_where_it_was_killed(work: SweepData, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    whole = rows_of(work, config(work))[-1]
    monkeypatch.setattr(room, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(room, "SAY_EVERY", -1.0)
    said: list[Any] = []

    def report(row: dict[str, Any]) -> None:
        said.append(row)
        if len(said) == after + 1:
            raise Killed  # after the checkpoint of pass `after`, before that of the next

    with pytest.raises(Killed):
        run_trial(config(work), work, report=report)
    rest = rows_of(work, config(work))
    assert rest[-1]["history"] == whole["history"]
    assert rest[-1]["balanced_accuracy"] == whole["balanced_accuracy"]
    assert len(rest[0]["history"]) == after + 1  # and no pass was made twice
    assert RunFolder(work.url).list("sweep/running") == []


def test_balanced_accuracy_is_the_mean_of_the_classes_recall() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    logits = torch.nn.functional.one_hot(torch.tensor([0] * 8 + [0, 1]), 3).float()
    assert balanced_accuracy(logits, labels) == pytest.approx((1.0 + 0.5) / 2)  # class 2 is not there


def sweep(**settings: Any) -> Any:
    return load_experiment(DIGITS, {f"sweep.{name}": value for name, value in settings.items()}).sweep


def test_slots() -> None:
    assert TrialSlots.of(sweep(), cpus=2, gpus=0) == TrialSlots(count=2, gpus=0.0, workers=1)
    assert TrialSlots.of(sweep(), cpus=16, gpus=8) == TrialSlots(count=8, gpus=1.0, workers=1)
    assert TrialSlots.of(sweep(gpus_per_trial=0.25), cpus=16, gpus=2).count == 8
    assert TrialSlots.of(sweep(workers_per_trial=4), cpus=16, gpus=8) == TrialSlots(count=2, gpus=4.0, workers=4)
    assert TrialSlots.of(sweep(gpus_per_trial=0.4), cpus=16, gpus=2).count == 4  # two on each
    assert TrialSlots.of(sweep(concurrency=1), cpus=2, gpus=0).count == 1


def test_a_sweep_that_cannot_be_placed_says_so() -> None:
    with pytest.raises(InputError, match=r"concurrency must be <= 2.*got 3; type --set sweep.concurrency=2"):
        TrialSlots.of(sweep(concurrency=3), cpus=2, gpus=0)
    with pytest.raises(InputError, match=r"workers_per_trial must be <= 2, the GPUs here, got 4"):
        TrialSlots.of(sweep(workers_per_trial=4), cpus=16, gpus=2)
