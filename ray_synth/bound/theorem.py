"""Discrepancy, noise and eigenvalue decay in, the ratio of the least bound (Shidani et al., 2025, Theorem 2.2) out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ray_synth.errors import InputError
from ray_synth.metrics.spectrum import PixelStats, rapsd_distance

MINIMUM_DECAY = 0.5  # a kernel of finite trace has 2r > 1


def risk_bound(
    strength: float | np.ndarray, *, discrepancy: float, noise_variance: float, num_real: int, decay: float
) -> float | np.ndarray:
    """(D + σ²)/(n λ²) + D·λ^(2 − 1/(4r)), up to constants (Shidani et al., 2025, Theorem 2.2). λ > 0 is `strength`."""
    power = 2 - 1 / (4 * decay)
    return (discrepancy + noise_variance) / (num_real * strength**2) + discrepancy * strength**power


def optimal_strength(*, discrepancy: float, noise_variance: float, num_real: int, decay: float) -> float:
    """λ⋆ = (2(D + σ²) / (p·n·D))^(1/(p+2)) with p = 2 − 1/(4r) (Shidani et al., 2025, Corollary 2.2.1).

    λ⋆ is the ratio ρ⋆ for uniform weights. D = 0 gives infinity: a perfect generator is used without limit.

    Raises:
        InputError: a negative discrepancy or noise, num_real < 1, or r <= 1/8, where the bound has no minimum.
    """
    if discrepancy < 0 or noise_variance < 0:
        raise InputError(f"discrepancy and noise_variance must be >= 0, got {discrepancy} and {noise_variance}")
    if num_real < 1 or not decay > 1 / 8:
        raise InputError(f"num_real must be >= 1 and decay > 1/8, got {num_real} and {decay}")
    if discrepancy == 0:
        return math.inf
    power = 2 - 1 / (4 * decay)
    return float((2 * (discrepancy + noise_variance) / (power * num_real * discrepancy)) ** (1 / (power + 2)))


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    """The closed form on image proxies, with what it was computed from. Ratios are capped at max_ratio.

    `ratio` reads pixels in [0, 1]; `ratio_raw_variance` takes σ² from pixels in [0, 255] instead: the paper warns that
    its prediction swings with this scale. `decay` counts the modes of a 2-D image (r = −slope/4), `decay_1d` reads the
    radial frequency as the index (r = −slope/2).
    """

    ratio: float
    ratio_raw_variance: float
    ratio_decay_1d: float
    discrepancy: float
    noise_variance: float
    noise_variance_raw: float
    decay: float
    decay_measured: float
    decay_1d: float
    num_real: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def closed_form(
    real: PixelStats, synthetic: PixelStats, *, num_real: int, max_ratio: float, target: PixelStats | None = None
) -> ClosedForm:
    """Corollary 2.2.1 by proxies (Shidani et al., 2025, section 6): RAPSD distance, spectral slope, data variance.

    Images are of one size. With a sample of the domain that is meant, D is the synthetic
    images' distance to that (the closed form knows no term for the real ones' own). Decays below 1/2 are raised to it.
    """
    goal = (real if target is None else target).spectrum
    discrepancy = rapsd_distance(goal, synthetic.spectrum) / 255.0**2
    variance = real.variance / 255.0**2
    slope = real.spectrum.slope if math.isfinite(real.spectrum.slope) else -2.0
    decays = {"2d": -slope / 4, "1d": -slope / 2}

    def ratio(noise_variance: float, decay: float) -> float:
        strength = optimal_strength(
            discrepancy=discrepancy,
            noise_variance=noise_variance,
            num_real=num_real,
            decay=max(decay, MINIMUM_DECAY),
        )
        return min(strength, max_ratio)

    return ClosedForm(
        ratio=ratio(variance, decays["2d"]),
        ratio_raw_variance=ratio(variance * 255.0**2, decays["2d"]),
        ratio_decay_1d=ratio(variance, decays["1d"]),
        discrepancy=discrepancy,
        noise_variance=variance,
        noise_variance_raw=variance * 255.0**2,
        decay=max(decays["2d"], MINIMUM_DECAY),
        decay_measured=decays["2d"],
        decay_1d=decays["1d"],
        num_real=num_real,
    )
