"""k-means against scikit-learn, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans

from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.partition import OnlineKMeans, kmeans_partition, nearest, region_report, sampled


def test_objective_is_near_the_best_of_ten_of_scikit_learn(digits: ImageSet) -> None:
    pixels = digits.images().reshape(len(digits), -1) / 255.0
    ours = min(kmeans_partition(pixels, 20, seed=seed).objective for seed in range(3))
    theirs = KMeans(20, n_init=10, random_state=0).fit(pixels).inertia_ / len(pixels)
    assert ours < 1.02 * theirs


def test_regions_are_the_nearest_centroids_and_the_objective_their_mean_square(digits: ImageSet) -> None:
    pixels = (digits.images().reshape(len(digits), -1) / 255.0).astype(np.float32)
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


def test_clustered_data_is_found_within_a_hundredth_of_scikit_learn() -> None:
    """Clusters as many as centroids: uniformly drawn starts end 15 % above the best."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 64)) * 2
    points = (centres[rng.integers(40, size=4000)] + rng.normal(size=(4000, 64))).astype(np.float32)
    theirs = KMeans(40, n_init=10, random_state=0).fit(points).inertia_ / len(points)
    for seed in range(3):
        assert kmeans_partition(points, 40, seed=seed).objective < 1.01 * theirs


def test_a_sample_of_p_points_a_cluster_costs_one_pth_of_the_objective() -> None:
    """A mean of p of n points is off by their variance times 1/p - 1/n: with 40 of 400 a cluster, .0225 of it."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 64)) * 4
    points = (np.repeat(centres, 400, axis=0) + rng.normal(size=(4000, 64))).astype(np.float32)
    everything, excess = kmeans_partition(points, 10).objective, []
    for seed in range(5):
        rows = sampled(map(str, range(4000)), 400, seed)
        centroids = kmeans_partition(points[rows], 10).centroids
        objective = ((points - centroids[nearest(points, centroids)]) ** 2).sum(1).mean()
        excess.append(objective / everything - 1)
    assert np.mean(excess) == pytest.approx(1 / 40 - 1 / 400, rel=0.1)


def test_a_sample_follows_from_names_and_seed() -> None:
    names = np.array([f"image-{i}" for i in range(1000)], dtype=object)
    drawn = names[sampled(names, 100, 7)]
    turned = names[np.random.default_rng(0).permutation(1000)]
    assert (turned[sampled(turned, 100, 7)] == drawn).all()  # in the same order too
    assert len(set(drawn)) == 100
    assert set(drawn) <= set(names[sampled(names, 300, 7)])
    both = set(drawn) & set(names[sampled(names, 100, 8)])
    assert len(both) < 30  # of 10 expected
    rows = np.concatenate([sampled(names, 100, seed) for seed in range(200)])
    times = np.bincount(rows, minlength=1000)  # each is drawn 20 times on average
    assert ((times - 20) ** 2).mean() == pytest.approx(200 * 0.1 * 0.9, rel=0.2)


def test_faiss_is_asked_to_use_the_gpus_that_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    points, asked, kind = np.random.default_rng(0).normal(size=(300, 5)), [], faiss.Kmeans

    def kmeans(*given: int, gpu: int, **how: int) -> faiss.Kmeans:
        asked.append(gpu)
        return kind(*given, **how)

    monkeypatch.setattr(faiss, "Kmeans", kmeans)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    kmeans_partition(points, 7)
    assert asked[-1] == 2
    assert not any(asked[:-1])  # small ones, to begin with


def test_online_kmeans_is_scikit_learns_and_the_papers_one_by_one() -> None:
    rng = np.random.default_rng(0)
    first, batches = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(20, 15, 3)).astype(np.float32)
    online = OnlineKMeans(first)
    centroids, counts = first.astype(np.float64), np.zeros(6)
    oracle = MiniBatchKMeans(6, init=first, n_init=1, reassignment_ratio=0.0)
    for batch in batches:
        nearest = ((batch[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
        for x, i in zip(batch, nearest, strict=True):  # lines 11 to 13, sample by sample
            counts[i] += 1
            centroids[i] += (x - centroids[i]) / counts[i]
        assert (online.update(batch) == nearest).all()
        oracle.partial_fit(batch)
    assert np.allclose(online.centroids, centroids, atol=1e-5)
    assert np.allclose(online.centroids, oracle.cluster_centers_, atol=1e-5)
    resumed = OnlineKMeans(online.centroids, online.counts)
    assert (resumed.update(batches[0]) == online.update(batches[0])).all()


def test_the_report_counts_regions_purity_and_coverage() -> None:
    report = region_report(
        np.array([0, 0, 1]), np.array([0, 2, 2, 2]), np.array([0, 1, 1]), np.array([0, 1, 1, 0]), num_regions=4
    )
    assert report.sizes == (0, 2, 3)
    assert report.empty == 1
    assert report.with_real == pytest.approx(2 / 3)
    assert report.covered_synthetic == pytest.approx(1 / 4)
    assert report.purity == pytest.approx((2 + 1 + 2) / 7)
