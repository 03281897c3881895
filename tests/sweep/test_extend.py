"""More trials of a finished sweep: added once, however often the command is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_synth.config import load_experiment
from ray_synth.errors import InputError, WorkError
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages import Estimate, Sweep
from ray_synth.sweep.ledger import LEDGER, Ledger
from tests.conftest import DIGITS
from tests.sweep.test_search import ESTIMATE, run, search


def finished(folder: RunFolder, **space: Any) -> Run:
    """A run whose sweep is complete."""
    e = load_experiment(DIGITS, {"sweep.num_trials": 6, "sweep.space": space, "sweep.prior": "points"})
    folder.open_for(e)
    run(search(folder, e))
    folder.write_json("estimate.json", ESTIMATE.to_dict())
    job = Run(e, folder, Reporter())
    for stage in (job.of(Estimate), job.of(Sweep)):
        record = {"digest": stage.digest, "complete": True, "outputs": list(stage.outputs)}
        folder.write_json(f"stages/{stage.name}.json", record)
    return job


def test_an_extension_that_was_killed_at_once_is_not_made_twice(tmp_path: Path) -> None:
    job = finished(RunFolder(tmp_path))
    for _ in range(2):  # the second time as after a kill before the first new trial
        job.of(Sweep).extend(5)
        assert Ledger(job.folder).target == job.of(Sweep).total == 11


def test_a_space_that_is_used_up_is_not_extended(tmp_path: Path) -> None:
    fixed = {"lambda_1": None, "lambda_2": None, "clusters_per_class": None}
    job = finished(RunFolder(tmp_path), synthetic_ratio={"choices": [0, 1]}, **fixed)
    before = job.folder.read(LEDGER)
    with pytest.raises(InputError, match=r"no other setting than the 2 that were tried"):
        job.of(Sweep).extend(5)
    assert job.folder.read(LEDGER) == before


def test_a_folder_of_another_experiment_is_left_as_it_is(tmp_path: Path) -> None:
    job = finished(RunFolder(tmp_path))
    before = job.folder.read(LEDGER)
    other = load_experiment(DIGITS, {"name": "other", "sweep.num_trials": 6, "sweep.prior": "points"})
    with pytest.raises(InputError, match="belongs to experiment"):
        Run(other, job.folder, Reporter()).perform("sweep", extend=5)
    assert job.folder.read(LEDGER) == before


def test_the_ledger_of_other_settings_is_not_read(tmp_path: Path) -> None:
    """A folder of an older version may hold lines that this one cannot read; they are set aside unread."""
    job = finished(RunFolder(tmp_path))
    stage = job.of(Sweep)
    assert (stage.plan.split(";")[1], stage.ready) == (" 6 are there", True)
    job.folder.write(LEDGER, b'{"event": "started", "trial_id": "t00000", "value": 1}\n')
    with pytest.raises(WorkError, match="line 1 is no line of a ledger"):
        _ = stage.ready
    job.folder.write_json("stages/sweep.json", {"digest": "of old", "complete": True, "outputs": ["sweep"]})
    stage = job.of(Sweep)
    assert ("are there" in stage.plan, stage.total, stage.ready) == (False, 6, False)


def test_a_sweep_without_its_prediction_is_not_extended(tmp_path: Path) -> None:
    job = finished(RunFolder(tmp_path))
    job.folder.remove("estimate.json")
    with pytest.raises(InputError, match="holds none with these settings"):
        job.of(Sweep).extend(5)
