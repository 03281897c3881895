"""Workers that die: what kills them is set aside, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_synth.config import Generate, StableDiffusion
from ray_synth.generator import Generator, generator_of
from ray_synth.generator.base import Batch
from ray_synth.runs import RunFolder
from ray_synth.sampling.attempts import HOPELESS, REASON, TRIES, Attempts
from ray_synth.sampling.chunks import Chunk, Plan
from ray_synth.sampling.conditions import conditions
from ray_synth.sampling.generate import sample_chunk

PLAN = Plan(generator_digest="0" * 64, chunk_digest="1" * 64, images_per_class=(9,) * 2, chunk_size=9)
CHUNK = Chunk("1" * 12, 1, 3, 9)


def model(class_names: Sequence[str] = ("a", "b"), **settings: object) -> Generator[Any]:
    section = StableDiffusion(model="m", **settings)
    return generator_of(section, Generate(), class_names=class_names, shape=(2, 2, 3))


class Death(BaseException):
    """As SIGKILL: nothing of the worker runs after it."""


class Worker:
    """Dies of `deadly` images, and with its first batches where `others` says so."""

    def __init__(self, deadly: set[int] = frozenset(), others: int = 0):  # type: ignore[assignment]
        self.deadly, self.others, self.deaths, self.tried = deadly, others, 0, list[int]()

    def sample(self, batch: Batch) -> Batch:
        if len(batch["index"]) == 1:
            self.tried += batch["index"]
        if self.deadly & set(batch["index"]) or (len(batch["index"]) > 1 and self.deaths < self.others):
            raise Death
        return {**batch, "image": batch["index"], "rejected": [""] * len(batch["index"])}

    def until_done(self, folder: RunFolder) -> Batch:
        """Start again after each death, as Ray does; what the dead one noted is all that is left of it."""
        while True:
            attempts = Attempts(folder, CHUNK)
            last_words = attempts._note
            attempts._note = lambda what, note=last_words: note(what) if what is not None else None  # type: ignore
            try:
                rows = conditions(PLAN, CHUNK, model(), None)
                return sample_chunk(self.sample, rows, attempts, CHUNK)
            except Death:
                self.deaths += 1
                assert self.deaths < 30


def test_an_image_that_kills_its_worker_is_set_aside_after_three_tries(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    worker = Worker({5})
    made = worker.until_done(folder)
    assert made["index"] == list(range(3, 9))
    assert made["rejected"] == ["", "", REASON, "", "", ""]
    assert worker.tried.count(5) == TRIES == 3
    assert worker.deaths == 2 + TRIES
    assert folder.list("attempts") == []


def test_two_deadly_images_and_a_chunk_of_nothing_else(tmp_path: Path) -> None:
    made = Worker({3, 8}).until_done(RunFolder(tmp_path / "two"))
    assert [i for i, r in zip(made["index"], made["rejected"], strict=True) if r] == [3, 8]
    made = Worker(set(range(3, 9))).until_done(RunFolder(tmp_path / "all"))
    assert set(made["rejected"]) == {REASON}


def test_machines_that_are_taken_back_set_nothing_aside(tmp_path: Path) -> None:
    """Deaths that hit a whole batch again and again: no image proves deadly, and the chunk is made as ever."""
    worker = Worker(others=4)
    made = worker.until_done(RunFolder(tmp_path))
    assert worker.deaths == 4
    assert made["rejected"] == [""] * 6
    assert sorted(worker.tried) == list(range(3, 9))  # each looked at once


def test_a_batch_that_is_too_much_as_a_whole_is_made_one_by_one(tmp_path: Path) -> None:
    """The machine's memory ends the worker with every batch, and with no image of it."""
    worker = Worker(others=1000)
    made = worker.until_done(RunFolder(tmp_path))
    assert made["rejected"] == [""] * 6
    assert made["image"] == list(range(3, 9))
    assert worker.deaths == HOPELESS


def test_an_error_that_is_raised_is_no_death(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def sampler(batch: Batch) -> Batch:
        raise OSError("no space left")

    for _ in range(4):
        attempts = Attempts(folder, CHUNK)
        assert not attempts.suspected
        with pytest.raises(OSError, match="no space"):
            sample_chunk(sampler, conditions(PLAN, CHUNK, model(), None), attempts, CHUNK)


@pytest.mark.parametrize("note", [b"", b'{"in_hand": "ba', b'{"in_hand": 3, "deaths": [], "cleared": null}', b"[1]"])
def test_a_torn_note_counts_for_none(tmp_path: Path, note: bytes) -> None:
    folder = RunFolder(tmp_path)
    attempts = Attempts(folder, CHUNK)
    folder.write(attempts.name, note)
    again = Attempts(folder, CHUNK)
    assert (again.deadly, again.suspected, again.cleared) == (set(), False, [])
