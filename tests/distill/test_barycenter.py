"""Barycenters against linear programs, POT, every partition, the quantizers of a Gaussian, and their symmetries."""

from __future__ import annotations

from itertools import product

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import norm, ortho_group

import ray_synth as rs
from ray_synth.distill.barycenter import Weights, descend
from ray_synth.errors import InputError

both = pytest.mark.parametrize("weights", ["free", "uniform"])


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * np.linspace(1, 2, d)


def costs(positions: np.ndarray, x: np.ndarray) -> np.ndarray:
    return ((positions[:, None] - x[None]) ** 2).sum(-1)


def least_cost(cost: np.ndarray, masses: np.ndarray | None) -> float:
    """The transport problem as a linear program. Rows (of the given masses, or free) to columns of 1/n; cost: [m,n]"""
    m, n = cost.shape
    to_columns = np.kron(np.ones((1, m)), np.eye(n))
    equal, right = to_columns, np.full(n, 1 / n)
    if masses is not None:
        equal = np.concatenate([to_columns, np.kron(np.eye(m), np.ones((1, n)))])
        right = np.concatenate([right, masses])
    found = linprog(cost.ravel(), A_eq=equal, b_eq=right, bounds=(0, None), method="highs")
    assert found.status == 0
    return float(found.fun)


@both
@pytest.mark.parametrize("seed", range(6))
def test_the_objective_is_a_linear_programs(weights: Weights, seed: int) -> None:
    x = points(23, 3, seed)
    found = rs.wasserstein_barycenter(x, 4, weights=weights, seed=seed)
    cost = costs(found.positions, x)
    assert found.objective == pytest.approx(least_cost(cost, found.weights), abs=1e-9)
    if weights == "free":  # no other weights are better at these positions: they are the nearest positions' masses
        assert found.objective == pytest.approx(least_cost(cost, None), abs=1e-9)
        assert np.allclose(found.weights, np.bincount(cost.argmin(0), minlength=4) / len(x))
    else:
        assert np.allclose(found.weights, 1 / 4)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_of_some_seeds_is_the_best_of_all_partitions(seed: int) -> None:
    x = points(9, 2, seed)
    best = {"free": np.inf, "uniform": np.inf}
    for labels in product(range(3), repeat=8):
        own = np.array((0, *labels))
        sizes = np.bincount(own, minlength=3)
        spread = sum(((x[own == k] - x[own == k].mean(0)) ** 2).sum() for k in range(3) if sizes[k]) / 9
        best["free"] = min(best["free"], spread)
        best["uniform"] = min(best["uniform"], spread) if (sizes == 3).all() else best["uniform"]
    for weights in ("free", "uniform"):
        ours = [rs.wasserstein_barycenter(x, 3, weights=weights, seed=s).objective for s in range(20)]
        assert min(ours) == pytest.approx(best[weights], rel=1e-9)
        assert all(one >= best[weights] * (1 - 1e-9) for one in ours)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("n", "d", "m"), [(60, 2, 6), (53, 5, 7), (200, 64, 10)])
def test_uniform_weights_are_never_above_pots_from_the_same_start(n: int, d: int, m: int, seed: int) -> None:
    x = points(n, d, seed)
    start = x[np.random.default_rng(seed).choice(n, m, replace=False)]
    *_, ours = descend(x, start, "uniform")
    theirs = ot.lp.free_support_barycenter([x], [np.full(n, 1 / n)], start)
    cost = ot.emd2(np.full(m, 1 / m), np.full(n, 1 / n), ot.dist(theirs, x))
    assert ours.objective <= cost * (1 + 1e-9)


