"""Images and labels in, the same out, checked and with classes numbered without gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_synth.allocation import Allocation, synthetic_counts
from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Samples:
    """uint8 images [.,H,W,C] with labels in [0, C), numbers of `class_ids`. Target labels may be unknown."""

    real: np.ndarray
    real_labels: IntArray
    synthetic: np.ndarray
    synthetic_labels: IntArray
    class_ids: IntArray
    target: np.ndarray | None = None
    target_labels: IntArray | None = None

    @property
    def sets(self) -> list[np.ndarray]:
        """Images of the real, the synthetic and, if there is one, the target set."""
        return [self.real, self.synthetic] + ([] if self.target is None else [self.target])

    @property
    def num_classes(self) -> int:
        return len(self.class_ids)

    @property
    def real_counts(self) -> IntArray:
        return np.bincount(self.real_labels, minlength=self.num_classes).astype(np.int64)

    def asked(self, ratios: FloatArray, allocation: Allocation, counts: IntArray | None = None) -> IntArray:
        """Synthetic images of each class at each ratio to the real ones (or to other counts): [R,C]."""
        return synthetic_counts(self.real_counts if counts is None else counts, ratios, allocation)


def checked_samples(
    real_images: np.ndarray,
    real_labels: np.ndarray,
    synthetic_images: np.ndarray,
    synthetic_labels: np.ndarray,
    target_images: np.ndarray | None,
    target_labels: np.ndarray | None,
) -> Samples:
    """The images and labels of `estimate_ratio`, with the classes that occur numbered without gaps.

    Raises:
        InputError: arrays that do not fit together, fewer than two real classes or four real images.
    """
    real, y_real = _checked("real", real_images, real_labels)
    synthetic, y_synthetic = _checked("synthetic", synthetic_images, synthetic_labels)
    target, y_target = None, None
    if target_images is not None:
        placeholder = np.zeros(len(target_images), dtype=np.int64)
        target, y = _checked("target", target_images, placeholder if target_labels is None else target_labels)
        y_target = None if target_labels is None else y
    elif target_labels is not None:
        raise InputError("target_labels came without target_images; give both, or target_images alone")
    for side, images in (("synthetic", synthetic), ("target", target)):
        if images is not None and images.shape[1:] != real.shape[1:]:
            raise InputError(
                f"real and {side} images must have one size, got {list(real.shape[1:])} and {list(images.shape[1:])}"
            )
    classes = len(np.unique(y_real))
    if classes < 2 or len(real) < 4:
        raise InputError(f"at least 4 real images of 2 classes are needed, got {len(real)} of {classes}; add images")
    sides = [y_real, y_synthetic] + ([] if y_target is None else [y_target])
    ids, numbered = np.unique(np.concatenate(sides), return_inverse=True)
    parts = np.split(numbered.astype(np.int64), np.cumsum([len(y) for y in sides])[:-1])
    return Samples(
        real=real,
        real_labels=parts[0],
        synthetic=synthetic,
        synthetic_labels=parts[1],
        class_ids=ids,
        target=target,
        target_labels=parts[2] if y_target is not None else None,
    )


def _checked(side: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, NDArray[np.int64]]:
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
