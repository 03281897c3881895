"""Feature sets in, how near and how complete the synthetic one is out: FID, precision and recall."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_synth.errors import InputError
from ray_synth.metrics.kernels import BLOCK, squared_distances
from ray_synth.metrics.transport import checked_features

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStats:
    """Mean [d] and covariance [d,d] (ddof=1, the FID convention) of n features; shrinkage: its weight, where it is
    shrunk."""

    mean: FloatArray
    covariance: FloatArray
    count: int
    shrinkage: float = 0.0

    @classmethod
    def of(cls, batches: Iterable[np.ndarray]) -> FeatureStats:
        """From batches [b,d], one pass: Chan's update of mean and scatter, which keeps its digits far from zero."""
        count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
        for batch in batches:
            x = np.asarray(batch, dtype=np.float64)
            if not len(x):
                continue
            n, m = len(x), x.mean(axis=0)
            centred = x - m
            if count == 0:
                count, mean, scatter = n, m, centred.T @ centred
                continue
            shift = m - mean
            scatter = scatter + centred.T @ centred + np.outer(shift, shift) * (count * n / (count + n))
            mean = mean + shift * (n / (count + n))
            count += n
        if count < 2:
            raise InputError(f"a covariance needs at least 2 samples, got {count}")
        return cls(mean=mean, covariance=scatter / (count - 1), count=count)


def shrunk_stats(features: np.ndarray) -> FeatureStats:
    """Mean and covariance of [n,d], the latter drawn to a multiple of the identity by as much as its noise asks for
    (Ledoit & Wolf, 2004): of fewer samples than features the plain one is singular, and far off. With ddof=0, as there.
    """
    x, _ = checked_features(features, features)
    n, d = x.shape
    mean = x.mean(axis=0)
    centred = x - mean
    covariance = centred.T @ centred / n
    scale = float(np.trace(covariance)) / d
    apart = float((covariance**2).sum()) - d * scale**2  # |S - scale I|²
    noise = (float(((centred**2).sum(axis=1) ** 2).sum()) / n - float((covariance**2).sum())) / n  # of S itself
    weight = min(max(noise / apart, 0.0), 1.0) if apart > 0 else 0.0
    shrunk = (1 - weight) * covariance + weight * scale * np.eye(d)
    return FeatureStats(mean=mean, covariance=shrunk, count=n, shrinkage=weight)


def gaussian_wasserstein2(real: FeatureStats, synthetic: FeatureStats) -> float:
    """Squared W2 between the fitted Gaussians: |m₁−m₂|² + tr(S₁ + S₂ − 2(S₁^½ S₂ S₁^½)^½) (Dowson & Landau, 1982).

    The root's trace is the sum of the roots of the eigenvalues of S₁^½ S₂ S₁^½, here in the directions of S₁: no square
    root of a matrix, and eigenvalues that are rounding of 0 are left out.
    """
    if real.mean.shape != synthetic.mean.shape:
        raise InputError(f"features must have one dimension, got {len(real.mean)} and {len(synthetic.mean)}")
    values, vectors = np.linalg.eigh(real.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    found = np.linalg.eigvalsh(root.T @ synthetic.covariance @ root)
    rounding = len(found) * np.finfo(np.float64).eps * max(float(found[-1]), 0.0)
    overlap = np.sqrt(found[found > rounding]).sum()
    traces = np.trace(real.covariance) + np.trace(synthetic.covariance)
    shift = real.mean - synthetic.mean
    return max(float(shift @ shift + traces - 2 * overlap), 0.0)


def frechet_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Fréchet (Inception) distance of two feature sets, squared, covariances with ddof=1 (Heusel et al., 2017).

    real: [n,d]; synthetic: [m,d]; two samples a side at least, and more than d for it to mean much.
    """
    real, synthetic = checked_features(real, synthetic)
    return gaussian_wasserstein2(FeatureStats.of([real]), FeatureStats.of([synthetic]))


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """precision: share of synthetic samples in the real manifold; recall: share of real ones in the synthetic one."""

    precision: float
    recall: float


def precision_recall(real: np.ndarray, synthetic: np.ndarray, *, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al., 2019): manifolds are balls to the k-th nearest neighbour.

    real: [n,d]; synthetic: [m,d]; n, m > neighbours.
    """
    real, synthetic = checked_features(real, synthetic)
    if not 1 <= neighbours < min(len(real), len(synthetic)):
        raise InputError(
            f"neighbours must be >= 1 and below the samples of each side ({len(real)}, {len(synthetic)}), "
            f"got {neighbours}"
        )
    return PrecisionRecall(
        precision=_covered(synthetic, real, neighbours), recall=_covered(real, synthetic, neighbours)
    )


def _covered(points: FloatArray, manifold: FloatArray, neighbours: int) -> float:
    """Share of points within some manifold point's distance to its k-th neighbour (itself not counted)."""
    radii = np.concatenate(
        [
            np.partition(squared_distances(manifold[i : i + BLOCK], manifold), neighbours, axis=1)[:, neighbours]
            for i in range(0, len(manifold), BLOCK)
        ]
    )
    inside = [
        (squared_distances(points[i : i + BLOCK], manifold) <= radii[None, :]).any(axis=1)
        for i in range(0, len(points), BLOCK)
    ]
    return float(np.concatenate(inside).mean())
