"""Both image sets and their features in, the closed form under every reading of its terms out, as one table.

Corollary 2.2.1 (Shidani et al., 2025) wants a discrepancy D, a noise variance σ² and a decay r, none of which images
have; section 6 names proxies and warns that the answer swings with the scale of σ². All of them are tried here, so that
the swing is seen: no one of them is the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_synth.bound.image_risk import MAX_POINTS
from ray_synth.bound.theorem import MINIMUM_DECAY, optimal_strength
from ray_synth.metrics.fidelity import frechet_distance
from ray_synth.metrics.kernels import mmd2
from ray_synth.metrics.transport import wasserstein_distance

FloatArray = NDArray[np.float64]

NOISES = ("[0, 1]", "[0, 255]", "variance 1")  # the scale of pixels that σ² is read at
DECAYS = ("2d", "1d")  # modes of a 2-D image counted (r = −slope/4), or the radial frequency read as index (−slope/2)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """One reading: which discrepancy, σ² at which scale, which decay, their values, and the ratio (capped)."""

    discrepancy: str
    noise: str
    decay: str
    distance: float
    noise_variance: float
    exponent: float
    ratio: float


def feature_discrepancies(goal: FloatArray, synthetic: FloatArray) -> dict[str, float]:
    """FID, squared W₂ and squared MMD (Gaussian kernel of the median distance) of features [n,d], [m,d].

    MMD² is the unbiased estimate, in [0, 2]. FID and W₂² are what exceeds the same distance between two samples of one
    side, of the side where it is the smaller: two noisy sets are farther from each other than either is from a clean
    one. They are in units of the features' own variance about the mean of `goal`, so none has the scale of the
    features. At most 500 points a sample; nothing where a side has fewer than 4.
    """
    size = min(len(goal) // 2, len(synthetic) // 2, MAX_POINTS)
    if size < 2:
        return {}
    ours, theirs = _two_samples(goal, size), _two_samples(synthetic, size)
    spread = max(float(goal.var(axis=0).sum()), 1e-12)

    def excess(distance: Callable[[FloatArray, FloatArray], float]) -> float:
        across = [distance(a, b) for a, b in zip(ours, theirs, strict=True)]
        return max(sum(across) / 2 - min(distance(*ours), distance(*theirs)), 0.0)

    return {
        "FID": excess(frechet_distance) / spread,
        "W2": excess(lambda a, b: wasserstein_distance(a, b) ** 2) / spread,
        "MMD": max(mmd2(np.concatenate(ours), np.concatenate(theirs)), 0.0),
    }


def _two_samples(points: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
    """Disjoint, without replacement. [n,d] -> [size,d] twice"""
    order = np.random.default_rng(0).permutation(len(points))
    return points[order[:size]], points[order[size : 2 * size]]


def proxy_table(
    discrepancies: Mapping[str, float], *, variance: float, decays: Sequence[float], num_real: int, max_ratio: float
) -> tuple[Proxy, ...]:
    """A row for each discrepancy, scale of σ² and decay.

    variance: of pixels in [0, 1]. decays: measured, as in `DECAYS`; raised to 1/2, below which no kernel has a trace.
    """
    noises = dict(zip(NOISES, (variance, variance * 255.0**2, 1.0), strict=True))
    rows = []
    for name, distance in discrepancies.items():
        for noise, noise_variance in noises.items():
            for decay, measured in zip(DECAYS, decays, strict=True):
                exponent = max(measured, MINIMUM_DECAY)
                best = optimal_strength(
                    discrepancy=distance, noise_variance=noise_variance, num_real=num_real, decay=exponent
                )
                rows.append(
                    Proxy(
                        discrepancy=name,
                        noise=noise,
                        decay=decay,
                        distance=distance,
                        noise_variance=noise_variance,
                        exponent=exponent,
                        ratio=float(f"{min(best, max_ratio):.3g}"),
                    )
                )
    return tuple(rows)
