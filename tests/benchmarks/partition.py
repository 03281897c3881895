"""k-means against scikit-learn in objective and time, and the memory that clustering 52,000 photographs takes.

    python -m tests.benchmarks.partition objective     # 50,000 x 512, K = 200, beside the best of 10; about 15 minutes
    python -m tests.benchmarks.partition memory        # 52,000 images of 224x224x3, K = 200; about 10 minutes
    python -m tests.benchmarks.partition sample        # 20,000 to 500,000 x 32, K = 100: of a sample; 15 minutes
    python -m tests.benchmarks.partition scale         # 20,000 to 2 million images, K = 100; about 5 minutes

Two kinds of vectors: 200 clusters that overlap, and a power-law spectrum without clusters, as pixels have. Exits 1 when
a bar is missed.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_synth.classifier.regions import Vectors, regions_of
from ray_synth.data.source import ImageSource, Rows
from ray_synth.partition import kmeans_partition, most_fitted, nearest, sampled

KINDS = ("clusters", "spectrum")
SIZES = (20_000, 100_000, 500_000)


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


def sample(kinds: list[str], clusters: int = 100, seeds: int = 3) -> bool:
    """What k-means of so many vectors a cluster gives on all of them, beside k-means of all."""
    met = True
    for kind in kinds:
        for n in SIZES:
            x = vectors(kind, n, 32, clusters)
            start = time.perf_counter()
            whole = [kmeans_partition(x, clusters, iterations=100, seed=seed).objective for seed in range(seeds)]
            seconds = [(time.perf_counter() - start) / seeds]
            said = []
            for per_cluster in (64, 128, 256):
                if per_cluster * clusters >= n:
                    continue
                excess, start = [], time.perf_counter()
                for seed in range(seeds):
                    rows = sampled(map(str, range(n)), per_cluster * clusters, seed)
                    centroids = kmeans_partition(x[rows], clusters, iterations=100, seed=seed).centroids
                    away = (((x[part] - centroids[nearest(x[part], centroids)]) ** 2).sum() for part in blocks(n))
                    excess.append(sum(map(float, away)) / n / whole[seed] - 1)
                seconds.append((time.perf_counter() - start) / seeds)
                expected = 1 / per_cluster - clusters / n
                said.append(
                    f"{per_cluster} a cluster {100 * np.mean(excess):+.2f} % ({100 * min(excess):+.2f} to "
                    f"{100 * max(excess):+.2f}; means alone: {100 * expected:+.2f}), {seconds[-1]:.1f} s"
                )
                met &= per_cluster < 256 or max(excess) <= 0.0125
            print(f"{kind}, {n:,}: all {seconds[0]:.1f} s; {'; '.join(said)}", flush=True)
    return met


def blocks(n: int, size: int = 4096) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Made(ImageSource):
    """Images of smooth shapes and noise, each made of its row when it is asked for, as a reader would."""

    rows: np.ndarray

    @classmethod
    def of(cls, number: int, side: int) -> Made:
        names = np.array([f"made-{row}" for row in range(number)], dtype=object)
        labels = np.zeros(number, dtype=np.int64)
        return cls(rows=np.arange(number), labels=labels, class_names=("a",), shape=(side, side, 3), sources=names)

    def images(self, rows: Rows | None = None) -> np.ndarray:
        taken = self.rows if rows is None else self.rows[rows]
        coarse, noise = tables(self.shape[0])
        smooth = coarse[taken * 7919 % len(coarse)].repeat(self.shape[0] // 4, axis=1)
        return smooth.repeat(self.shape[1] // 4, axis=2) + noise[taken * 104_729 % len(noise)]

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"rows": self.rows[rows]}


@functools.cache
def tables(side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 50, (max(64, 2**24 // side**2 // 3), side, side, 3), dtype=np.uint8)
    return rng.integers(0, 200, (10_007, 4, 4, 3), dtype=np.uint8), noise


def took(n: int, side: int, clusters: int) -> None:
    """In a process of its own, whose peak it is."""
    images = Made.of(n, side)
    images.images(slice(1))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    vectors = Vectors([images], "pixels", at_once=most_fitted(clusters))
    found = regions_of(vectors, images.sources, clusters, iterations=300, seed=0)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes = np.bincount(found, minlength=clusters)
    print(
        f"{n:,} images of {side}x{side}, K = {clusters}: {seconds:.0f} s, {(peak - before) / 2**20:.2f} GiB more than "
        f"before, peak {peak / 2**20:.2f} GiB; all vectors {n * side**2 * 3 * 4 / 2**30:.2f} GiB; "
        f"regions of {sizes.min():,} to {sizes.max():,}",
        flush=True,
    )
    sys.exit(peak > 4 * 2**20)


def alone(n: int, side: int, clusters: int) -> float:
    """Its seconds. Ends this process where it fails, or takes more than 4 GiB."""
    process = multiprocessing.get_context("spawn").Process(target=took, args=(n, side, clusters))
    start = time.perf_counter()
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(1)
    return time.perf_counter() - start


def scale() -> bool:
    sizes = (*SIZES, 4 * SIZES[-1])
    seconds = [alone(n, 16, 100) for n in sizes]
    slopes = [
        math.log(b / a) / math.log(m / n)
        for a, b, n, m in zip(seconds[:-1], seconds[1:], sizes[:-1], sizes[1:], strict=True)
    ]
    print("slopes from size to size: " + ", ".join(f"{slope:.2f}" for slope in slopes))
    return slopes[-1] <= 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["objective", "memory", "sample", "scale"])
    parser.add_argument("--images", type=int, default=52_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    met = {
        "objective": lambda: objective(arguments.kinds),
        "memory": lambda: alone(arguments.images, 224, 200) > 0,
        "sample": lambda: sample(arguments.kinds),
        "scale": scale,
    }[arguments.what]()
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
