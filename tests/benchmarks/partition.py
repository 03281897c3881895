"""k-means against scikit-learn in objective and time, and the memory that clustering 52,000 photographs takes.

    python -m tests.benchmarks.partition objective     # 50,000 x 512, K = 200, beside the best of 10; about 15 minutes
    python -m tests.benchmarks.partition memory        # 52,000 images of 224x224x3, K = 200; about 10 minutes

Two kinds of vectors: 200 clusters that overlap, and a power-law spectrum without clusters, as pixels have. Exits 1 when
a bar is missed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np

from ray_synth.features.pixels import pixel_features
from ray_synth.partition import kmeans_partition

KINDS = ("clusters", "spectrum")


def vectors(kind: str, n: int = 50_000, d: int = 512, clusters: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "clusters":
        centres = rng.normal(size=(clusters, d))
        return (centres[rng.integers(clusters, size=n)] + rng.normal(size=(n, d))).astype(np.float32)
    return (rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.7).astype(np.float32)


def objective(kinds: list[str]) -> bool:
    from sklearn.cluster import KMeans

    met = True
    for kind in kinds:
        x = vectors(kind)
        ours = []
        start = time.perf_counter()
        for seed in range(3):
            ours.append(kmeans_partition(x, 200, seed=seed).objective)
        seconds = (time.perf_counter() - start) / 3
        start = time.perf_counter()
        theirs = KMeans(200, n_init=10, random_state=0).fit(x).inertia_ / len(x)
        longer = (time.perf_counter() - start) / seconds
        worst = max(ours) / theirs - 1
        print(f"{kind}: objective {100 * worst:+.2f} % of the best of 10 (worst of 3 seeds), {longer:.1f} x faster")
        met &= worst <= 0.01 and longer >= 5
    return met


def photographs(n: int, side: int, batch: int = 50) -> Iterator[np.ndarray]:
    """Images of smooth shapes and noise, made as they are needed, as a reader would."""
    rng = np.random.default_rng(0)
    for start in range(0, n, batch):
        coarse = rng.integers(0, 200, (min(batch, n - start), side // 16, side // 16, 3), dtype=np.uint8)
        images = np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2)
        yield images + rng.integers(0, 50, images.shape[1:], dtype=np.uint8)


def memory(n: int) -> bool:
    start = time.perf_counter()
    features = pixel_features(photographs(n, 224), n)
    read = time.perf_counter() - start
    partition = kmeans_partition(features, 200, iterations=300)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{n:,} images of 224x224: vectors of {features.shape[1]:,}, read in {read:.0f} s, clustered in "
        f"{time.perf_counter() - start - read:.0f} s, regions of {np.bincount(partition.regions).min()} to "
        f"{np.bincount(partition.regions).max()}; peak {peak:.2f} GiB"
    )
    return peak <= 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["objective", "memory"])
    parser.add_argument("--images", type=int, default=52_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    sys.exit(0 if (objective(arguments.kinds) if arguments.what == "objective" else memory(arguments.images)) else 1)


if __name__ == "__main__":
    main()
