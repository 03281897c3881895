"""A training that is killed ends in the weights of one that is not; several workers follow the curve of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier.mixture import TrainingData, mix
from ray_synth.classifier.train import Fitted, _Training, fit
from ray_synth.config import Augment, Classifier, Data, PartitionSettings, Schedule, Targets
from ray_synth.data.readers import read_digits
from ray_synth.data.splits import Splits, split
from ray_synth.training.team import Team
from tests.classifier.tiny_clip import register_tiny_clips

SMALL = {"updates": 12, "evaluations": 4, "batch_size": 16}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "ema_decay": 0.9,
        "augment": Augment(flip=0.5, resized_crop=(0.5, 1.0)),
        "targets": Targets(mixup=0.2, cutmix=1.0, label_smoothing=0.1),
        "schedule": Schedule(name="multistep", warmup=0.1),
    },
    "diagnosed more than once": {"batch_size": 64},
    "lightweight": {"algorithm": "lightweight"},
    "lamb and binary": {"optimizer": "lamb", "targets": Targets(binary=True, label_smoothing=0.1)},
    "adapters with dropout": {"model": "open_clip:tiny-ViT", "batch_size": 8},
}


def data_of(splits: Splits, settings: Classifier) -> TrainingData:
    return mix(
        splits.train,
        splits.generator,
        synthetic_counts(splits.train.counts, 2, "fill"),
        partition=PartitionSettings(num_clusters=20, iterations=20),
        seed=0,
        online=settings.algorithm == "lightweight",
    )


class Interrupted(Exception):
    pass


class Kept:
    """Checkpoints in memory; the training is cut off after the `cut`-th."""

    def __init__(self, cut: int = 10**6):
        self.data: bytes | None = None
        self.saves, self.cut = 0, cut

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data
        self.saves += 1
        if self.saves == self.cut:
            raise Interrupted


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_training_that_was_cut_off_ends_in_the_same_weights(name: str, splits: Splits, tmp_path: Path) -> None:
    given = {**SMALL, **RECIPES[name]}
    if str(given.get("model")).startswith("open_clip"):
        given["weights"] = register_tiny_clips(tmp_path)["tiny-ViT"]
    settings = Classifier(**given)
    data = data_of(splits, settings)

    def train(checkpoints: Kept) -> Fitted:
        return fit(data, splits.validation, settings, seed=1, checkpoints=checkpoints, diagnosed=True)

    whole, cut = train(Kept()), Kept(cut=2)
    with pytest.raises(Interrupted):
        train(cut)
    resumed = train(cut)
    assert cut.saves == 3
    assert resumed.accuracy == whole.accuracy
    assert resumed.history == whole.history
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


KILLED = """
import os, signal, sys
from safetensors.torch import save_file
from tests.classifier.test_resume import SMALL, data_of
from ray_synth.classifier.train import fit
from ray_synth.config import Classifier, Data
from ray_synth.data.readers import read_digits
from ray_synth.data.splits import split
from ray_synth.runs import RunFolder
from ray_synth.training.checkpoint import FolderCheckpoints
splits, settings = split(read_digits(), Data(), 0), Classifier(**SMALL)
checkpoints = FolderCheckpoints(RunFolder(sys.argv[1]), "training.checkpoint")
def report(accuracy):
    report.count += 1
    if report.count == 3 and len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
report.count = 0
fitted = fit(data_of(splits, settings), splits.validation, settings, seed=1, checkpoints=checkpoints, report=report)
save_file(fitted.model.state_dict(), os.path.join(sys.argv[1], "weights.safetensors"))
"""


@pytest.mark.slow
def test_a_process_that_was_killed_ends_in_the_same_bytes(tmp_path: Path) -> None:
    def start(folder: Path, *more: str) -> int:
        folder.mkdir(exist_ok=True)
        return subprocess.run([sys.executable, "-c", KILLED, str(folder), *more], cwd=Path.cwd()).returncode

    assert start(tmp_path / "whole") == 0
    assert start(tmp_path / "killed", "kill") == -signal.SIGKILL
    assert (tmp_path / "killed" / "training.checkpoint").exists()
    assert start(tmp_path / "killed") == 0
    files = [tmp_path / name / "weights.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


TEAM = Classifier(updates=50, evaluations=1, batch_size=32, learning_rate=1e-3)


def curve(settings: Classifier, team: Team) -> list[float]:
    splits = split(read_digits(), Data(), 0)
    training = _Training(data_of(splits, settings), splits.validation, settings, seed=0, team=team)
    return [float(training.loop.update(training.loss)) for _ in range(settings.updates)]


def _worker(rank: int, settings: Classifier, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    prepare = nn.parallel.DistributedDataParallel
    found = curve(settings, Team(rank=rank, size=2, prepare=prepare))
    np.save(f"{out}/{rank}.npy", np.asarray(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads now and then end an interpreter that takes itself apart with SIGABRT


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"algorithm": "lightweight"}, {"targets": Targets(label_smoothing=0.1)}])
def test_two_workers_follow_the_loss_curve_of_one(change: dict[str, Any], tmp_path: Path) -> None:
    import socket

    settings = TEAM.model_copy(update=change)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(settings, port, str(tmp_path)), nprocs=2)
    alone = curve(settings, Team())
    for rank in range(2):
        assert np.abs(np.load(tmp_path / f"{rank}.npy") - alone).max() < 1e-5
    assert alone[-1] < alone[0]
