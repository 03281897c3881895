"""What the lightweight algorithm remembers is told before anything starts, and refused where memory is too small."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_synth.config import load_experiment
from ray_synth.errors import InputError
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages import Sweep

from ..conftest import DIGITS, TINY


def job(folder: Path, algorithm: str) -> Run:
    changes = {**TINY, "classifier.algorithm": algorithm}
    return Run(load_experiment(DIGITS, changes), RunFolder(folder), Reporter())


def test_too_little_memory_is_found_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembers = job(tmp_path / "run", "lightweight")
    sweep = remembers.of(Sweep)
    images = round(len(remembers.inputs.splits.train) * (1 + sweep.max_ratio))
    needed = 4 * images * 10 * 4  # of ten classes in float32, three times more while a checkpoint is written
    monkeypatch.setattr("ray_synth.stages.sweep.machine_memory", lambda: needed)
    remembers.check_places()
    assert sweep.caveats == ()
    monkeypatch.setattr("ray_synth.stages.sweep.TOLD", needed - 1)
    assert f"remembers {images:,} x 10 logits" in sweep.caveats[0]
    monkeypatch.setattr("ray_synth.stages.sweep.machine_memory", lambda: needed - 1)
    with pytest.raises(InputError, match=r"remembers .* GiB left; type --set classifier\.algorithm=full$"):
        remembers.check_places()
    plain = job(tmp_path / "run", "full")
    plain.check_places()
    assert plain.of(Sweep).caveats == ()
