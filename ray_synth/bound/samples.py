"""Labels, and what is known of the images' pixels, in; the same out, with classes numbered without gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_synth.allocation import Allocation, synthetic_counts
from ray_synth.errors import InputError, one_spelling
from ray_synth.metrics.spectrum import PixelStats

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Labels = NDArray[Any]  # int64, or names: those of all sets alike

MOST_CHANNELS = 4  # of a picture: grey, colour, and one more for transparency
LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Samples:
    """Image sets, by what their pixels say, with labels in [0, C), numbers of `class_ids`, the labels as they were
    given. Those of the target may be unknown."""

    real: PixelStats
    real_labels: IntArray
    synthetic: PixelStats
    synthetic_labels: IntArray
    class_ids: Labels
    target: PixelStats | None = None
    target_labels: IntArray | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_ids)

    @property
    def real_counts(self) -> IntArray:
        return np.bincount(self.real_labels, minlength=self.num_classes).astype(np.int64)

    @property
    def given(self) -> NDArray[np.bool_]:
        """Whether a class has synthetic images. [C]"""
        return np.bincount(self.synthetic_labels, minlength=self.num_classes) > 0

    def asked(self, ratios: FloatArray, allocation: Allocation, counts: IntArray | None = None) -> IntArray:
        """Synthetic images of each class at each ratio to the real ones (or to other counts): [R,C]."""
        return synthetic_counts(self.real_counts if counts is None else counts, ratios, allocation, self.given)


def numbered_samples(
    real: tuple[PixelStats, Labels],
    synthetic: tuple[PixelStats, Labels],
    target: tuple[PixelStats, Labels | None] | None = None,
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


def check_one_kind(labels: Mapping[str, Labels]) -> None:
    """Raise InputError where some sets, by side, have names for labels and others numbers."""
    named = {side: each.dtype.kind == "U" for side, each in labels.items()}
    if len(set(named.values())) > 1:
        kinds = ", ".join(f"{side}_labels {'names' if is_named else 'numbers'}" for side, is_named in named.items())
        raise InputError(f"labels must be names in all sets or numbers in all, got {kinds}; give both alike")


def check_together(real_labels: Labels, shapes: Mapping[str, tuple[int, ...]]) -> None:
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


def checked_images(side: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Labels]:
    """A caller's images as uint8 [N,H,W,C] and labels as int64 or text [N].

    Labels may be integers, floats that are whole, booleans or names, of any array, [N] or [N,1].

    Raises:
        InputError: something else, such as channels that come first, or labels beyond int64.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise InputError(
            f"{side}_images must be uint8 [N,H,W,C] or [N,H,W] with N >= 1, got {images.dtype} {list(images.shape)}; "
            "scale other images to 0..255 first"
        )
    if channels_first(images.shape):
        raise InputError(
            f"{side}_images must be [N,H,W,C], got {list(images.shape)}, which looks like [N,C,H,W]; type "
            f"{side}_images.transpose(0, 2, 3, 1)"
        )
    return images, checked_labels(side, labels, len(images))


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape, [N,.,.,.], are rather [N,C,H,W] than [N,H,W,C]: few channels, or squares, behind N;
    and more channels at the end than pictures have."""
    _, first, height, last = shape
    return last > MOST_CHANNELS and (first <= MOST_CHANNELS or first != height == last)


def checked_labels(side: str, labels: Any, count: int) -> Labels:
    """A caller's labels as int64 or text [count]."""
    found = np.asarray(labels)
    if found.shape == (count, 1):
        found = found[:, 0]
    if found.ndim == 2 and len(found) == count:
        raise InputError(
            f"{side}_labels must be [{count}], one per image, got {list(found.shape)}; of a column per class type "
            f"{side}_labels.argmax(axis=1)"
        )
    if found.shape != (count,):
        raise InputError(f"{side}_labels must be integers or names [{count}], got {found.dtype} {list(found.shape)}")
    if found.dtype.kind == "O":  # categories, columns of tables, mixed lists
        found = _plain(side, found.tolist())
    if found.dtype.kind in "US":
        return np.asarray([one_spelling(_text(label)) for label in found.tolist()])
    if found.dtype.kind == "f" and not (whole := np.isfinite(found) & (found == np.floor(found))).all():
        odd = found[~whole][0]
        raise InputError(f"{side}_labels must be whole numbers or names, got {odd}; correct it")
    if found.dtype.kind not in "iufb":
        raise InputError(f"{side}_labels must be integers or names [{count}], got {found.dtype} {list(found.shape)}")
    if found.min() < 0:
        raise InputError(f"{side}_labels must be >= 0, got {found.min()}")
    if int(found.max()) > LARGEST:
        raise InputError(
            f"{side}_labels must be <= {LARGEST}, got {int(found.max())}; number the classes from 0: type "
            f"np.unique({side}_labels, return_inverse=True)[1]"
        )
    return found.astype(np.int64)


def _plain(side: str, labels: list[Any]) -> np.ndarray:
    """Of objects: numbers, or names."""
    if all(isinstance(label, str | bytes) for label in labels):
        return np.asarray([_text(label) for label in labels])
    if all(isinstance(label, int | np.integer) and 0 <= label <= LARGEST for label in labels):
        return np.asarray(labels, dtype=np.int64)
    if all(isinstance(label, int | float | np.number) for label in labels):
        return np.asarray(labels, dtype=np.float64)
    kinds = ", ".join(sorted({type(label).__name__ for label in labels}))
    raise InputError(f"{side}_labels must be numbers, or names, one of them for all, got {kinds}")


def _text(label: str | bytes) -> str:
    return label.decode(errors="backslashreplace") if isinstance(label, bytes) else label
