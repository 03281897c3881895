"""Searching the model and its weights: files by content, paths that workers find, and what cannot be built refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from ray_synth.classifier.models import build_model
from ray_synth.config import Experiment, load_experiment, with_absolute_paths
from ray_synth.errors import InputError
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages import Sweep
from ray_synth.training.checkpoint import trainable_state
from tests.conftest import DIGITS


def searching(**choices: list[Any]) -> Experiment:
    space = {name: {"choices": values} for name, values in choices.items()}
    return load_experiment(DIGITS, {"sweep.space": space})


def test_weights_are_known_by_content_and_found_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    e = searching(weights=[None, "w.safetensors"])
    found = []
    for seed in (0, 1):
        model = build_model(e.classifier, (8, 8, 1), tuple("0123456789"), seed=seed)
        save_file(trainable_state(model), tmp_path / "w.safetensors")
        found.append(Run(e, RunFolder(tmp_path / "run"), Reporter()).inputs.classifier_files)
    assert found[0] != found[1]
    space = Run(e, RunFolder(tmp_path / "run"), Reporter()).of(Sweep).space
    setting = space.setting({**space.params(space.default), "weights": 1})
    assert setting.classifier["weights"] == str(tmp_path / "w.safetensors")
    assert with_absolute_paths(e).sweep.space["weights"] == space.dimensions["weights"]


def test_a_model_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    for name, choice in (("model", "timm:nobody_knows_it"), ("weights", "nowhere.safetensors")):
        e = searching(**{name: ["small_cnn" if name == "model" else None, choice]})
        with pytest.raises(InputError, match=rf"sweep.space.{name}: '{choice}' does not do"):
            Run(e, RunFolder(tmp_path / "run"), Reporter())
