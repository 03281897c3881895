"""Distances against closed forms and independent computations: POT's LP, SciPy, scikit-learn, brute force."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance as scipy_wasserstein
from sklearn.covariance import ledoit_wolf
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from sklearn.neighbors import NearestNeighbors

import ray_synth as rs
from ray_synth.errors import InputError
from ray_synth.metrics.dimension import mle_dimension, two_nn
from ray_synth.metrics.fidelity import (
    FeatureStats,
    frechet_distance,
    gaussian_wasserstein2,
    precision_recall,
    shrunk_stats,
)
from ray_synth.metrics.kernels import kernel_distance, mmd2
from ray_synth.metrics.transport import sliced_wasserstein, transport, wasserstein_distance


def clouds(n: int = 60, m: int = 60, d: int = 3, shift: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 1.5 + shift


@pytest.mark.parametrize("p", [1, 2])
def test_equal_sizes_are_an_assignment_problem(p: int) -> None:
    a, b = clouds()
    cost = np.linalg.norm(a[:, None] - b[None], axis=-1) ** p
    best = cost[linear_sum_assignment(cost)].mean() ** (1 / p)
    assert wasserstein_distance(a, b, p=p) == pytest.approx(best, rel=1e-9)


@settings(max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([1, 2]))
def test_one_dimension_by_sorting_equals_the_linear_program(n: int, m: int, seed: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 1)), rng.normal(size=(m, 1))
    flat = transport(a, b, p=p)
    assert flat.method == "exact_1d"
    padded = transport(np.c_[a, np.zeros(n)], np.c_[b, np.zeros(m)], p=p)
    assert padded.method == "exact"
    assert flat.value == pytest.approx(padded.value, rel=1e-9, abs=1e-9)
    if p == 1:
        assert flat.value == pytest.approx(scipy_wasserstein(a[:, 0], b[:, 0]), abs=1e-12)


@settings(max_examples=30)
@given(st.floats(-50, 50), st.integers(0, 1000))
def test_a_shift_costs_its_length_and_a_set_nothing_to_itself(shift: float, seed: int) -> None:
    a, _ = clouds(20, 20, 4, seed=seed)
    assert wasserstein_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert wasserstein_distance(a, a + shift) == pytest.approx(abs(shift) * 2, rel=1e-6, abs=1e-6)


def test_above_the_limit_it_is_sliced_and_says_so() -> None:
    a, _ = clouds(300, 1, 5)
    far = transport(a, a + 2.0, max_exact=100)
    assert far.method == "sliced"
    assert far.value == pytest.approx(2.0 * np.sqrt(5), rel=0.1)
    assert sliced_wasserstein(a, a + 2.0) <= wasserstein_distance(a, a + 2.0)
    shift = np.full(a.shape[1], 5.0 / np.sqrt(a.shape[1]))
    for p in (1, 2):  # of a shift by 5, whatever the power
        assert transport(a, a + shift, p=p, max_exact=100).value == pytest.approx(5.0, rel=0.1)


def test_gaussian_w2_of_samples_comes_to_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200_000, 2)), rng.normal(size=(200_000, 2)) @ np.diag([2.0, 0.5]) + [3.0, 0.0]
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 0.25, rel=0.02)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 20), (500, 400, 64), (15, 12, 30)])
def test_fid_equals_the_matrix_square_root_of_scipy(n: int, m: int, d: int) -> None:
    a, b = clouds(n, m, d)
    b = b @ np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0] * np.linspace(0.2, 2, d)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # A tiny multiple of the identity keeps SciPy's root real where n < d.
    root = scipy.linalg.sqrtm((s + 1e-12 * np.eye(d)) @ (t + 1e-12 * np.eye(d))).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6 if n > d else 1e-3)


def test_distances_equal_those_of_torch_fidelity() -> None:
    """The reference of papers' FID and KID, on the same features; KID's blocks are as large as the sets."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = (torch.from_numpy(cloud) for cloud in clouds(500, 500, 48, shift=0.3))
    statistics = [fid_features_to_statistics(each) for each in (a, b)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a.numpy(), b.numpy()) == pytest.approx(theirs, rel=1e-4)
    kid = kid_features_to_metric(a, b, kid_subsets=2, kid_subset_size=500, verbose=False)
    assert kernel_distance(a.numpy(), b.numpy()) == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(12, 30), (200, 20)])
def test_a_shrunk_covariance_is_scikit_learns(n: int, d: int) -> None:
    x = clouds(n, 1, d)[0] * np.linspace(0.2, 2, d)
    stats, (covariance, weight) = shrunk_stats(x), ledoit_wolf(x)
    np.testing.assert_allclose(stats.covariance, covariance, rtol=1e-9, atol=1e-12)
    assert stats.shrinkage == pytest.approx(weight)


