"""The sweep's memory: first settings first, statuses told rightly, and any kill counted once."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from ray_synth.config import Experiment, Sweep
from ray_synth.errors import WorkError
from ray_synth.runs import RunFolder
from ray_synth.sweep import LEDGER, LedgerSearch, Setting, best_trial, default_setting, read_ledger, write_trials

COUNTS = np.full(10, 10)
EXPERIMENT = Experiment(name="x", sweep=Sweep(num_trials=6))
FIRST = [default_setting(EXPERIMENT, 10, ratio) for ratio in (0.0, 5.0)]


def search(folder: RunFolder) -> LedgerSearch:
    return LedgerSearch(folder, EXPERIMENT, COUNTS, first=FIRST, max_ratio=16.0, progress=lambda _: None)


def finish(engine: LedgerSearch, tune_id: str, accuracy: float, evaluations: int = 5, *, error: bool = False) -> None:
    result = {"accuracy": accuracy, "training_iteration": evaluations, "time_total_s": 1.0}
    for step in range(1, evaluations + 1):
        engine.on_trial_result(tune_id, {**result, "training_iteration": step})
    engine.on_trial_complete(tune_id, result, error=error)


def test_ratio_zero_and_the_prediction_come_first(tmp_path: Path) -> None:
    engine = search(RunFolder(tmp_path))
    configs = [engine.suggest(f"tune{i}") for i in range(6)]
    assert [config["trial_id"] for config in configs] == [f"t{i:05d}" for i in range(6)]
    assert [Setting(**config["setting"]) for config in configs[:2]] == FIRST
    for config in configs[2:]:
        setting = config["setting"]
        assert 0 <= setting["synthetic_ratio"] <= 16
        assert 0.01 <= setting["lambda_1"] <= 1
        assert 0.01 <= setting["lambda_2"] <= 1
        assert 5 <= setting["num_clusters"] <= 40


def test_statuses_are_told_as_they_are(tmp_path: Path) -> None:
    engine = search(RunFolder(tmp_path))
    for i in range(4):
        engine.suggest(f"tune{i}")
    finish(engine, "tune0", 0.8)
    finish(engine, "tune1", 0.7, evaluations=2)
    finish(engine, "tune2", math.nan)
    engine.on_trial_complete("tune3", None, error=True)
    engine.record_error("t00003", "Traceback ...\nValueError: out of luck\n")
    assert [trial.status for trial in engine.trials] == ["complete", "pruned", "failed", "failed"]
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert [trial.state for trial in engine.study.trials] == states
    errors = [trial.error for trial in read_ledger(RunFolder(tmp_path))[1]]
    assert errors == ["", "", "its accuracy is not a number", "ValueError: out of luck"]
    rebuilt = search(RunFolder(tmp_path))
    assert [trial.state for trial in rebuilt.study.trials] == states[:2]
    assert rebuilt.study.best_value == 0.8
    assert rebuilt.left == 4
    assert [rebuilt.suggest(f"again{i}")["trial_id"] for i in range(3)] == ["t00002", "t00003", "t00004"]


def test_a_kill_loses_no_trial_and_counts_none_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    engine = search(folder)
    configs = [engine.suggest(f"tune{i}") for i in range(4)]
    finish(engine, "tune1", 0.9)
    # Killed here, in the middle of a line.
    (tmp_path / LEDGER).write_bytes((tmp_path / LEDGER).read_bytes() + b'{"event": "ended", "trial_')
    again = search(folder)
    assert again.left == 5
    retried = [again.suggest(f"again{i}") for i in range(5)]
    assert retried[:3] == [configs[0], configs[2], configs[3]]
    assert [config["trial_id"] for config in retried[3:]] == ["t00004", "t00005"]
    for i in range(5):
        finish(again, f"again{i}", 0.5 + i / 100)
    _, trials = read_ledger(folder)
    assert sorted(trial.trial_id for trial in trials) == [f"t{i:05d}" for i in range(6)]
    assert search(folder).left == 0
    write_trials(folder, trials)
    lines = (tmp_path / "sweep" / "trials.csv").read_text().splitlines()
    assert lines[0].startswith("trial_id,status,seconds,accuracy,synthetic_ratio,lambda_1,lambda_2,num_clusters")
    assert len(lines) == 7


def test_a_setting_outside_the_ranges_is_tried_as_it_is(tmp_path: Path) -> None:
    experiment = EXPERIMENT.model_copy(
        update={"classifier": EXPERIMENT.classifier.model_copy(update={"lambda_1": 0.0, "lambda_2": 7.0})}
    )
    first = [default_setting(experiment, 10, 3.0)]
    engine = LedgerSearch(RunFolder(tmp_path), experiment, COUNTS, first=first, max_ratio=16.0, progress=lambda _: None)
    assert Setting(**engine.suggest("tune0")["setting"]) == first[0]


def test_the_best_is_complete_and_of_equals_the_cheapest(tmp_path: Path) -> None:
    engine = search(RunFolder(tmp_path))
    for i in range(4):
        engine.suggest(f"tune{i}")
    finish(engine, "tune0", 0.9)
    finish(engine, "tune1", 0.9)
    finish(engine, "tune2", 0.99, evaluations=2)
    assert best_trial(engine.trials).setting == FIRST[0]
    with pytest.raises(WorkError, match="no trial of the sweep is complete"):
        best_trial([trial for trial in engine.trials if trial.status != "complete"])
