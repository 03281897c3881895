"""Features of one class in, the few points (and their weights) out that stand for it at least transport cost.

Algorithm 2 of Liu et al. (2025) alternates between two steps: weights (or, with uniform ones, the transport plan alone)
for fixed positions, and positions for a fixed plan. Both are solved exactly here.

- Positions: the cost is quadratic in each position, so Newton's step (Liu et al., 2025, Eq. 38) goes to its minimum at
  once, the mean of the mass that it receives.
- Free weights: with weights that nothing holds, each point goes to its nearest position; the masses that arrive are the
  best weights. This is the optimum of the linear program whose dual the paper descends by subgradients, so no step size
  and no inner iterations are left, and the whole is k-means.
- Uniform weights: POT's network simplex. This is what the paper's released code does (and Cuturi & Doucet, 2014,
  Algorithm 2, with full steps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import ot
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ray_synth.errors import InputError, did_you_mean

FloatArray = NDArray[np.float64]
Weights = Literal["free", "uniform"]

LARGEST = 1e150  # squares of larger values overflow
TOLERANCE = 1e-12  # the last step lowers the objective by less than this part of it: rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Barycenter:
    """positions: float64 [m,d]; weights: float64 [m], above 0, sum 1; objective: mean squared-Euclidean transport cost
    from the n equal points."""

    positions: FloatArray
    weights: FloatArray
    objective: float


def wasserstein_barycenter(
    features: np.ndarray, num_points: int, *, weights: Weights = "free", seed: int = 0
) -> Barycenter:
    """The measure on `num_points` points nearest to the features in W₂, up to local optima (Liu et al., 2025, Alg. 2).

    features: [n,d], finite; each row weighs 1/n. Starts at k-means++ of the seed, and ends when a step no longer lowers
    the objective. `weights="free"` finds the weights too (k-means); with "uniform" each point weighs 1/m. With as many
    points as features, they are the features themselves. Where fewer features differ than points are asked for, points
    coincide and share the weight. Columns that are constant change nothing.

    Raises:
        InputError: more points than features, features that are not finite or not [n,d], other weights.
    """
    x = _checked(features, num_points, weights, seed)
    # A common shift moves all alike; without it the squares keep their digits.
    centre = x.mean(axis=0)
    x -= centre
    *_, last = descend(x, _start(x, num_points, seed), weights)
    return Barycenter(
        positions=last.positions + centre,
        weights=np.asarray(last.plan.sum(axis=1), dtype=np.float64),
        objective=last.exact_objective(x),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """positions: [m,d]; plan: the mass that goes from each feature to each position, sparse [m,n]; their cost."""

    positions: FloatArray
    plan: csr_array
    objective: float

    def exact_objective(self, x: FloatArray) -> float:
        """The cost by differences: |x|² − 2xb + |b|² loses its digits where points are near."""
        plan = self.plan.tocoo()
        total = 0.0
        for part in range(0, plan.nnz, 4096):
            i, j, mass = (one[part : part + 4096] for one in (plan.col, plan.row, plan.data))
            total += float(mass @ np.square(x[i] - self.positions[j]).sum(axis=1))
        return total


def descend(x: FloatArray, start: FloatArray, weights: Weights, *, tolerance: float = TOLERANCE) -> Iterator[Step]:
    """Each state on the way, from the start with its best plan; every one costs less than the one before.

    x: [n,d], best centred; start: [m,d].
    """
    lengths = np.einsum("ij,ij->i", x, x)  # (n,)
    best_plan = _PLANS[weights]
    last = np.inf
    positions = start
    while True:
        step = best_plan(x, lengths, positions)
        if step.objective < last:
            yield step
        if not step.objective < last * (1 - tolerance):
            return
        last = step.objective
        masses = np.asarray(step.plan.sum(axis=1))[:, None]
        positions = (step.plan @ x) / masses  # Newton's step: (m, d)


def _nearest(x: FloatArray, lengths: FloatArray, positions: FloatArray) -> Step:
    """Each feature to its nearest position. A position that gets nothing moves to the feature that costs most."""
    m, n = len(positions), len(x)
    cost = _squared_distances(x, lengths, positions)
    nearest = cost.argmin(axis=0)
    least = np.maximum(cost[nearest, np.arange(n)], 0.0)
    counts = np.bincount(nearest, minlength=m)
    for empty in np.flatnonzero(counts == 0):
        # One that shares its position: m <= n, so there is one, at a cost of 0 where features coincide.
        farthest = np.where(counts[nearest] > 1, least, -1.0).argmax()
        counts[nearest[farthest]] -= 1
        counts[empty], nearest[farthest], least[farthest] = 1, empty, 0.0
        positions = positions.copy()
        positions[empty] = x[farthest]
    order = np.argsort(nearest, kind="stable")
    plan = csr_array((np.full(n, 1 / n), order, np.concatenate([[0], np.cumsum(counts)])), shape=(m, n))
    return Step(positions=positions, plan=plan, objective=float(least.mean()))


def _balanced(x: FloatArray, lengths: FloatArray, positions: FloatArray) -> Step:
    """The optimal transport to positions of 1/m each."""
    m, n = len(positions), len(x)
    cost = np.maximum(_squared_distances(x, lengths, positions), 0.0)
    plan = ot.emd(np.full(m, 1 / m), np.full(n, 1 / n), cost, numItermax=10**7)
    return Step(positions=positions, plan=csr_array(plan), objective=float(np.vdot(plan, cost)))


_PLANS: dict[str, Callable[[FloatArray, FloatArray, FloatArray], Step]] = {"free": _nearest, "uniform": _balanced}


def _squared_distances(x: FloatArray, lengths: FloatArray, positions: FloatArray) -> FloatArray:
    """[m,n], by one product of matrices; rounding may leave a small number below 0."""
    cost = positions @ x.T
    cost *= -2
    cost += np.einsum("ij,ij->i", positions, positions)[:, None]
    cost += lengths
    return cost


def _start(x: FloatArray, num_points: int, seed: int) -> FloatArray:
    """Features far apart, drawn by k-means++ (Arthur & Vassilvitskii, 2007), the best of a few draws each."""
    from sklearn.cluster import kmeans_plusplus

    if num_points == len(x):
        return x.copy()
    return np.asarray(kmeans_plusplus(x, num_points, random_state=seed)[0], dtype=np.float64)


def _checked(features: np.ndarray, num_points: int, weights: str, seed: int) -> FloatArray:
    """The features as float64, a copy."""
    x = np.array(features, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise InputError(f"features must be [n,d] with n, d >= 1, got shape {list(x.shape)}")
    if not np.isfinite(x).all():
        raise InputError("features must be finite, got NaN or infinity; remove those samples first")
    if np.abs(x).max() > LARGEST:
        raise InputError(f"features must be within ±{LARGEST:g}, got {np.abs(x).max():g}; scale them down")
    whole = isinstance(num_points, int | np.integer) and not isinstance(num_points, bool)
    if not whole or not 1 <= num_points <= len(x):
        raise InputError(
            f"num_points must be a whole number between 1 and the number of features ({len(x)}), got {num_points!r}; "
            "ask for fewer points, or give more features"
        )
    if weights not in _PLANS:
        raise InputError(f"weights must be 'free' or 'uniform', got {weights!r}; {did_you_mean(str(weights), _PLANS)}")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    return x
