"""Features of one class in, the few points (and their weights) out that stand for it at least transport cost.

Algorithm 2 of Liu et al. (2025) alternates between two steps: weights (or, with uniform ones, the transport plan alone)
for fixed positions, and positions for a fixed plan. Both are solved exactly here.

- Positions: the cost is quadratic in each position, so Newton's step (Liu et al., 2025, Eq. 38) goes to its minimum at
  once, the mean of the mass that it receives.
- Free weights: with weights that nothing holds, each feature goes to its nearest position; the masses that arrive are
  the best weights. This is the optimum of the linear program whose dual the paper descends by subgradients, so no step
  size and no inner iterations are left, and the whole is k-means. Where its alternation ends, single features still
  pay a move once the means' own shift is counted (Hartigan & Wong, 1979): in hundreds of dimensions that is most of
  what there is to gain.
- Uniform weights: POT's network simplex. This is what the paper's released code does (and Cuturi & Doucet, 2014,
  Algorithm 2, with full steps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

import numpy as np
import ot
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ray_synth.errors import InputError, did_you_mean

FloatArray = NDArray[np.float64]
Weights = Literal["free", "uniform"]
BestPlan = Callable[[FloatArray, FloatArray, FloatArray], "Step"]  # features, their squares, positions

LARGEST = 1e150  # squares of larger values overflow
TOLERANCE = 1e-9  # the last step lowers the objective by less than this part of it
ROUNDING = 1e-12  # what a single move must gain, of what it saves
LEAST_GAIN = 1e-3  # so of a pass of single moves: later ones take most of the time and bring a tenth of the gain
FIRST_STEPS, UNIFORM_STEPS = 2, 2  # with free and with uniform weights, by which a beginning is judged
UNIFORM_LARGEST = 10**6  # ... uniform ones where the network simplex has no more pairs of feature and point than this


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

    def newton(self, x: FloatArray) -> FloatArray:
        """The positions at which this plan costs least: the mean of what each receives (Liu et al., 2025, Eq. 38)."""
        return np.asarray((self.plan @ x) / np.asarray(self.plan.sum(axis=1))[:, None])

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
    least = np.inf
    steps = _with_free_weights(x, start, tolerance) if weights == "free" else _alternate(x, start, _balanced, tolerance)
    for step in steps:
        if step.objective < least:
            least = step.objective
            yield step


def _with_free_weights(x: FloatArray, start: FloatArray, tolerance: float) -> Iterator[Step]:
    """The better of two ways to begin, single moves, and the alternation to its end."""
    first: list[Step] = []
    for positions in _beginnings(x, start, tolerance):
        tried = list(islice(_alternate(x, positions, _nearest, tolerance), FIRST_STEPS))
        yield from tried
        first.append(tried[-1])
    last = min(first, key=lambda step: step.objective)
    for step in _alternate(x, last.newton(x), _nearest, LEAST_GAIN):
        yield step
        last = step
    for step in _single_moves(x, last):
        yield step
        last = step
    yield from _alternate(x, last.newton(x), _nearest, tolerance)


def _beginnings(x: FloatArray, start: FloatArray, tolerance: float) -> Iterator[FloatArray]:
    """The start as it is, which finds clusters of a few; and spread by uniform weights, those that Algorithm 2 begins
    with, which finds those of many: there it ends lower than the best of 8 starts."""
    yield start
    if len(x) * len(start) <= UNIFORM_LARGEST:
        *_, spread = islice(_alternate(x, start, _balanced, tolerance), UNIFORM_STEPS)
        yield spread.newton(x)


def _alternate(x: FloatArray, start: FloatArray, best: BestPlan, tolerance: float) -> Iterator[Step]:
    """The best plan for the positions, and the best positions for the plan, in turns."""
    lengths, positions, last = _squares(x), start, np.inf
    while True:
        step = best(x, lengths, positions)
        if step.objective < last:
            yield step
        if not step.objective < last * (1 - tolerance):
            return
        last, positions = step.objective, step.newton(x)


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
    return Step(positions=positions, plan=_whole_plan(nearest, m), objective=float(least.mean()))


def _single_moves(x: FloatArray, step: Step) -> Iterator[Step]:
    """Passes in which features change their position one by one, where that pays with both means moved along."""
    m, n = step.plan.shape
    plan = step.plan.tocoo()
    own = np.empty(n, dtype=np.int64)
    own[plan.col] = plan.row
    counts = np.bincount(own, minlength=m).astype(np.float64)
    means = (step.plan @ x) * (n / counts)[:, None]
    lengths, last = _squares(x), step.objective
    cost = _squared_distances(x, lengths, means)
    while True:
        changed = _move_singly(x, own, counts, means, cost)
        if not changed:
            return
        cost[changed] = _squared_distances(x, lengths, means[changed])
        objective = float(np.maximum(cost[own, np.arange(n)], 0.0).mean())
        if not objective < last:
            return
        yield Step(positions=means.copy(), plan=_whole_plan(own, m), objective=objective)
        if objective > last * (1 - LEAST_GAIN):
            return
        last = objective


def _move_singly(x: FloatArray, own: np.ndarray, counts: FloatArray, means: FloatArray, cost: FloatArray) -> list[int]:
    """One pass over the features, those that gain most first; `own`, `counts`, `means` follow. Which means moved.

    Leaving a mean of a features saves a/(a-1) squared distances, joining one of b costs b/(b+1) (Hartigan & Wong,
    1979).
    """
    every = np.arange(len(x))
    leaving = cost[own, every] * counts[own] / np.maximum(counts[own] - 1, 1)
    joining = cost * (counts / (counts + 1))[:, None]
    joining[own, every] = np.inf
    to = joining.argmin(axis=0)
    gain = leaving - joining[to, every]
    worth = np.flatnonzero(gain > ROUNDING * leaving)
    changed: set[int] = set()
    for i in worth[np.argsort(-gain[worth], kind="stable")]:
        a, b = int(own[i]), int(to[i])
        if counts[a] < 2:
            continue
        from_a, from_b = x[i] - means[a], x[i] - means[b]
        saved = counts[a] / (counts[a] - 1) * (from_a @ from_a)
        # Others moved before it in this pass: what it gains is looked at again.
        if saved * (1 - ROUNDING) <= counts[b] / (counts[b] + 1) * (from_b @ from_b):
            continue
        means[a] -= from_a / (counts[a] - 1)
        means[b] += from_b / (counts[b] + 1)
        counts[a], counts[b], own[i] = counts[a] - 1, counts[b] + 1, b
        changed |= {a, b}
    return sorted(changed)


def _whole_plan(own: np.ndarray, num_points: int) -> csr_array:
    """The plan that sends each feature as a whole: [m,n]."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=num_points))])
    order = np.argsort(own, kind="stable")
    return csr_array((np.full(len(own), 1 / len(own)), order, starts), shape=(num_points, len(own)))