@both
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_step_is_a_plan_of_its_cost_and_below_the_last(weights: Weights, data: st.DataObject) -> None:
    """Small whole numbers: ties, features that coincide, and points that nothing is nearest to."""
    n = data.draw(st.integers(1, 30))
    m, d = data.draw(st.integers(1, n)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    x = rng.integers(0, data.draw(st.integers(1, 6)), size=(n, d)).astype(np.float64)
    start = x[rng.integers(n, size=m)] + rng.integers(0, 2) * 1.0
    steps = list(descend(x, start, weights))
    objectives = [step.objective for step in steps]
    assert (np.diff(objectives) < 0).all()
    for step in steps:
        plan = step.plan.toarray()
        assert np.allclose(plan.sum(0), 1 / n)
        assert (plan.sum(1) > 0).all()
        assert step.objective == pytest.approx((plan * costs(step.positions, x)).sum(), abs=1e-9)
        assert step.exact_objective(x) == pytest.approx(step.objective, abs=1e-9)
    last = costs(steps[-1].positions, x)
    if weights == "free":
        assert objectives[-1] == pytest.approx(last.min(0).mean(), abs=1e-9)
    else:
        assert np.allclose(steps[-1].plan.sum(axis=1), 1 / m)
    assert objectives[-1] >= (0 if weights == "free" else last.min(0).mean()) - 1e-9


# The Lloyd-Max quantizers of the unit Gaussian, positions and mean squared error (Max, 1960, Table I).
QUANTIZERS = {
    2: ([-0.7980, 0.7980], 0.3634),
    3: ([-1.224, 0.0, 1.224], 0.1902),
    4: ([-1.510, -0.4528, 0.4528, 1.510], 0.1175),
    8: ([-2.152, -1.344, -0.7560, -0.2451, 0.2451, 0.7560, 1.344, 2.152], 0.03454),
}


@pytest.mark.parametrize("m", QUANTIZERS)
def test_free_points_of_a_gaussian_are_its_optimal_quantizer(m: int) -> None:
    x = norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    found = rs.wasserstein_barycenter(x, m)
    order = found.positions[:, 0].argsort()
    positions, distortion = QUANTIZERS[m]
    assert found.positions[order, 0] == pytest.approx(positions, abs=0.015)
    assert found.objective == pytest.approx(distortion, rel=5e-3)
    edges = (np.array(positions)[1:] + np.array(positions)[:-1]) / 2
    masses = np.diff(norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]])))
    assert found.weights[order] == pytest.approx(masses, abs=5e-3)


@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_uniform_points_of_a_gaussian_are_the_means_of_its_quantile_cells(m: int) -> None:
    """On a line transport keeps the order, so one step is exact: m (φ(q) − φ(q'))."""
    x = norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    found = rs.wasserstein_barycenter(np.random.default_rng(0).permutation(x), m, weights="uniform")
    density = norm.pdf(norm.ppf(np.arange(m + 1) / m))
    means = m * (density[:-1] - density[1:])
    assert np.sort(found.positions[:, 0]) == pytest.approx(means, abs=1e-3)
    assert found.objective == pytest.approx(1 - (means**2).mean(), abs=2e-3)
    blocks = x.reshape(m, -1)
    assert found.objective == pytest.approx(((blocks - blocks.mean(1, keepdims=True)) ** 2).mean(), rel=1e-9)


@both
def test_two_points_of_a_long_gaussian_lie_along_its_long_axis(weights: Weights) -> None:
    x = np.random.default_rng(0).normal(size=(4000, 3)) * (3, 1, 1)
    found = rs.wasserstein_barycenter(x, 2, weights=weights)
    expected = 3 * np.sqrt(2 / np.pi)
    assert np.abs(found.positions[:, 0]) == pytest.approx([expected] * 2, rel=0.05)
    assert np.abs(found.positions[:, 1:]).max() < 0.1
    assert found.objective == pytest.approx(11 - expected**2, rel=0.05)


@both
def test_one_point_is_the_mean_and_as_many_as_there_are_the_features_themselves(weights: Weights) -> None:
    x = points(12, 4)
    one = rs.wasserstein_barycenter(x, 1, weights=weights)
    assert np.allclose(one.positions, x.mean(0))
    assert one.objective == pytest.approx(x.var(0).sum())
    every = rs.wasserstein_barycenter(x, 12, weights=weights)
    assert np.allclose(every.positions, x)
    assert np.allclose(every.weights, 1 / 12)
    assert every.objective == pytest.approx(0, abs=1e-12)


