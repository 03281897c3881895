"""What images are asked for: labelled ones of one size, in memory, in files or in chunks, decoded when asked."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ray_synth.data.decoding import fitted, resized, room_for
from ray_synth.data.depth import Depth

BATCH = 512
KEY = np.dtype("S24")  # hexadecimal

Rows = np.ndarray | slice


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSource(ABC):
    """Labelled images of one size.

    labels: int64 [N], indexing class_names; shape: height, width and channels of an image; sources: [N] what messages
    call an image, such as its file; parts: [N] of `train`, `val` and `test`, where the source has an official split;
    notes: what reading had to change; depth: of those with more than 8 bits a channel, the values that became 0 and
    255.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    sources: np.ndarray | None = None
    parts: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    depth: Depth | None = None

    @abstractmethod
    def images(self, rows: Rows | None = None) -> np.ndarray:
        """uint8 [k,H,W,C] of these rows, in their order; None: all."""

    @abstractmethod
    def _taken(self, rows: Rows) -> dict[str, Any]:
        """What the subclass holds of these rows. Nothing is decoded."""

    def within(self, side: int) -> ImageSource:
        """The same images at most `side` pixels high and wide, their proportions kept; smaller ones as they are."""
        height, width = fitted(self.shape[:2], side)
        if (height, width) == self.shape[:2]:
            return self
        return self._shrunk((height, width, self.shape[2]))

    def _shrunk(self, shape: tuple[int, int, int]) -> ImageSource:
        """These images in a smaller shape. Nothing is decoded."""
        return Shrunk(**self.described(), shape=shape, whole=self)

    def described(self) -> dict[str, Any]:
        """What is known of the images beside their pixels and their shape, for another source of the same."""
        return {
            "labels": self.labels,
            "class_names": self.class_names,
            "sources": self.sources,
            "parts": self.parts,
            "notes": self.notes,
            "depth": self.depth,
        }

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def counts(self) -> np.ndarray:
        """Images of each class. [C]"""
        return np.bincount(self.labels, minlength=self.num_classes)

    def take(self, rows: Rows) -> Self:
        """These images alone, without notes. Nothing is decoded."""
        taken = replace(
            self,
            labels=self.labels[rows],
            sources=None if self.sources is None else self.sources[rows],
            parts=None if self.parts is None else self.parts[rows],
            notes=(),
            **self._taken(rows),
        )
        if "_keys" in vars(self):
            vars(taken)["_keys"] = self._keys[rows]
        return taken

    def batches(self, size: int = BATCH) -> Iterator[np.ndarray]:
        """All images in order, uint8 [b,H,W,C] each."""
        for start in range(0, len(self), size):
            yield self.images(slice(start, start + size))

    def name(self, row: int) -> str:
        """What messages call an image: its file, or its place in the set."""
        return str(row if self.sources is None else self.sources[row])

    def keys(self) -> list[str]:
        """One stable id per image: its class and pixels, wherever it was read from."""
        return list(self._keys.astype(str).tolist())

    def held_keys(self) -> np.ndarray:
        """The same, [N] of KEY."""
        return self._keys

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        """[N] of KEY."""
        pieces = (slice(start, start + BATCH) for start in range(0, len(self), BATCH))
        parts = [keys_of(self.images(piece), self.labels[piece], self.class_names) for piece in pieces]
        return np.concatenate([np.zeros(0, KEY), *parts])

    def keep_keys(self, keys: np.ndarray) -> None:
        """[N] of KEY. They were found while the images were looked at for something else."""
        vars(self)["_keys"] = keys

    def know_keys_of(self, same: ImageSource) -> None:
        """As far as they were found: of the same images, in another place."""
        if "_keys" in vars(same):
            vars(self)["_keys"] = same._keys

    def digest(self) -> str:
        """Hash of the set: class names, and every image with its label, in any order."""
        joined = b"\n".join([*(name.encode() for name in self.class_names), b"", *np.sort(self._keys)])
        return hashlib.sha256(joined).hexdigest()


def keys_of(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """uint8 [N,H,W,C] and their classes -> [N] of KEY: hashes of a class's name and an image's shape and pixels."""
    names, shape = [name.encode() for name in class_names], str(images.shape[1:]).encode()
    found = [
        hashlib.sha256(names[label] + b"\0" + shape + image.tobytes()).hexdigest()[: KEY.itemsize]
        for image, label in zip(images, labels, strict=True)
    ]
    return np.array(found, dtype=KEY)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedImages(ImageSource):
    """Images of which the encoded bytes lie somewhere, and may be packed.

    crop: whether images of other proportions lose what sticks out; draft: large JPEGs are decoded at about the size
    that is asked for.
    """

    crop: bool
    draft: bool = False

    @property
    def in_files(self) -> bool:
        """Whether there are such bytes indeed."""
        return True

    @abstractmethod
    def encoded(self, rows: np.ndarray) -> list[bytes]:
        """What lies in the files of these rows."""

    @abstractmethod
    def stamps(self, rows: np.ndarray) -> list[str]:
        """What tells the files of these rows from others, and from what they were before."""

    @abstractmethod
    def bytes_of(self, rows: np.ndarray) -> int:
        """How large the files of these rows are, about."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shrunk(ImageSource):
    """Images of another source, `whole`, each made smaller when it is asked for."""

    whole: ImageSource

    def images(self, rows: Rows | None = None) -> np.ndarray:
        number = len(np.arange(len(self))[rows]) if rows is not None else len(self)
        out = room_for(number, self.shape)
        for row, image in enumerate(self.whole.images(rows)):
            out[row] = resized(image, self.shape[:2])
        return out

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"whole": self.whole.take(rows)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined(ImageSource):
    """Several sources as one. places: [N,2] which source, and the row in it."""

    several: tuple[ImageSource, ...]
    places: np.ndarray

    def images(self, rows: Rows | None = None) -> np.ndarray:
        places = self.places if rows is None else self.places[rows]
        out = room_for(len(places), self.shape)
        for number, source in enumerate(self.several):
            asked = np.flatnonzero(places[:, 0] == number)
            if len(asked):
                out[asked] = source.images(places[asked, 1])
        return out

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"places": self.places[rows]}


def joined(several: Sequence[ImageSource]) -> ImageSource:
    """Sources of one shape and one list of classes, one after the other."""
    return Joined(
        labels=np.concatenate([source.labels for source in several]),
        class_names=several[0].class_names,
        shape=several[0].shape,
        depth=several[0].depth,
        several=tuple(several),
        places=np.concatenate(
            [np.stack([np.full(len(s), i), np.arange(len(s))], axis=1) for i, s in enumerate(several)]
        ),
    )
