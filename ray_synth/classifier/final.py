"""Named settings in, trained classifiers in the run folder out: the final trainings, on Ray Train; and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import torch as safetensors
from torch import nn

from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.mixture import region_rows
from ray_synth.classifier.models import build_model, load_trainable, undrawn
from ray_synth.classifier.setting import Setting
from ray_synth.classifier.train import fit
from ray_synth.config import Classifier
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError, WorkError
from ray_synth.nodes import cluster_nodes
from ray_synth.runs import RunFolder
from ray_synth.training.checkpoint import FolderCheckpoints, trainable_state
from ray_synth.training.team import Team, run_team

CLASSIFIER = "model/classifier.safetensors"
DESCRIPTION = "model/classifier.json"


@dataclass(frozen=True, kw_only=True)
class Training:
    """One final training: its name (`best-0`), what it trains with, and whether it is looked at on the way."""

    name: str
    setting: Setting
    seed: int
    diagnosed: bool = False

    @property
    def file(self) -> str:
        return f"model/runs/{self.name}.safetensors"

    @property
    def checkpoint(self) -> str:
        return f"model/runs/{self.name}.checkpoint"

    @property
    def failure(self) -> str:
        """Why it cannot be trained."""
        return f"model/runs/{self.name}.failed"

    @property
    def history(self) -> str:
        return f"model/runs/{self.name}.history.json"

    @property
    def regions(self) -> str:
        return f"model/runs/{self.name}.regions.parquet"

    @property
    def region_report(self) -> str:
        return f"model/runs/{self.name}.regions.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What every worker of the final trainings is given."""

    url: str  # of the run folder
    trainings: Sequence[Training]
    data: ExperimentData


def train_final(
    folder: RunFolder,
    trainings: Sequence[Training],
    data: ExperimentData,
    *,
    num_workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Train what is not in the run folder yet. Ray must be up. A training that was killed goes on from a checkpoint."""
    missing = [training for training in trainings if not folder.exists(training.file)]
    progress(len(trainings) - len(missing))
    if not missing:
        return
    nodes = cluster_nodes()
    check_workers(num_workers, sum(nodes.most_gpus) or int(nodes.most_cpus), "GPUs" if nodes.on_gpus else "CPUs")
    run_team(
        _train_all,
        _Work(url=folder.absolute_url, trainings=missing, data=data),
        what="a final training",
        num_workers=num_workers,
        on_gpus=nodes.on_gpus,
        kept=lambda: _state(folder, missing),
        meanwhile=lambda: progress(sum(folder.exists(training.file) for training in trainings)),
    )
    _refuse_failed(folder, missing)


def _state(folder: RunFolder, trainings: Sequence[Training]) -> list[str | None]:
    """Changes whenever a training ends or keeps a checkpoint."""
    return [folder.version(name) for training in trainings for name in (training.file, training.checkpoint)]


def _refuse_failed(folder: RunFolder, trainings: Sequence[Training]) -> None:
    for training in trainings:
        if folder.exists(training.failure):
            reason = folder.read(training.failure).decode()
            folder.remove(training.failure)
            raise WorkError(f"a final training failed: {reason}")


def check_workers(num_workers: int, slots: int, kind: str = "CPUs") -> None:
    """Raise InputError for more workers than there are, or could be, CPUs (of a cluster with GPUs: GPUs)."""
    if num_workers > slots:
        raise InputError(
            f"classifier.num_workers must be <= {slots}, the {kind} that there can be here, got {num_workers}; "
            f"type --set classifier.num_workers={slots}, or raise max_workers in cluster.yaml"
        )


def _train_all(work: _Work, team: Team) -> None:
    folder = RunFolder.on_worker(work.url)
    for training in work.trainings:
        if folder.exists(training.file):  # trained before a worker of this team died
            continue
        checkpoints = FolderCheckpoints(folder, training.checkpoint)
        try:
            fitted = fit(
                *work.data.at(training.setting),
                seed=training.seed,
                team=team,
                checkpoints=checkpoints,
                diagnosed=training.diagnosed,
            )
        except WorkError as error:
            if team.size > 1:
                raise  # the others wait for this one
            folder.write(training.failure, str(error).encode())  # the same again next time
            return
        if team.rank == 0:
            if fitted.history:
                folder.write_json(training.history, fitted.history)
                folder.write(training.regions, region_rows(fitted.data))
                folder.write_json(training.region_report, fitted.data.report().to_dict())
            tensors = safetensors.save(trainable_state(fitted.model), metadata={"accuracy": repr(fitted.accuracy)})
            folder.write(training.file, tensors)
            checkpoints.remove()
        team.report({"accuracy": fitted.accuracy})


def load_run(folder: RunFolder, training: Training, settings: Classifier, like: ImageSource) -> tuple[nn.Module, float]:
    """A trained classifier in evaluation mode, and its validation accuracy. `like` gives image shape and classes."""
    data = folder.read(training.file)
    model = build_model(undrawn(settings), like.shape, like.class_names, seed=0)
    load_trainable(model, safetensors.load(data))
    return model.eval(), float(_metadata(data)["accuracy"])


def save_classifier(folder: RunFolder, model: nn.Module, description: Mapping[str, Any]) -> None:
    """The deliverable: weights (of a frozen model, what was trained), and beside them what to build around them."""
    folder.write(CLASSIFIER, safetensors.save(trainable_state(model)))
    folder.write_json(DESCRIPTION, description)


def load_classifier(folder: RunFolder) -> tuple[nn.Module, dict[str, Any]]:
    """The deliverable, ready to predict (`classifier.predict.logits_of`), and its description with `class_names`."""
    description: dict[str, Any] = folder.read_json(DESCRIPTION)
    settings = Classifier.model_validate(description["classifier"])
    height, width, channels = description["shape"]
    model = build_model(undrawn(settings), (height, width, channels), tuple(description["class_names"]), seed=0)
    load_trainable(model, safetensors.load(folder.read(CLASSIFIER)))
    return model.eval(), description


def _metadata(data: bytes) -> dict[str, str]:
    """The string table at the head of a safetensors file: eight bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return metadata
