"""Features in, regions out: faiss k-means over real and synthetic samples together (paper 000, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_synth.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """regions: int64 [n] in [0, K); centroids: float32 [K,d]; objective: mean squared distance to the own centroid."""

    regions: np.ndarray
    centroids: np.ndarray
    objective: float


def kmeans_partition(features: np.ndarray, num_clusters: int, *, iterations: int = 300, seed: int = 0) -> Partition:
    """Seeded Lloyd k-means on every sample (no subsampling).

    features: [n,d], finite.

    Raises:
        InputError: more clusters than samples, features that are not finite or not [n,d].
    """
    import faiss

    features = np.ascontiguousarray(features, dtype=np.float32)
    if features.ndim != 2 or len(features) == 0:
        raise InputError(f"features must be [n,d] with n >= 1, got shape {list(features.shape)}")
    if not np.isfinite(features).all():
        raise InputError("features must be finite, got NaN or infinity; remove those samples first")
    if not 1 <= num_clusters <= len(features):
        raise InputError(
            f"num_clusters must be between 1 and the number of samples ({len(features)}), got {num_clusters}"
        )
    kmeans = faiss.Kmeans(
        features.shape[1],
        num_clusters,
        niter=iterations,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),
    )
    kmeans.train(features)
    squared, nearest = kmeans.index.search(features, 1)
    return Partition(
        regions=nearest[:, 0].astype(np.int64),
        centroids=np.asarray(kmeans.centroids, dtype=np.float32).reshape(num_clusters, -1),
        objective=float(np.maximum(squared, 0).mean(dtype=np.float64)),
    )
