"""Features of both sets in, the two theories' own answers out: exact risk (ridge) and the stability bound."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ray_synth.bound.curve import fine_ratios
from ray_synth.bound.kernel_ridge import exact_risk
from ray_synth.bound.stability import CALIBRATED, stability_ratio
from ray_synth.metrics.dimension import two_nn
from ray_synth.metrics.transport import wasserstein_distance

FloatArray = NDArray[np.float64]

GENERATOR_PENALTY = 0.03  # of the ridge fit that stands for the generator's labelling function
SMALLEST = 1e-3  # strength that stands for ratio 0
MAX_POINTS = 500


@dataclass(frozen=True, kw_only=True)
class ExactRiskTerms:
    """Deterministic equivalents on images. `risk_*`: excess squared error of the one-hot target, all classes."""

    ratio: float
    noise_variance: float
    residual: float  # Σ u_j², what the generator's labels are off by
    effective_dimension: float  # (Σμ)²/Σμ²
    risk_real_only: float
    risk: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def exact_risk_on_images(
    real: FloatArray,
    real_labels: NDArray[np.int64],
    synthetic: FloatArray,
    synthetic_labels: NDArray[np.int64],
    *,
    num_classes: int,
    num_real: int,
    max_ratio: float,
) -> ExactRiskTerms:
    """The ratio that minimises the exact risk of ridge regression towards the generator (theory of `exact_risk`).

    The kernel is that of the features, of mean 1 on the diagonal; its eigenvalues come from all images. The generator's
    labelling function is a ridge fit to the synthetic images alone, and u_j the coefficients of what it misses on the
    real ones, with the variance of estimating them taken off. The strength is read as the ratio (constant 1).

    Args:
        real: [n,d], synthetic: [m,d], features.
    """
    both = np.concatenate([real, synthetic])
    both = both / np.sqrt(max(float((both**2).sum(axis=1).mean()), 1e-12))
    values, vectors = np.linalg.eigh(both.T @ both / len(both))
    # What the real images can tell apart: n of them say nothing of more than n/2 modes.
    kept = (values > 1e-9 * values[-1]) & (np.arange(len(values)) >= len(values) - max(len(real) // 2, 1))
    mu, basis = values[kept], vectors[:, kept] / np.sqrt(values[kept])
    psi = both @ basis  # orthonormal over all images
    targets = np.eye(num_classes) - 1.0 / num_classes
    here, there = psi[: len(real)], psi[len(real) :]
    scaled = there * np.sqrt(mu)
    penalty = GENERATOR_PENALTY * len(there) * float((scaled**2).mean())
    solved = scipy.linalg.solve(
        scaled.T @ scaled + penalty * np.eye(len(mu)), scaled.T @ targets[synthetic_labels], assume_a="pos"
    )
    missed = targets[real_labels] - (here * np.sqrt(mu)) @ solved  # [n,C]
    n = len(here)
    coefficient = here.T @ missed / n
    variance = ((here**2).T @ missed**2 / n - coefficient**2) / max(n - 1, 1)
    u = np.sqrt(np.maximum((coefficient**2 - variance).sum(axis=1), 0.0))
    noise = max(float((missed**2).sum(axis=1).mean()) - float((u**2).sum()), 1e-6)

    def risk(strength: float) -> float:
        return exact_risk(mu, u, noise_variance=noise, num_real=num_real, strength=max(strength, SMALLEST))

    ratios = fine_ratios(max_ratio)
    risks = np.array([risk(float(ratio)) for ratio in ratios])
    return ExactRiskTerms(
        ratio=float(f"{ratios[risks.argmin()]:.3g}"),
        noise_variance=noise,
        residual=float((u**2).sum()),
        effective_dimension=float(mu.sum() ** 2 / (mu**2).sum()),
        risk_real_only=float(risks[0]),
        risk=float(risks.min()),
    )


@dataclass(frozen=True, kw_only=True)
class StabilityTerms:
    """W₂ beyond what two samples of one distribution show, the intrinsic dimension, and the constants used."""

    ratio: float
    distance: float
    dimension: float
    shift: float
    c1: float
    c2: float
    c3: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def stability_on_images(
    real: FloatArray, synthetic: FloatArray, *, num_real: int, max_ratio: float, target: FloatArray | None = None
) -> StabilityTerms:
    """The stability bound with W₂ and dimension measured on features [n,d], [m,d] and calibrated constants.

    With a target domain's features, the synthetic images' distance is to the target, and the real images' own is the
    shift.
    """
    goal = real if target is None else target
    dimension = _dimension(np.concatenate([real, synthetic]))
    distance = excess_distance(goal, synthetic)
    shift = 0.0 if target is None else excess_distance(target, real)
    ratio = stability_ratio(
        distance=distance,
        num_real=num_real,
        dimension=dimension,
        max_ratio=max_ratio,
        shift=shift,
        constants=CALIBRATED,
    )
    return StabilityTerms(
        ratio=float(f"{ratio:.3g}"), distance=distance, dimension=dimension, shift=shift, **asdict(CALIBRATED)
    )


def excess_distance(goal: FloatArray, other: FloatArray) -> float:
    """W₂ between two samples, less what two halves of `other` show between themselves: 0 for one distribution.

    Samples of equal size, at most 500 and half of `other`, so that both carry the same sampling error.
    """
    size = min(len(goal), len(other) // 2, MAX_POINTS)
    if size < 2:
        return wasserstein_distance(goal, other)
    spread = np.linspace(0, len(goal) - 1, size).round().astype(np.int64)
    order = np.random.default_rng(0).permutation(len(other))
    first, second = other[order[:size]], other[order[size : 2 * size]]
    across = wasserstein_distance(goal[spread], first)
    within = wasserstein_distance(first, second)
    return float(np.sqrt(max(across**2 - within**2, 0.0)))


def _dimension(points: FloatArray) -> float:
    """TwoNN of at most 2,000 points; the number of features where there are too few different points."""
    sample = np.unique(points[:: max(1, len(points) // 2000)], axis=0)
    measured = two_nn(sample) if len(sample) >= 10 else np.inf
    return float(measured) if np.isfinite(measured) and measured > 0 else float(points.shape[1])
