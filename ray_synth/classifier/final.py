"""Named settings in, trained classifiers in the run folder out: the final trainings, on Ray Train; and read back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.mixture import region_rows
from ray_synth.classifier.models import build_model, load_trainable, undrawn
from ray_synth.classifier.setting import Setting
from ray_synth.classifier.train import fit
from ray_synth.config import Classifier
from ray_synth.data.source import ImageSource
from ray_synth.errors import Spoiled, WorkError
from ray_synth.nodes import cluster_nodes, tell
from ray_synth.runs import RunFolder
from ray_synth.training.checkpoint import FolderCheckpoints, read_tensors, sealed, trainable_state
from ray_synth.training.team import Team, check_workers, run_team

CLASSIFIER = "model/classifier.safetensors"
DESCRIPTION = "model/classifier.json"
SAID_EVERY = 60.0  # seconds between two lines about a training that goes on


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

    def there(self, folder: RunFolder) -> bool:
        """Whether it is done, with all that it leaves."""
        looked_at = (self.history, self.regions, self.region_report) if self.diagnosed else ()
        return all(map(folder.exists, (self.file, *looked_at)))

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
    missing = [training for training in trainings if not training.there(folder)]
    progress(len(trainings) - len(missing))
    if not missing:
        return
    nodes = cluster_nodes()
    check_workers("classifier.num_workers", num_workers, nodes.most_cpus, sum(nodes.most_gpus))
    run_team(
        _train_all,
        _Work(url=folder.absolute_url, trainings=missing, data=data),
        what="a final training",
        num_workers=num_workers,
        on_gpus=nodes.on_gpus,
        kept=lambda: _state(folder, missing),
        meanwhile=lambda: progress(sum(training.there(folder) for training in trainings)),
    )
    _refuse_failed(folder, missing)


def _state(folder: RunFolder, trainings: Sequence[Training]) -> list[str | None]:
    """Changes whenever a training ends or keeps a checkpoint."""
    return [folder.version(name) for training in trainings for name in (training.file, training.checkpoint)]


def _refuse_failed(folder: RunFolder, trainings: Sequence[Training]) -> None:
    for training in trainings:
        if folder.exists(training.failure):
            reason = folder.read(training.failure).decode(errors="replace")
            folder.remove(training.failure)
            raise WorkError(f"a final training failed: {reason}")


def _train_all(work: _Work, team: Team) -> None:
    folder = RunFolder.on_worker(work.url)
    for training in work.trainings:
        if training.there(folder):  # trained before a worker of this team died
            continue
        checkpoints = FolderCheckpoints(folder, training.checkpoint)
        try:
            fitted = fit(
                *work.data.at(training.setting, team),
                seed=training.seed,
                team=replace(team, shown=_teller(training.name)) if team.rank == 0 else team,
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
            tensors = trainable_state(fitted.model)
            folder.write(training.file, sealed(tensors, {"accuracy": repr(fitted.accuracy)}))
            checkpoints.remove()
        team.report({"accuracy": fitted.accuracy})


def _teller(name: str) -> Callable[[int, int, float | None], None]:
    """Of a training that takes long, tells who watches the run how far it is, now and then."""
    said = time.monotonic()

    def shown(done: int, updates: int, waited: float | None) -> None:
        nonlocal said
        if time.monotonic() - said < SAID_EVERY or done == updates:
            return
        said = time.monotonic()
        images = "" if waited is None else f", {100 * waited:.0f} % of the time waited for images"
        tell(f"train: {name}: {done:,} of {updates:,} updates{images}")

    return shown


def load_run(folder: RunFolder, training: Training, settings: Classifier, like: ImageSource) -> tuple[nn.Module, float]:
    """A trained classifier in evaluation mode, and its validation accuracy. `like` gives image shape and classes.

    Raises:
        Spoiled: its file is not what was written.
    """
    tensors, metadata = read_tensors(folder, training.file)
    model = build_model(undrawn(settings), like.shape, like.class_names, seed=0)
    try:
        load_trainable(model, tensors)
        return model.eval(), float(metadata["accuracy"])
    except (KeyError, ValueError, RuntimeError) as error:  # a file of another model, whole in itself
        reason = str(error).splitlines()[0]
        raise Spoiled(
            f"{folder.url}/{training.file} holds another model ({reason}); move it away and run the same command "
            "again, which trains it anew",
            training.file,
        ) from None


def save_classifier(folder: RunFolder, model: nn.Module, description: Mapping[str, Any]) -> None:
    """The deliverable: weights (of a frozen model, what was trained), and beside them what to build around them."""
    weights = sealed(trainable_state(model))
    folder.write(CLASSIFIER, weights)
    folder.write_json(DESCRIPTION, {**description, "weights_sha256": hashlib.sha256(weights).hexdigest()})


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What is read of a classifier's description."""

    classifier: Classifier
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    weights_sha256: str | None = None  # an older version wrote none


def load_classifier(folder: RunFolder) -> tuple[nn.Module, dict[str, Any]]:
    """The deliverable, ready to predict (`classifier.predict.logits_of`), and its description with `class_names`.

    Raises:
        Spoiled: one of its two files is not what was written.
    """
    description, plain = folder.read_record(DESCRIPTION, _Description), folder.read_json(DESCRIPTION)
    tensors, _ = read_tensors(folder, CLASSIFIER)
    if description.weights_sha256 not in (None, folder.sha256(CLASSIFIER)):
        raise Spoiled(
            f"{folder.url}/{CLASSIFIER} is not what was written: its SHA-256 is another than {DESCRIPTION} says; move "
            "both away, and `ray-synth train` makes them anew",
            CLASSIFIER,
            DESCRIPTION,
        )
    model = build_model(undrawn(description.classifier), description.shape, description.class_names, seed=0)
    load_trainable(model, tensors)
    return model.eval(), plain
