"""Labelled images in memory, and how many of each class a ratio takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_synth.data.source import ImageSource, Rows
from ray_synth.errors import InputError
from ray_synth.hardware.machine import machine_memory

SHARE = 0.25  # of memory that one source may take


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet(ImageSource):
    """Images in memory. pixels: uint8 [N,H,W,C]; slices of them are views."""

    pixels: np.ndarray
    shape: tuple[int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            raise InputError(f"images must be uint8 [N,H,W,C], got {self.pixels.dtype} {list(self.pixels.shape)}")
        if self.labels.shape != self.pixels.shape[:1]:
            raise InputError(f"labels must be [{len(self.pixels)}], one per image, got {list(self.labels.shape)}")
        object.__setattr__(self, "shape", self.pixels.shape[1:])

    def images(self, rows: Rows | None = None) -> np.ndarray:
        return self.pixels if rows is None else self.pixels[rows]

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"pixels": self.pixels[rows]}


def in_memory(source: ImageSource) -> ImageSet:
    """All images, decoded at once. Raises InputError where they are more than memory holds."""
    if isinstance(source, ImageSet):
        return source
    return ImageSet(pixels=source.images(), **source.described())


def held(source: ImageSource) -> ImageSource:
    """In memory where that takes a small share of this machine's; else as it is."""
    fits = len(source) * math.prod(source.shape) <= SHARE * machine_memory()
    return in_memory(source) if fits else source


def side_by_side(total: int, names: Sequence[str]) -> dict[str, slice]:
    """Rows of each of several generators, whose images stand one generator after the other, as many of each."""
    each = total // max(1, len(names))
    return {name: slice(place * each, (place + 1) * each) for place, name in enumerate(names)}


def first_per_class(labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Indices of the first `counts[c]` images of every class c, in their order.

    labels: [N]; counts: [C]. A smaller count gives a subset of a larger one: ratios are prefixes.
    """
    return np.flatnonzero(rank_in_class(labels) < counts[labels])


def share_of_each(counts: np.ndarray, share: float) -> np.ndarray:
    """A share of each class, rounded up: one image at least of a class that has any. [C] -> [C]"""
    return np.ceil(counts * share - 1e-9).astype(np.int64)  # 70 * 0.1 is more than 7


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """For each image, how many of its class stand before it. [N] -> [N]"""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - starts
    return rank
