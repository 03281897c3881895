"""A run among two generators from end to end: the one whose labels are wrong is ranked last and trained on least."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ray_synth.sweep.ledger import LEDGER

from ..conftest import DIGITS
from ..generator.several import write_generator

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "data.shots": 4,
    "generate": {"images_per_class": 12, "chunk_size": 12},
    "classifier": {"updates": 40, "evaluations": 2, "batch_size": 16},
    "sweep": {"num_trials": 4, "space": {"lambda_2": None, "clusters_per_class": None}},
    "evaluate.repeats": 1,
}


@pytest.mark.long
def test_the_one_with_wrong_labels_is_found_out(tmp_path: Path) -> None:
    """Killed in the sweep, and continued."""
    folders = {
        "wrong": write_generator(tmp_path / "wrong", seed=1, each=12, wrong=1),  # the first is not the best
        "right": write_generator(tmp_path / "right", seed=2, each=12),
    }
    settings = {"generator": {"kind": "folder", "path": folders}, **SMALL}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ray_synth.cli", "run", str(DIGITS), "--out", str(out), *words]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 300
    while not (out / LEDGER).exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = (out / LEDGER).read_text().splitlines()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    assert (out / LEDGER).read_text().splitlines()[: len(before)] == before

    first, last = json.loads((out / "ranking.json").read_text())
    assert (first["name"], last["name"]) == ("right", "wrong")
    assert first["probability"] > 0.9
    assert json.loads((out / "estimate.json").read_text()) == first["estimate"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["predicted_generator"] == "right"
    assert summary["best_generator"] in ("right", None)
    assert summary["best_setting"]["generator"] == (summary["best_generator"] or "")
    with (out / "sweep" / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert [trial["generator"] for trial in trials[:2]] == ["right", ""]
    compared = json.loads((out / "model" / "settings.json").read_text())
    assert (compared["real_only"]["generator"], compared["at_predicted"]["generator"]) == ("", "right")
    assert summary["label_fidelity"] > 0.6  # of the images that may be trained on, not of both generators'
    page = (out / "report.html").read_text()
    assert "ranks <b>right</b> first" in page
    assert "best-ranked generator" in done.stdout
    assert "wrong" in done.stdout
