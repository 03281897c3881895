"""Labelled images in memory: what readers give and splits, generators and classifiers take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ray_synth.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images of one size with their labels.

    pixels: uint8 [N,H,W,C]; labels: int64 [N], indexing class_names; sources: [N] what messages call an image, such as
    its file; parts: [N] of `train`, `val` and `test`, where the source has an official split; notes: what reading had
    to change.
    """

    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    sources: np.ndarray | None = None
    parts: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            raise InputError(f"images must be uint8 [N,H,W,C], got {self.pixels.dtype} {list(self.pixels.shape)}")
        if self.labels.shape != self.pixels.shape[:1]:
            raise InputError(f"labels must be [{len(self.pixels)}], one per image, got {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels

    def images(self, rows: np.ndarray | slice | None = None) -> np.ndarray:
        """uint8 [k,H,W,C]; None: all."""
        return self.pixels if rows is None else self.pixels[rows]

    def take(self, indices: np.ndarray | slice) -> ImageSet:
        return ImageSet(
            pixels=self.pixels[indices],
            labels=self.labels[indices],
            class_names=self.class_names,
            sources=None if self.sources is None else self.sources[indices],
            parts=None if self.parts is None else self.parts[indices],
        )

    def name(self, index: int) -> str:
        """What messages call an image: its file, or its place in the set."""
        return str(index if self.sources is None else self.sources[index])

    def keys(self) -> list[str]:
        """One stable id per image: its class and pixels, wherever it was read from."""
        names = [name.encode() for name in self.class_names]
        shape = str(self.pixels.shape[1:]).encode()
        return [
            hashlib.sha256(names[label] + b"\0" + shape + image.tobytes()).hexdigest()[:24]
            for image, label in zip(self.pixels, self.labels, strict=True)
        ]

    def digest(self) -> str:
        """Hash of the set: class names, and every image with its label, in any order."""
        joined = "\n".join([*self.class_names, "", *sorted(self.keys())])
        return hashlib.sha256(joined.encode()).hexdigest()


def first_per_class(labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Indices of the first `counts[c]` images of every class c, in their order.

    labels: [N]; counts: [C]. A smaller count gives a subset of a larger one: ratios are prefixes.
    """
    return np.flatnonzero(rank_in_class(labels) < counts[labels])


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """For each image, how many of its class stand before it. [N] -> [N]"""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - starts
    return rank


def synthetic_counts(real_counts: np.ndarray, synthetic_ratio: float) -> np.ndarray:
    """Synthetic images per class at a ratio: class c with n_c real ones gets round(ratio * n_c). [C] -> [C]"""
    return np.floor(np.asarray(real_counts) * synthetic_ratio + 0.5).astype(np.int64)
