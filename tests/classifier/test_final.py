"""Final trainings on machines that die: they go on while something new is kept between deaths, and end where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import ray.train.torch

from ray_synth.classifier import final
from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.final import Training, train_final
from ray_synth.classifier.setting import Setting
from ray_synth.config import load_experiment
from ray_synth.data.splits import Splits
from ray_synth.errors import WorkError
from ray_synth.nodes import Nodes
from ray_synth.runs import RunFolder
from tests.conftest import DIGITS

ONE = Training(name="best-0", setting=Setting(synthetic_ratio=1.0, num_clusters=10), seed=0)


def dying(folder: RunFolder, lives: list[bytes]) -> type:
    """A trainer that keeps one of these checkpoints in each of its lives, and is through after the last."""

    class Trainer:
        def __init__(self, *given: Any, run_config: Any, **words: Any):
            self.name = run_config.name

        def fit(self) -> None:
            if not lives:
                folder.write(ONE.file, b"weights")
                return
            folder.write(ONE.checkpoint, lives.pop(0))
            raise ray.train.TrainingFailedError("the machine is gone")

    return Trainer


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(final, "cluster_nodes", lambda: Nodes(cpus=2, gpus=(), most_cpus=2, most_gpus=(), grows=False))


@pytest.fixture
def data(splits: Splits) -> ExperimentData:
    e = load_experiment(DIGITS)
    return ExperimentData.of(e, splits.train, splits.generator, splits.validation)


@pytest.mark.usefixtures("here")
def test_trainings_go_on_while_they_get_further_between_deaths(
    tmp_path: Path, data: ExperimentData, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lives = RunFolder(tmp_path), [bytes([life]) for life in range(7)]
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", dying(folder, lives))
    train_final(folder, [ONE], data, num_workers=1)
    assert (lives, folder.read(ONE.file)) == ([], b"weights")


@pytest.mark.usefixtures("here")
def test_trainings_that_get_no_further_have_failed(
    tmp_path: Path, data: ExperimentData, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)

    class Trainer(dying(folder, [])):  # type: ignore[misc]
        def fit(self) -> None:
            raise ray.train.TrainingFailedError("the machine is gone")

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    with pytest.raises(WorkError, match="a final training failed: the machine is gone"):
        train_final(folder, [ONE], data, num_workers=1)