@both
def test_moved_turned_scaled_and_reordered_features_give_points_that_are_so_too(weights: Weights) -> None:
    x, start = points(80, 6), points(80, 6)[:7]
    turn = ortho_group.rvs(6, random_state=0)
    *_, plain = descend(x, start, weights)
    *_, turned = descend(3 * x @ turn + 5, 3 * start @ turn + 5, weights)
    assert np.allclose(turned.positions, 3 * plain.positions @ turn + 5)
    assert turned.objective == pytest.approx(9 * plain.objective)
    *_, mixed = descend(x[::-1].copy(), start[::-1].copy(), weights)
    assert np.allclose(mixed.positions, plain.positions[::-1])
    a, b = (rs.wasserstein_barycenter(y, 7, weights=weights) for y in (x, 2 * x + 100))
    assert np.allclose(b.positions, 2 * a.positions + 100)


@both
def test_a_column_that_is_constant_changes_nothing(weights: Weights) -> None:
    x = points(40, 3)
    wide = np.concatenate([x, np.full((40, 1), 7.0)], axis=1)
    plain, padded = (rs.wasserstein_barycenter(y, 5, weights=weights) for y in (x, wide))
    assert np.allclose(padded.positions, np.concatenate([plain.positions, np.full((5, 1), 7.0)], axis=1))
    assert padded.objective == pytest.approx(plain.objective)


@both
def test_same_seed_same_bits_and_another_seed_another_start(weights: Weights) -> None:
    x = points(120, 5)
    given = x.copy()
    first, again, other = (rs.wasserstein_barycenter(x, 9, weights=weights, seed=seed) for seed in (3, 3, 4))
    assert first.positions.tobytes() == again.positions.tobytes()
    assert first.weights.tobytes() == again.weights.tobytes()
    assert first.objective == again.objective
    assert (first.positions != other.positions).any()
    assert (x == given).all()


@both
def test_points_share_what_coincides(weights: Weights) -> None:
    x = np.repeat([[0.0, 0.0], [5.0, 1.0]], (6, 2), axis=0)
    found = rs.wasserstein_barycenter(x, 4, weights=weights)
    assert found.objective == pytest.approx(0, abs=1e-12) or weights == "uniform"
    assert (found.weights > 0).all()
    assert found.weights.sum() == pytest.approx(1)
    assert {tuple(one) for one in found.positions.round(9)} == {(0.0, 0.0), (5.0, 1.0)}


def test_digits_that_long_common_vectors_would_cost_are_kept() -> None:
    x = points(60, 4)
    far = rs.wasserstein_barycenter(x + 1e6, 5)
    assert far.objective == pytest.approx(rs.wasserstein_barycenter(x, 5).objective, rel=1e-8)


@pytest.mark.parametrize(
    ("x", "changed", "expected"),
    [
        (np.zeros((3, 2)), {"num_points": 4}, r"number of features \(3\), got 4"),
        (np.zeros((3, 2)), {"num_points": 0}, "got 0"),
        (np.zeros((3, 2)), {"num_points": True}, "got True"),
        (np.zeros((3, 2)), {"num_points": 1.5}, "got 1.5"),
        (np.full((3, 2), np.nan), {}, "finite"),
        (np.full((3, 2), 1e200), {}, "scale them down"),
        (np.zeros(3), {}, r"\[n,d\].*\[3\]"),
        (np.zeros((0, 2)), {}, r"\[n,d\]"),
        (np.zeros((3, 2)), {"weights": "unifrom"}, "did you mean uniform"),
        (np.zeros((3, 2)), {"seed": -1}, "got -1"),
    ],
)
def test_wrong_input_is_refused(x: np.ndarray, changed: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        rs.wasserstein_barycenter(x, **{"num_points": 2, **changed})  # type: ignore[arg-type]
