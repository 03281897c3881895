"""Features of both sets in, the two theories' own answers out: exact risk (ridge) and the stability bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ray_synth.bound.curve import fine_ratios
from ray_synth.bound.kernel_ridge import effective_regularization
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
    shift: float  # Σ (θᵗ − θˢ)², what labels of the domain that is meant differ from the real ones by; 0 without one
    effective_dimension: float  # (Σμ)²/Σμ²
    risk_real_only: float
    risk: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def exact_risk_on_images(
    features: Sequence[FloatArray],
    labels: Sequence[NDArray[np.int64]],
    *,
    num_classes: int,
    num_real: int,
    max_ratio: float,
) -> ExactRiskTerms:
    """The ratio that minimises the exact risk of ridge regression towards the generator (theory of `exact_risk`).

    The kernel is that of the features, of mean 1 on the diagonal; its eigenvalues come from all images. What differs
    between two labellings is the coefficient of what a ridge fit to one half of the synthetic images misses on one set,
    less that of what it misses on the other; the generator's is the other half of its images, for a fit errs on both
    alike. The variance of estimating them is taken off the squares, which may leave less than nothing: clipped mode by
    mode, the risk of equal labellings would be far from 0. The strength is read as the ratio (constant 1).

    Args:
        features, labels: [n,d] and [n] of the real images, the synthetic ones and, where the classifier is meant for
            another domain, of a sample of that: the bias is then that of Theorem 5.1 (Shidani et al., 2025).
    """
    both = np.concatenate(features)
    both = both / np.sqrt(max(float((both**2).sum(axis=1).mean()), 1e-12))
    values, vectors = np.linalg.eigh(both.T @ both / len(both))
    # What the real images can tell apart: n of them say nothing of more than n/2 modes.
    kept = (values > 1e-9 * values[-1]) & (np.arange(len(values)) >= len(values) - max(len(features[0]) // 2, 1))
    mu, basis = values[kept], vectors[:, kept] / np.sqrt(values[kept])
    psi = both @ basis  # orthonormal over all images
    targets = np.eye(num_classes) - 1.0 / num_classes
    cuts = np.cumsum([len(each) for each in features])[:-1]
    gap = LabelGap.of(np.split(psi, cuts), mu, [targets[y] for y in labels])
    ratios = fine_ratios(max_ratio)
    risks = np.array([gap.risk(num_real, max(float(ratio), SMALLEST)) for ratio in ratios])
    return ExactRiskTerms(
        ratio=float(f"{ratios[risks.argmin()]:.3g}"),
        noise_variance=gap.noise,
        residual=max(0.0, float(gap.squares.sum())),
        shift=max(0.0, float(gap.shift.sum())),
        effective_dimension=float(mu.sum() ** 2 / (mu**2).sum()),
        risk_real_only=float(risks[0]),
        risk=float(risks.min()),
    )


class _Coefficients(NamedTuple):
    """Of some values in orthonormal functions, and the variance of estimating each: both [J,C]."""

    mean: FloatArray
    variance: FloatArray

    @classmethod
    def of(cls, psi: FloatArray, values: FloatArray) -> _Coefficients:
        """psi: [n,J]; values: [n,C]."""
        n = len(psi)
        mean = psi.T @ values / n
        return cls(mean, ((psi**2).T @ values**2 / n - mean**2) / max(n - 1, 1))


@dataclass(frozen=True, kw_only=True)
class LabelGap:
    """How three labellings differ, mode by mode: of the real images, of the generator, of the domain that is meant.

    mu: eigenvalues [J]; squares: (θˢ − ω)² [J]; shift: (θᵗ − θˢ)² [J], 0 for the same domain; across:
    (θᵗ − ω)(θᵗ − θˢ) [J]; away: (θᵗ − ω)² [J]. All without bias, summed over classes. noise: σ².
    """

    mu: FloatArray
    squares: FloatArray
    shift: FloatArray
    across: FloatArray
    away: FloatArray
    noise: float

    @classmethod
    def of(cls, psi: Sequence[FloatArray], mu: FloatArray, values: Sequence[FloatArray]) -> LabelGap:
        """psi, values: [n,J] and [n,C] of the real, the synthetic and, where it is another, the target set."""
        here, there = psi[:2]
        scale = np.sqrt(mu)
        missed = [np.zeros_like(each) for each in values]
        halves = [np.arange(side, len(there), 2) for side in (0, 1)]
        for fitted, other in (halves, halves[::-1]):
            scaled = there[fitted] * scale
            penalty = GENERATOR_PENALTY * float((scaled**2).sum()) / len(scale) if len(fitted) else 1.0
            solved = scipy.linalg.solve(
                scaled.T @ scaled + penalty * np.eye(len(scale)), scaled.T @ values[1][fitted], assume_a="pos"
            )
            missed[1][other] = values[1][other] - (there[other] * scale) @ solved
            for k in range(len(values)):
                if k != 1:
                    missed[k] += (values[k] - (psi[k] * scale) @ solved) / 2
        real, generator = _Coefficients.of(here, missed[0]), _Coefficients.of(there, missed[1])
        squares = _summed((real.mean - generator.mean) ** 2 - real.variance - generator.variance)
        shift = across = np.zeros_like(squares)
        away = squares
        if len(values) > 2:
            target = _Coefficients.of(psi[2], missed[2])
            shift = _summed((target.mean - real.mean) ** 2 - target.variance - real.variance)
            across = _summed((target.mean - generator.mean) * (target.mean - real.mean) - target.variance)
            away = _summed((target.mean - generator.mean) ** 2 - target.variance - generator.variance)
        noise = float((missed[0] ** 2).sum(axis=1).mean()) - max(0.0, float(squares.sum()))
        return cls(mu=mu, squares=squares, shift=shift, across=across, away=away, noise=max(noise, 1e-6))

    def risk(self, num_real: int, strength: float) -> float:
        """`exact_risk`, its bias that of the domain that is meant; linear in the squares, whose sums count from 0."""
        mu = self.mu
        kappa = effective_regularization(mu, num_real=num_real, strength=strength)
        gamma = float(((mu / (mu + kappa)) ** 2).sum()) / num_real
        source = float((kappa**2 * self.squares / (mu + kappa) ** 2).sum())
        bias = kappa**2 * self.away + 2 * kappa * mu * self.across + mu**2 * self.shift
        there = float((bias / (mu + kappa) ** 2).sum())
        return max(0.0, there) + gamma * (max(0.0, source) + self.noise) / (1 - gamma)


def _summed(squares: FloatArray) -> FloatArray:
    summed: FloatArray = squares.sum(axis=1)
    return summed


@dataclass(frozen=True, kw_only=True)
class StabilityTerms:
    """W₂ beyond what two samples of one distribution show (distance, and of the target shift) in units of the real
    images' own spread, the intrinsic dimension, and the constants used."""

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

    Distances are in units of the real features' root mean squared distance from their mean, so neither their scale nor
    their origin matters. With a target domain's features, the synthetic images' distance is to the target, and the real
    images' own is the shift.
    """
    goal = real if target is None else target
    dimension = _dimension(np.concatenate([real, synthetic]))
    spread = max(float(np.sqrt(real.var(axis=0).sum())), 1e-12)
    distance = excess_distance(goal, synthetic) / spread
    shift = 0.0 if target is None else excess_distance(target, real) / spread
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
