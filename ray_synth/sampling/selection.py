"""Features of a class's real and synthetic images in, the order in which its synthetic images are used out.

Which of a generator's images are worth training on: those that vary as the class's real ones do. What matters is each
class's covariance, a shift of its mean drops out (Rezaei et al., 2025, for CLIP features).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DIMENSIONS = 24  # leading features whose moments are matched
SHRINK = 10.0  # real images that the covariance of all classes counts as
LOOKED_AT = 1000  # candidates for each place, at most: drawn anew for each


def covariance_order(
    real: FloatArray, real_labels: IntArray, synthetic: FloatArray, synthetic_labels: IntArray, *, seed: int = 0
) -> IntArray:
    """Rows of the synthetic images, class by class in the order of their labels, so that each class's first k have
    about the covariance of its real images, for every k: each next image is the one that brings the mean of z zᵀ over
    those taken closest to it, with z relative to the mean of the class's synthetic images (greedy, as kernel herding).

    A class without real images keeps its order. Few real images say little of a covariance: it is shrunk towards that
    within all classes.

    Args:
        real: [n,d], leading features first; synthetic: [m,d]; labels: [n], [m].
        seed: of the candidates that are looked at, where a class has more than 1,000.

    Returns:
        [m], a permutation.
    """
    order = np.argsort(synthetic_labels, kind="stable")
    x, s = real[:, :DIMENSIONS], synthetic[:, :DIMENSIONS]
    scale = max(float(x.std()), 1e-12)
    x, s = x / scale, s / scale
    within = _within(x, real_labels)
    for label in np.unique(synthetic_labels).tolist():
        own, place = x[real_labels == label], np.flatnonzero(synthetic_labels[order] == label)
        if len(own):
            rng = np.random.default_rng([seed, 700, label])
            candidates = s[order[place]]
            order[place] = order[place][_greedy(candidates - candidates.mean(axis=0), _covariance(own, within), rng)]
    return order


def _within(x: FloatArray, labels: IntArray) -> FloatArray:
    """Covariance within classes. [d,d]"""
    kinds, each = np.unique(labels, return_inverse=True)
    means = np.stack([x[each == k].mean(axis=0) for k in range(len(kinds))])
    left = x - means[each]
    inside: FloatArray = left.T @ left / max(len(x) - len(kinds), 1)
    return inside


def _covariance(own: FloatArray, within: FloatArray) -> FloatArray:
    share = len(own) / (len(own) + SHRINK)
    left = own - own.mean(axis=0)
    mixed: FloatArray = share * (left.T @ left / max(len(own) - 1, 1)) + (1 - share) * within
    return mixed


def _greedy(candidates: FloatArray, covariance: FloatArray, rng: np.random.Generator) -> IntArray:
    """An order of the candidates z [m,d], which are centred. [m]"""
    free, taken = np.arange(len(candidates)), np.zeros_like(covariance)
    order = np.empty(len(candidates), dtype=np.int64)
    fourth = (candidates**2).sum(axis=1) ** 2
    for count in range(len(candidates)):
        looked_at = free if len(free) <= LOOKED_AT else free[rng.integers(len(free), size=LOOKED_AT)]
        z = candidates[looked_at]
        # ‖(taken + z zᵀ)/(count + 1) − covariance‖² without what is the same for all.
        far = fourth[looked_at] + 2 * ((z @ (taken - (count + 1) * covariance)) * z).sum(axis=1)
        best = looked_at[far.argmin()]
        order[count] = best
        taken += np.outer(candidates[best], candidates[best])
        free = free[free != best]
    return order
