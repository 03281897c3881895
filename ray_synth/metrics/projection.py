"""Two feature sets in, both on the plane on which they are spread most out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_synth.metrics.transport import checked_features

MOST_FITTED = 1000  # rows a side


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """Coordinates of real [n,2] and synthetic [m,2] features; shares: of the spread, that of each axis."""

    real: np.ndarray
    synthetic: np.ndarray
    shares: tuple[float, float]


def principal_plane(real: np.ndarray, synthetic: np.ndarray, *, seed: int = 0) -> Plane:
    """The first two principal axes of both sets together, as many rows of each (1,000 at most) counting for them.

    real, synthetic: features [n,d], [m,d], d >= 2.
    """
    from sklearn.decomposition import PCA

    real, synthetic = checked_features(real, synthetic)
    most = min(len(real), len(synthetic), MOST_FITTED)
    fitted = np.concatenate([each[_spread(len(each), most)] for each in (real, synthetic)])
    with np.errstate(invalid="ignore"):  # equal images have no spread to share
        pca = PCA(n_components=2, random_state=seed).fit(fitted)
    first, second = (float(share) if np.isfinite(share) else 0.0 for share in pca.explained_variance_ratio_)
    return Plane(real=pca.transform(real), synthetic=pca.transform(synthetic), shares=(first, second))


def _spread(total: int, most: int) -> np.ndarray:
    """`most` rows, evenly from the first to the last."""
    return np.linspace(0, total - 1, min(total, most)).astype(int)
