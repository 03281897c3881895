"""Two feature sets in, their squared maximum mean discrepancy out (Gretton et al., 2012), in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ray_synth.errors import InputError
from ray_synth.metrics.transport import checked_features

FloatArray = NDArray[np.float64]
Kernel = Callable[[FloatArray, FloatArray], FloatArray]

BLOCK = 2048


def mmd2(
    real: np.ndarray,
    synthetic: np.ndarray,
    *,
    kernel: Literal["rbf", "linear", "cubic"] = "rbf",
    bandwidth: float | None = None,
    unbiased: bool = True,
) -> float:
    """Squared MMD between two feature sets. [n,d], [m,d]

    Args:
        kernel: `rbf` exp(-|x-y|²/(2·bandwidth²)), `linear` x·y, `cubic` (x·y/d + 1)³ (KID's).
        bandwidth: of `rbf`; default the median distance over both sets (at most 2,000 points of them, evenly spaced).
        unbiased: leaves out the diagonals (needs two samples a side; may be negative); else the V-statistic, >= 0.

    Raises:
        InputError: other shapes, values that are not finite, fewer than two samples a side when unbiased.
    """
    real, synthetic = checked_features(real, synthetic)
    if unbiased and min(len(real), len(synthetic)) < 2:
        raise InputError(f"the unbiased estimate needs 2 samples a side, got {len(real)} and {len(synthetic)}")
    function = _kernel(kernel, bandwidth, real, synthetic)
    within = [_mean_kernel(function, x, x, drop_diagonal=unbiased) for x in (real, synthetic)]
    across = _mean_kernel(function, real, synthetic, drop_diagonal=False)
    value = within[0] + within[1] - 2 * across
    return value if unbiased else max(value, 0.0)


def kernel_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Kernel Inception Distance (Bińkowski et al., 2018): cubic kernel, unbiased, over all samples. [n,d], [m,d]"""
    return mmd2(real, synthetic, kernel="cubic", unbiased=True)


def median_distance(points: np.ndarray, limit: int = 2000) -> float:
    """The median distance between two different ones of at most `limit` evenly spaced points. [n,d]"""
    rows = np.unique(np.linspace(0, len(points) - 1, min(limit, len(points))).astype(np.int64))
    squared = squared_distances(points[rows], points[rows])
    above = squared[np.triu_indices(len(rows), 1)]
    return float(np.sqrt(np.median(above))) if len(above) else 1.0


def squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    """|x_i - y_j|². [n,d], [m,d] -> [n,m]"""
    centre = x.mean(axis=0)
    x, y = x - centre, y - centre
    squared: FloatArray = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
    return np.maximum(squared, 0.0, out=squared)


def _kernel(name: str, bandwidth: float | None, real: FloatArray, synthetic: FloatArray) -> Kernel:
    if name == "linear":
        return lambda x, y: x @ y.T
    if name == "cubic":
        return lambda x, y: (x @ y.T / x.shape[1] + 1.0) ** 3
    if name != "rbf":
        raise InputError(f"kernel must be 'rbf', 'linear' or 'cubic', got {name!r}")
    width = median_distance(np.concatenate([real, synthetic])) if bandwidth is None else bandwidth
    if width < 0 or not np.isfinite(width):
        raise InputError(f"bandwidth must be > 0, got {width}")
    width = width or 1.0  # all points coincide: every kernel value is 1 whatever the width
    return lambda x, y: np.exp(squared_distances(x, y) / (-2 * width**2))


def _mean_kernel(function: Kernel, x: FloatArray, y: FloatArray, *, drop_diagonal: bool) -> float:
    total = 0.0
    same = x is y
    for start in range(0, len(x), BLOCK):
        block = function(x[start : start + BLOCK], y[start:] if same else y)  # of one set, each pair once
        square = block[:, : len(block)]
        if drop_diagonal:
            np.fill_diagonal(square, 0.0)
        total += float(2 * block.sum() - square.sum()) if same else float(block.sum())
    return total / (len(x) * (len(y) - 1 if drop_diagonal else len(y)))
