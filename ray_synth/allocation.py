"""Real images of each class and a ratio in, synthetic images of each class out: the one place that says how many."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]
Allocation = Literal["fill", "equal", "proportional"]
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)


def synthetic_counts(
    real_counts: ArrayLike, synthetic_ratio: ArrayLike, allocation: Allocation, given: ArrayLike | None = None
) -> IntArray:
    """Synthetic images of each class where there are `synthetic_ratio` for each real one in all.

    Counts never fall as the ratio rises, so what a lower ratio takes is a prefix. A class without a real image gets
    none, nor does one that is not `given`: the others then share what the ratio asks for, so that it stays what it
    says. On real sets of equal classes the three allocations are one.

    Args:
        real_counts: [C], real images of each class.
        synthetic_ratio: a number, or [R].
        allocation: `proportional`: class c with n_c real images gets ratio * n_c, so a rare class stays rare; `equal`:
            every class gets the same; `fill`: classes are brought towards equal totals, the rarest first.
        given: [C], whether a class has synthetic images at all; None: all have.

    Returns:
        [C], or [R,C]; each share rounded to the nearest, half upwards.
    """
    real, ratios = np.asarray(real_counts, dtype=np.float64), np.asarray(synthetic_ratio, dtype=np.float64)
    total, there = ratios[..., None] * real.sum(), _takes_part(real, given)
    if allocation == "proportional":
        share = ratios[..., None] * (real * there) * (real.sum() / max(1.0, float(real[there].sum())))
    elif allocation == "equal":
        share = total / max(1, there.sum()) * there
    else:
        share = np.maximum(_level(real[there], total) - real, 0.0) * there
    counts: IntArray = np.floor(share + 0.5 + 1e-9).astype(np.int64)
    return counts  # the sum that makes a half may be a rounding error short


def largest_ratio(real_counts: ArrayLike, available: ArrayLike, allocation: Allocation) -> float:
    """The ratio up to which every class that takes part finds its images among those available, [C] or one number.
    A class of which none is available takes no part."""
    real = np.asarray(real_counts, dtype=np.float64)
    images = np.broadcast_to(np.asarray(available, dtype=np.float64), real.shape)
    there = _takes_part(real, images > 0)
    if not there.any():
        return 0.0
    images, own = images[there], real[there]
    if allocation == "proportional":
        return float((images / own).min() * (own.sum() / real.sum()))
    if allocation == "equal":
        return float(images.min() * len(own) / real.sum())
    return float(np.maximum((images + own).min() - own, 0.0).sum() / real.sum())


def uneven(real_counts: ArrayLike, given: ArrayLike | None = None) -> bool:
    """Whether the allocations differ at all. given: as of `synthetic_counts`."""
    real = np.asarray(real_counts)
    return len(np.unique(real[_takes_part(real, given)])) > 1


def _takes_part(real: NDArray[Any], given: ArrayLike | None) -> NDArray[np.bool_]:
    """Classes that may get synthetic images. [C]"""
    there: NDArray[np.bool_] = real > 0
    return there if given is None else there & np.asarray(given, dtype=bool)


def _level(real: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """The number of images that classes are filled up to by so many synthetic ones: as water fills a vessel. [...,1]"""
    if not len(real):
        return np.zeros_like(total)
    steps = np.sort(real)
    used = steps.cumsum()
    filled = np.arange(1, len(steps) + 1)
    # So much brings the first k classes to the size of the next.
    needed = (filled * np.append(steps[1:], np.inf)) - used
    number = np.searchsorted(needed, total)
    return np.asarray((total + used[number]) / filled[number])
