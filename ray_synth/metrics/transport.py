"""Two point sets in, a Wasserstein distance out: exact by linear programming, sliced where that is out of reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import ot
from numpy.typing import NDArray

from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]

MAX_EXACT = 5000  # points a side: a cost matrix of 200 MB, about a minute of network simplex


@dataclass(frozen=True, kw_only=True)
class Transport:
    """A distance and how it was found. `sliced` is a lower bound of the distance, brought to the length of a shift."""

    value: float
    method: Literal["exact", "exact_1d", "sliced"]
    p: int


def transport(
    real: np.ndarray, synthetic: np.ndarray, *, p: int = 2, max_exact: int = MAX_EXACT, seed: int = 0
) -> Transport:
    """W_p between the empirical measures of two feature sets, with the ground metric ℓ2.

    real: [n,d]; synthetic: [m,d]. Up to `max_exact` points a side the transport problem is solved by POT's network
    simplex (in one dimension by sorting, at any size); above, the sliced distance stands in, scaled so that a shift of
    the mean has its own length.

    Raises:
        InputError: other shapes, values that are not finite, p other than 1 or 2.
    """
    real, synthetic = checked_features(real, synthetic)
    if p not in (1, 2):
        raise InputError(f"p must be 1 or 2, got {p!r}")
    if real.shape[1] == 1:
        return Transport(value=_one_dimension(real[:, 0], synthetic[:, 0], p), method="exact_1d", p=p)
    if max(len(real), len(synthetic)) > max_exact:
        value = sliced_wasserstein(real, synthetic, p=p, seed=seed) / _along_a_direction(real.shape[1], p)
        return Transport(value=float(value), method="sliced", p=p)
    metric = "sqeuclidean" if p == 2 else "euclidean"
    # A common shift moves both sets alike; without it the squares keep their digits.
    centre = real.mean(axis=0)
    cost = ot.dist(real - centre, synthetic - centre, metric=metric)
    weights = np.full(len(real), 1 / len(real)), np.full(len(synthetic), 1 / len(synthetic))
    total = float(ot.emd2(*weights, np.maximum(cost, 0.0), numItermax=10**7))
    return Transport(value=max(total, 0.0) ** (1 / p), method="exact", p=p)


def wasserstein_distance(real: np.ndarray, synthetic: np.ndarray, *, p: int = 2) -> float:
    """W_p (not W_p^p) between two empirical measures; see `transport` for what is exact. [n,d], [m,d]"""
    return transport(real, synthetic, p=p).value


def sliced_wasserstein(
    real: np.ndarray, synthetic: np.ndarray, *, p: int = 2, num_projections: int = 200, seed: int = 0
) -> float:
    """The p-mean of the one-dimensional W_p along random directions (Bonneel et al., 2015). [n,d], [m,d]"""
    real, synthetic = checked_features(real, synthetic)
    directions = np.random.default_rng(seed).normal(size=(real.shape[1], num_projections))
    directions /= np.linalg.norm(directions, axis=0)
    a, b = real @ directions, synthetic @ directions
    powers = [_one_dimension(a[:, i], b[:, i], p) ** p for i in range(num_projections)]
    return float(np.mean(powers) ** (1 / p))


def _along_a_direction(dimensions: int, p: int) -> float:
    """The p-mean over random directions of a unit vector's length along them: 1/√d for p = 2, E|u₁| for p = 1."""
    d = dimensions
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi) if p == 1 else 1 / math.sqrt(d)


def _one_dimension(a: FloatArray, b: FloatArray, p: int) -> float:
    """Both quantile functions are steps; between the union of their jumps the difference is constant."""
    a, b = np.sort(a), np.sort(b)
    jumps = np.union1d(np.arange(1, len(a) + 1) / len(a), np.arange(1, len(b) + 1) / len(b))
    widths = np.diff(jumps, prepend=0.0)
    middles = jumps - widths / 2
    i = np.minimum((middles * len(a)).astype(np.int64), len(a) - 1)
    j = np.minimum((middles * len(b)).astype(np.int64), len(b) - 1)
    return float((widths @ np.abs(a[i] - b[j]) ** p) ** (1 / p))


def checked_features(real: np.ndarray, synthetic: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Two finite feature sets of one dimension, as float64. [n,d], [m,d]"""
    a, b = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.size == 0 or b.size == 0:
        raise InputError(
            "features must be [n,d] and [m,d] with n, m, d >= 1, "
            f"got {list(np.shape(real))} and {list(np.shape(synthetic))}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("features must be finite, got NaN or infinity; remove those samples first")
    return a, b
