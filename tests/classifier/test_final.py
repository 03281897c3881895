"""Final trainings on machines that die: they go on while something new is kept between deaths, and end where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.train
import ray.train.torch
import torch

from ray_synth.classifier import final
from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.final import (
    CLASSIFIER,
    DESCRIPTION,
    Training,
    load_classifier,
    load_run,
    save_classifier,
    train_final,
)
from ray_synth.classifier.models import build_model
from ray_synth.classifier.setting import Setting
from ray_synth.config import load_experiment
from ray_synth.data.splits import Splits
from ray_synth.errors import Spoiled, WorkError
from ray_synth.nodes import Nodes
from ray_synth.runs import RunFolder
from ray_synth.training.checkpoint import sealed, trainable_state
from ray_synth.training.team import Team
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
    e = load_experiment(DIGITS, {"classifier.updates": 6, "classifier.evaluations": 2})
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


def test_a_long_training_says_how_far_it_is(
    tmp_path: Path, data: ExperimentData, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(final, "tell", said.append)
    for every, waited in ((60.0, None), (-1.0, None), (-1.0, 0.256)):
        monkeypatch.setattr(final, "SAID_EVERY", every)
        monkeypatch.setattr("ray_synth.classifier.train._Training.waited", waited)
        folder = RunFolder(tmp_path / f"{every} {waited}")
        (tmp_path / f"{every} {waited}").mkdir()
        for rank in (1, 0):  # the others are silent
            alone = Team(rank=rank, device=torch.device("cpu"))
            final._train_all(final._Work(url=folder.url, trainings=[ONE], data=data), alone)
    updates = data.experiment.classifier.updates
    lines = [f"train: best-0: {done:,} of {updates:,} updates" for done in range(1, updates)]
    assert said == [*lines, *(f"{line}, 26 % of the time waited for images" for line in lines)]


def test_a_classifier_that_was_changed_is_not_used(splits: Splits, tmp_path: Path) -> None:
    folder, settings = RunFolder(tmp_path), load_experiment(DIGITS).classifier
    like = splits.train.take(np.zeros(1, dtype=np.int64))
    model = build_model(settings, like.shape, like.class_names, seed=3)
    names = list(like.class_names)
    description = {"classifier": settings.model_dump(mode="json"), "shape": list(like.shape), "class_names": names}
    save_classifier(folder, model, description)
    folder.write(ONE.file, sealed(trainable_state(model), {"accuracy": "0.75"}))
    loaded, said = load_classifier(folder)
    assert said.items() >= description.items()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
    assert load_run(folder, ONE, settings, like)[1] == 0.75

    for name, load in (
        (CLASSIFIER, lambda: load_classifier(folder)),
        (ONE.file, lambda: load_run(folder, ONE, settings, like)),
    ):
        whole = folder.read(name)
        flipped = bytearray(whole)
        flipped[-40] ^= 1
        for data in (bytes(flipped), whole[:-9], b""):
            folder.write(name, data)
            with pytest.raises(Spoiled, match=rf"{name} cannot be read: .*; move it away"):
                load()
        folder.write(name, whole)
        load()
    other = build_model(settings, like.shape, like.class_names, seed=4)
    folder.write(CLASSIFIER, sealed(trainable_state(other)))
    with pytest.raises(Spoiled, match=rf"its SHA-256 is another than {DESCRIPTION} says; move both away"):
        load_classifier(folder)
    folder.write(ONE.file, sealed({"a": torch.zeros(1)}))
    with pytest.raises(Spoiled, match=rf"{ONE.file} holds another model"):
        load_run(folder, ONE, settings, like)
    folder.write_json(DESCRIPTION, {**description, "shape": "wide"})
    with pytest.raises(Spoiled, match=rf"{DESCRIPTION} cannot be read: shape"):
        load_classifier(folder)
