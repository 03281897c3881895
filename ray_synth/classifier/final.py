"""Named settings in, trained classifiers in the run folder out: the final trainings, on Ray Train workers."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import torch as safetensors
from torch import nn

from ray_synth.classifier.models import build_model
from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError, WorkError
from ray_synth.runs import RunFolder

CLASSIFIER = "model/classifier.safetensors"
DESCRIPTION = "model/classifier.json"


@dataclass(frozen=True, kw_only=True)
class Training:
    """One final training: its name (`best-0`), and what `train` needs for it."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def file(self) -> str:
        return f"model/runs/{self.name}.safetensors"


def train_final(
    folder: RunFolder,
    trainings: Sequence[Training],
    train: Callable[..., tuple[nn.Module, float]],
    *,
    num_workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Train what is not in the run folder yet. Ray must be up.

    `train(**arguments, prepare=, rank=, world_size=)` gives a model and its validation accuracy; every worker calls it.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    missing = [training for training in trainings if not folder.exists(training.file)]
    progress(len(trainings) - len(missing))
    if not missing:
        return
    gpus = ray.cluster_resources().get("GPU", 0) >= num_workers
    slots = int(ray.cluster_resources().get("CPU", 1))
    if not gpus and num_workers > slots:
        raise InputError(
            f"classifier.num_workers must be <= {slots}, the CPUs of this cluster, got {num_workers}; "
            f"type --set classifier.num_workers={slots}"
        )
    with tempfile.TemporaryDirectory(prefix="ray_synth-train-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"url": folder.absolute_url, "trainings": ray.put(missing), "train": ray.put(train)},
            scaling_config=ScalingConfig(
                num_workers=num_workers, use_gpu=gpus, resources_per_worker=None if gpus else {"CPU": 1}
            ),
            run_config=RunConfig(name="final", storage_path=scratch),
        )
        try:
            _waiting(trainer.fit, lambda: progress(sum(folder.exists(training.file) for training in trainings)))
        except TrainingFailedError as error:
            failures = [str(failure).strip() for failure in getattr(error, "worker_failures", {}).values()]
            reason = next((failure.splitlines()[-1] for failure in failures if failure), str(error))
            raise WorkError(f"a final training failed: {reason}") from error


def _worker(config: Mapping[str, Any]) -> None:
    import ray
    import ray.train
    from ray.train.torch import prepare_model

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    folder = RunFolder(config["url"])
    train = ray.get(config["train"])
    for training in ray.get(config["trainings"]):
        model, accuracy = train(**training.arguments, prepare=prepare_model, rank=rank, world_size=world_size)
        if rank == 0:
            folder.write(training.file, safetensors.save(model.state_dict(), metadata={"accuracy": repr(accuracy)}))
        ray.train.report({"accuracy": accuracy})


def _waiting(work: Callable[[], object], meanwhile: Callable[[], None]) -> None:
    """Do `work` in a thread and call `meanwhile` twice a second.

    Not in the main thread: there Ray Train takes Ctrl-C for itself and answers it with exit code 0.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        meanwhile()
    if errors:
        raise errors[0]


def load_run(folder: RunFolder, training: Training, model_name: str, like: ImageSet) -> tuple[nn.Module, float]:
    """A trained classifier in evaluation mode, and its validation accuracy. `like` gives image shape and classes."""
    data = folder.read(training.file)
    model = build_model(model_name, like.images.shape[1:], like.num_classes, seed=0)
    model.load_state_dict(safetensors.load(data))
    return model.eval(), float(_metadata(data)["accuracy"])


def save_classifier(folder: RunFolder, model: nn.Module, description: Mapping[str, Any]) -> None:
    """The deliverable: weights, and beside them what is needed to build the model around them."""
    folder.write(CLASSIFIER, safetensors.save(model.state_dict()))
    folder.write_json(DESCRIPTION, description)


def _metadata(data: bytes) -> dict[str, str]:
    """The string table at the head of a safetensors file: eight bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return metadata
