"""Real images of each class and a ratio in, synthetic images of each class out: the one place that says how many."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]
Allocation = Literal["fill", "equal", "proportional"]
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)


def synthetic_counts(real_counts: ArrayLike, synthetic_ratio: ArrayLike, allocation: Allocation) -> IntArray:
    """Synthetic images of each class where there are `synthetic_ratio` for each real one in all.

    Counts never fall as the ratio rises, so what a lower ratio takes is a prefix. A class without a real image gets
    none. On real sets of equal classes the three allocations are one.

    Args:
        real_counts: [C], real images of each class.
        synthetic_ratio: a number, or [R].
        allocation: `proportional`: class c with n_c real images gets ratio * n_c, so a rare class stays rare; `equal`:
            every class gets the same; `fill`: classes are brought towards equal totals, the rarest first.

    Returns:
        [C], or [R,C]; each share rounded to the nearest, half upwards.
    """
    real, ratios = np.asarray(real_counts, dtype=np.float64), np.asarray(synthetic_ratio, dtype=np.float64)
    total, there = ratios[..., None] * real.sum(), real > 0
    if allocation == "proportional":
        share = ratios[..., None] * real
    elif allocation == "equal":
        share = total / max(1, there.sum()) * there
    else:
        share = np.maximum(_level(real[there], total) - real, 0.0) * there
    return np.floor(share + 0.5 + 1e-9).astype(np.int64)  # the sum that makes a half may be a rounding error short


def largest_ratio(real_counts: ArrayLike, available: ArrayLike, allocation: Allocation) -> float:
    """The ratio up to which every class that takes part finds its images among those available, [C] or one number."""
    real = np.asarray(real_counts, dtype=np.float64)
    there = real > 0
    images = np.broadcast_to(np.asarray(available, dtype=np.float64), real.shape)[there]
    own = real[there]
    if allocation == "proportional":
        return float((images / own).min())
    if allocation == "equal":
        return float(images.min() * len(own) / own.sum())
    return float(np.maximum((images + own).min() - own, 0.0).sum() / own.sum())


def uneven(real_counts: ArrayLike) -> bool:
    """Whether the allocations differ at all."""
    real = np.asarray(real_counts)
    return len(np.unique(real[real > 0])) > 1


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
