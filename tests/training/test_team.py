"""What each worker does of a batch; and one worker where memory is short, without Ray Train's own processes."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_synth.errors import WorkError
from ray_synth.runtime import ray_session
from ray_synth.training import team
from ray_synth.training.team import Team, run_team

WORDS: dict[str, Any] = {"what": "a final training", "num_workers": 1, "on_gpus": False}


def dies_twice(folder: str, alone: Team) -> None:
    """Each attempt keeps one file, and the third one ends."""
    there = len(os.listdir(folder))
    Path(folder, f"{there} of {alone.size}, {os.environ['OMP_NUM_THREADS']} thread").touch()
    if there < 2:
        os._exit(1)


def dies(folder: str, alone: Team) -> None:
    os._exit(1)


def fails(folder: str, alone: Team) -> None:
    raise ValueError("the loss is not a number")


def test_shares_of_a_batch_are_all_of_it_in_order() -> None:
    for size, count in itertools.product(range(1, 9), range(1, 20)):
        shares = [Team(rank=rank, size=size).share(count) for rank in range(size)]
        assert len({len(share) for share in shares}) == 1
        assert torch.cat(shares)[:count].tolist() == list(range(count))
        assert len(torch.cat(shares)) < count + size


@pytest.mark.slow
def test_one_worker_needs_no_ray_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "short_of_memory", lambda: True)
    monkeypatch.setattr(team, "WORKER_DEATHS", 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    looked: list[int] = []

    def kept() -> int:
        return len(list(tmp_path.iterdir()))

    with ray_session():
        run_team(dies_twice, str(tmp_path), kept=kept, meanwhile=lambda: looked.append(1), **WORDS)
        assert sorted(os.listdir(tmp_path)) == [f"{i} of 1, 1 thread" for i in range(3)]  # as in a worker of Ray Train
        assert looked
        with pytest.raises(WorkError, match="a final training failed: the loss is not a number"):
            run_team(fails, str(tmp_path), kept=kept, **WORDS)
        with pytest.raises(WorkError, match=r"a final training failed: .*died"):
            run_team(dies, str(tmp_path), kept=kept, **WORDS)
