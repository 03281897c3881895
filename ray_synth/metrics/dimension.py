"""Features in, their intrinsic dimension out: the d of the stability bound (Shidani et al., 2025, Theorem 3.1)."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from ray_synth.errors import InputError


def two_nn(features: np.ndarray, *, discard: float = 0.1) -> float:
    """TwoNN (Facco et al., 2017): the slope of −log(1 − F(μ)) against log μ, μ = second over first neighbour distance.

    features: [n,d], n >= 3; `discard` is the share of the largest μ left out. Copies of a point count once.

    Raises:
        InputError: fewer than three different points.
    """
    points = np.unique(np.asarray(features, dtype=np.float64), axis=0)
    if points.ndim != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise InputError(f"at least 3 different finite points [n,d] are needed, got {list(np.shape(features))}")
    distances, _ = cKDTree(points).query(points, k=3)
    ratio = np.sort(distances[:, 2] / distances[:, 1])
    kept = max(2, int(len(ratio) * (1 - discard)))
    x = np.log(ratio[:kept])
    y = -np.log1p(-np.arange(1, kept + 1) / (len(ratio) + 1))
    return float(x @ y / (x @ x)) if x @ x > 0 else float("inf")


def mle_dimension(features: np.ndarray, *, neighbours: int = 10) -> float:
    """Levina & Bickel (2004), averaged as MacKay & Ghahramani (2005): the inverse of the mean log distance ratio.

    features: [n,d], n > neighbours >= 3.
    """
    points = np.unique(np.asarray(features, dtype=np.float64), axis=0)
    if points.ndim != 2 or not 3 <= neighbours < len(points):
        raise InputError(f"neighbours must be >= 3 and below the different points ({len(points)}), got {neighbours}")
    distances, _ = cKDTree(points).query(points, k=neighbours + 1)
    logs = np.log(distances[:, -1:] / distances[:, 1:-1]).sum(axis=1) / (neighbours - 1)
    return float(1 / logs.mean())
