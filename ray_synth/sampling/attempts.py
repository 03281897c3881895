"""A chunk that is about to be sampled in, which of its images have proved deadly out; what was in hand lies on disk.

A worker that dies says nothing, so each notes beforehand what it takes in hand, and finds the note when it comes again.
A chunk whose sampling was cut off twice is looked through, image by image; an image that ends `TRIES` workers while it
is alone in hand is set aside. Deaths for another reason (a machine taken back, memory used up by somebody else) would
have to strike the same image three times while it is alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ray_synth.errors import Spoiled
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import Chunk

FOLDER = "attempts"
TRIES = 3
HOPELESS = 8  # times, after which its images are made one by one and kept so
BATCHES = 2  # times that a chunk is taken as a whole before its images are tried one by one
REASON = "killed_worker"


@dataclass(frozen=True, kw_only=True)
class Note:
    """What the file holds. in_hand: an index or `batch`."""

    in_hand: str | None
    deaths: dict[str, int]
    cleared: list[int]


class Attempts:
    """The note of one chunk; one that is torn counts for none. `deadly` are indices to leave out; `suspected`: try the
    others alone first."""

    def __init__(self, folder: RunFolder, chunk: Chunk):
        self.folder = folder
        self.name = f"{FOLDER}/{chunk.name.removesuffix('.parquet')}.json"
        self.deaths: Counter[str] = Counter()
        self.cleared: list[int] = []
        with suppress(FileNotFoundError, Spoiled):
            note = folder.read_record(self.name, Note)
            self.deaths.update(note.deaths)
            self.cleared = note.cleared
            if note.in_hand is not None:
                self.deaths[note.in_hand] += 1

    @property
    def deadly(self) -> set[int]:
        return {int(name) for name, count in self.deaths.items() if name.isdecimal() and count >= TRIES}

    @property
    def suspected(self) -> bool:
        return self.deaths["batch"] >= BATCHES

    @property
    def only_alone(self) -> bool:
        """Whether the batch as a whole is too much (for the machine's memory, say) though no image of it is."""
        return self.deaths["batch"] >= HOPELESS

    def close(self) -> None:
        self.folder.remove(self.name)

    def to_try(self, chunk: Chunk) -> list[int]:
        """Indices that may yet prove deadly, those that died before first."""
        if self.only_alone:
            return sorted(set(range(chunk.start, chunk.stop)) - self.deadly)
        open_ones = set(range(chunk.start, chunk.stop)) - self.deadly - set(self.cleared)
        return sorted(open_ones, key=lambda index: (-self.deaths[str(index)], index))

    @contextmanager
    def in_hand(self, what: int | None = None) -> Iterator[None]:
        """Around the sampling of one image, or of the whole chunk."""
        self._note("batch" if what is None else str(what))
        try:
            yield
        except BaseException:  # an error that is raised is no death
            self._note(None)
            raise
        if what is None:
            self.close()
        else:
            self.cleared.append(what)

    def _note(self, in_hand: str | None) -> None:
        note = {"in_hand": in_hand, "deaths": dict(self.deaths), "cleared": self.cleared}
        self.folder.write(self.name, json.dumps(note).encode())
