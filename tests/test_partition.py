"""k-means against scikit-learn, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.partition import kmeans_partition


def test_objective_is_near_the_best_of_ten_of_scikit_learn(digits: ImageSet) -> None:
    pixels = digits.images.reshape(len(digits), -1) / 255.0
    ours = min(kmeans_partition(pixels, 20, seed=seed).objective for seed in range(3))
    theirs = KMeans(20, n_init=10, random_state=0).fit(pixels).inertia_ / len(pixels)
    assert ours < 1.02 * theirs


def test_regions_are_the_nearest_centroids_and_the_objective_their_mean_square(digits: ImageSet) -> None:
    pixels = (digits.images.reshape(len(digits), -1) / 255.0).astype(np.float32)
    partition = kmeans_partition(pixels, 12)
    squared = ((pixels[:, None] - partition.centroids[None]) ** 2).sum(-1)
    assert (squared.argmin(1) == partition.regions).mean() > 0.999
    assert partition.objective == pytest.approx(squared.min(1).mean(), rel=1e-4)


def test_same_seed_same_regions() -> None:
    points = np.random.default_rng(0).normal(size=(200, 5))
    assert (kmeans_partition(points, 7, seed=3).regions == kmeans_partition(points, 7, seed=3).regions).all()


def test_as_many_clusters_as_samples_leave_no_distance() -> None:
    points = np.random.default_rng(0).normal(size=(6, 2))
    assert kmeans_partition(points, 6).objective == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("points", "clusters", "expected"),
    [
        (np.zeros((3, 2)), 4, r"number of samples \(3\), got 4"),
        (np.zeros((3, 2)), 0, "got 0"),
        (np.full((3, 2), np.nan), 2, "finite"),
        (np.zeros(3), 1, r"\[n,d\]"),
    ],
)
def test_wrong_input_is_refused(points: np.ndarray, clusters: int, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        kmeans_partition(points, clusters)
