"""Labels, and what is known of the images' pixels, in; the same out, with classes numbered without gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_synth.allocation import Allocation, synthetic_counts
from ray_synth.errors import InputError
from ray_synth.metrics.spectrum import PixelStats

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Samples:
    """Image sets, by what their pixels say, with labels in [0, C), numbers of `class_ids`. Those of the target may be
    unknown."""

    real: PixelStats
    real_labels: IntArray
    synthetic: PixelStats
    synthetic_labels: IntArray
    class_ids: IntArray
    target: PixelStats | None = None
    target_labels: IntArray | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_ids)

    @property
    def real_counts(self) -> IntArray:
        return np.bincount(self.real_labels, minlength=self.num_classes).astype(np.int64)

    def asked(self, ratios: FloatArray, allocation: Allocation, counts: IntArray | None = None) -> IntArray:
        """Synthetic images of each class at each ratio to the real ones (or to other counts): [R,C]."""
        return synthetic_counts(self.real_counts if counts is None else counts, ratios, allocation)


def numbered_samples(
    real: tuple[PixelStats, IntArray],
    synthetic: tuple[PixelStats, IntArray],
    target: tuple[PixelStats, IntArray | None] | None = None,
) -> Samples:
    """Sets with their labels [n_k] as `Samples`: the classes that occur are numbered without gaps."""
    sides = [real[1], synthetic[1]] + ([] if target is None or target[1] is None else [target[1]])
    ids, numbered = np.unique(np.concatenate(sides), return_inverse=True)
    parts = np.split(numbered.astype(np.int64), np.cumsum([len(y) for y in sides])[:-1])
    return Samples(
        real=real[0],
        real_labels=parts[0],
        synthetic=synthetic[0],
        synthetic_labels=parts[1],
        class_ids=ids,
        target=None if target is None else target[0],
        target_labels=parts[2] if len(parts) > 2 else None,
    )


def check_together(real_labels: IntArray, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError for fewer than two real classes or four real images, and for images of several shapes.

    shapes: by side ("real" first), height, width and channels.
    """
    first = shapes["real"]
    for side, shape in shapes.items():
        if shape != first:
            raise InputError(f"real and {side} images must have one size, got {list(first)} and {list(shape)}")
    classes = len(np.unique(real_labels))
    if classes < 2 or len(real_labels) < 4:
        raise InputError(
            f"at least 4 real images of 2 classes are needed, got {len(real_labels)} of {classes}; add images"
        )


def checked_images(side: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, IntArray]:
    """A caller's images as uint8 [N,H,W,C] and labels as int64 [N]. Raises InputError where they are something else."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise InputError(
            f"{side}_images must be uint8 [N,H,W,C] or [N,H,W] with N >= 1, got {images.dtype} {list(images.shape)}; "
            "scale other images to 0..255 first"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise InputError(f"{side}_labels must be integers [{len(images)}], got {labels.dtype} {list(labels.shape)}")
    if labels.min() < 0:
        raise InputError(f"{side}_labels must be >= 0, got {labels.min()}")
    return images, labels.astype(np.int64)