@given(st.integers(0, 1000), st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_streamed_statistics_equal_those_of_the_whole(seed: int, cuts: list[int]) -> None:
    x = np.random.default_rng(seed).normal(size=(40, 3)) + 1e6  # far from zero: the naive sum of squares fails here
    stats = FeatureStats.of(np.split(x, sorted(cuts)))
    np.testing.assert_allclose(stats.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats.covariance, np.cov(x, rowvar=False), rtol=1e-6, atol=1e-9)
    assert gaussian_wasserstein2(stats, stats) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", ["rbf", "cubic", "linear"])
def test_mmd_equals_the_double_sum(kernel: str, unbiased: bool) -> None:
    a, b = clouds(50, 70, 4)
    grams = {
        "rbf": lambda x, y: rbf_kernel(x, y, gamma=1 / (2 * 1.7**2)),
        "cubic": lambda x, y: polynomial_kernel(x, y, degree=3, gamma=1 / 4, coef0=1),
        "linear": lambda x, y: x @ y.T,
    }[kernel]
    total = 0.0
    for x in (a, b):
        gram = grams(x, x)
        total += (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1)) if unbiased else gram.mean()
    expected = total - 2 * grams(a, b).mean()
    assert mmd2(a, b, kernel=kernel, bandwidth=1.7, unbiased=unbiased) == pytest.approx(expected, abs=1e-10)
    if kernel == "cubic" and unbiased:
        assert kernel_distance(a, b) == pytest.approx(expected, abs=1e-10)


def test_unbiased_mmd_of_one_distribution_is_zero_on_average() -> None:
    rng = np.random.default_rng(0)
    values = [mmd2(rng.normal(size=(40, 3)), rng.normal(size=(30, 3)), bandwidth=1.0) for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = clouds(50, 70, 4)
    before = mmd2(a, b), precision_recall(a, b)
    monkeypatch.setattr("ray_synth.metrics.kernels.BLOCK", 7)
    monkeypatch.setattr("ray_synth.metrics.fidelity.BLOCK", 7)
    assert mmd2(a, b) == pytest.approx(before[0], abs=1e-12)
    assert precision_recall(a, b) == before[1]


def test_precision_and_recall_count_points_in_balls() -> None:
    a, b = clouds(60, 80, 2, shift=1.5)

    def covered(points: np.ndarray, manifold: np.ndarray) -> float:
        radii = NearestNeighbors(n_neighbors=4).fit(manifold).kneighbors(manifold)[0][:, 3]
        return float((np.linalg.norm(points[:, None] - manifold[None], axis=-1) <= radii + 1e-12).any(1).mean())

    found = precision_recall(a, b, neighbours=3)
    assert found.precision == pytest.approx(covered(b, a))
    assert found.recall == pytest.approx(covered(a, b))
    collapsed = precision_recall(a, np.repeat(a[:4], 10, axis=0))
    assert collapsed.precision == 1
    assert collapsed.recall < 0.2


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_dimension_of_a_ball_in_a_larger_space_is_found(dimension: int) -> None:
    rng = np.random.default_rng(0)
    flat = rng.uniform(size=(3000, dimension))
    turned = flat @ np.linalg.qr(rng.normal(size=(20, 20)))[0][:dimension]
    assert two_nn(turned) == pytest.approx(dimension, rel=0.12)
    assert mle_dimension(turned) == pytest.approx(dimension, rel=0.15)


def test_wrong_features_are_refused() -> None:
    good = np.zeros((5, 2))
    for a, b in ((good, np.zeros((5, 3))), (good, np.full((5, 2), np.nan)), (good, np.zeros((0, 2))), (good[0], good)):
        for distance in (wasserstein_distance, frechet_distance, mmd2):
            with pytest.raises(InputError):
                distance(a, b)
    with pytest.raises(InputError, match="p must be 1 or 2"):
        wasserstein_distance(good, good, p=3)
    with pytest.raises(InputError, match="at least 2 samples"):
        frechet_distance(good[:1], good)
    with pytest.raises(InputError, match="2 samples a side"):
        mmd2(good[:1], good)
    with pytest.raises(InputError, match="neighbours"):
        precision_recall(good, good, neighbours=5)
    with pytest.raises(InputError, match="different"):
        two_nn(good)
    assert mmd2(good, good) == 0


def test_public_names_are_these() -> None:
    a, b = clouds()
    assert rs.wasserstein_distance(a, b) == wasserstein_distance(a, b)
    assert rs.frechet_distance(a, b) == frechet_distance(a, b)
    assert rs.kernel_distance(a, b) == kernel_distance(a, b)
    assert rs.mmd2(a, b) == mmd2(a, b)