def _balanced(x: FloatArray, lengths: FloatArray, positions: FloatArray) -> Step:
    """The optimal transport to positions of 1/m each."""
    m, n = len(positions), len(x)
    cost = np.maximum(_squared_distances(x, lengths, positions), 0.0)
    plan = ot.emd(np.full(m, 1 / m), np.full(n, 1 / n), cost, numItermax=10**7)
    return Step(positions=positions, plan=csr_array(plan), objective=float(np.vdot(plan, cost)))


def _squares(x: FloatArray) -> FloatArray:
    """The squared length of each row."""
    return np.asarray(np.einsum("ij,ij->i", x, x))


def _squared_distances(x: FloatArray, lengths: FloatArray, positions: FloatArray) -> FloatArray:
    """[m,n], by one product of matrices; rounding may leave a small number below 0."""
    cost = positions @ x.T
    cost *= -2
    cost += _squares(positions)[:, None]
    cost += lengths
    return cost


def _start(x: FloatArray, num_points: int, seed: int) -> FloatArray:
    """Features far apart, drawn by k-means++ (Arthur & Vassilvitskii, 2007)."""
    from sklearn.cluster import kmeans_plusplus

    if num_points == len(x):
        return x.copy()
    state = int(np.random.default_rng(seed).integers(2**31))
    return np.asarray(kmeans_plusplus(x, num_points, random_state=state, n_local_trials=1)[0], dtype=np.float64)


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
    if weights not in get_args(Weights):
        raise InputError(f"unknown weights {weights!r}; {did_you_mean(str(weights), get_args(Weights), most=2)}")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed must be a whole number of at least 0, got {seed!r}")
    return x
