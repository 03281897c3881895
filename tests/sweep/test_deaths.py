"""A worker that dies: its trial is run again, a few times, and until then it has no result that others go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from ray_synth.runs import RunFolder
from ray_synth.sweep.slots import TrialSlots
from ray_synth.sweep.tuner import TRIAL_DEATHS, LedgerSearcher
from tests.sweep.test_search import experiment, search

DONE = {"status": "complete", "accuracy": 0.8, "history": [0.8], "seconds": 1.0}


def searcher(folder: Path, num_trials: int) -> LedgerSearcher:
    counts = np.full(10, 10)
    slots = TrialSlots(count=2, gpus=0.0, workers=1)
    return LedgerSearcher(
        search(RunFolder(folder), experiment(num_trials=num_trials)), counts, counts * 100, slots, lambda *_: None
    )


def proposed(given: Any) -> str:
    assert isinstance(given, dict)
    return str(given["trial_id"])


def test_a_trial_is_run_again_when_its_worker_dies_and_fails_in_the_end(tmp_path: Path) -> None:
    one = searcher(tmp_path, 2)
    assert [proposed(one.suggest("a")), proposed(one.suggest("b"))] == ["t00000", "t00001"]
    for death in range(TRIAL_DEATHS):
        one.on_trial_complete("a" if death == 0 else f"a{death}", error=True)
        assert "t00000" not in one.search.ledger.ended
        assert proposed(one.suggest(f"a{death + 1}")) == "t00000"  # before anything new
    assert one.suggest("c") is None  # two are at work: wait
    one.on_trial_complete(f"a{TRIAL_DEATHS}", error=True)
    failed = one.search.ledger.ended["t00000"]
    assert (failed.status, failed.again) == ("failed", True)
    assert one.suggest("d") is None
    one.on_trial_complete("b", DONE)
    for trial_id in ("t00000", "t00001"):
        one.search.ledger.explain(trial_id, "the worker died")
    assert failed.error == one.search.ledger.ended["t00001"].error == ""
    assert one.search.ledger.ended["t00000"].error == "the worker died"
    assert one.search.ledger.ended["t00001"].accuracy == 0.8
    assert one.suggest("e") == Searcher.FINISHED


def test_a_worker_that_ended_without_its_last_word_has_died(tmp_path: Path) -> None:
    one = searcher(tmp_path, 1)
    proposed(one.suggest("a"))
    one.on_trial_result("a", {"accuracy": 0.5, "history": [0.5], "seconds": 1.0})
    one.on_trial_complete("a", {"accuracy": 0.5, "history": [0.5], "seconds": 1.0})
    assert not one.search.ledger.ended
    assert proposed(one.suggest("b")) == "t00000"
    one.on_trial_complete("b", DONE)
    assert one.suggest("c") == Searcher.FINISHED
