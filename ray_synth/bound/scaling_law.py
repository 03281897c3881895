"""Errors at a few sample sizes in, the scaling law of Jain, Montanari & Sasoglu (2024) out.

A rival of the estimate, computed beside it; the law is written as its authors' abstract and figures describe it, and
was not checked against their text. With α = weight of the synthetic side, n real and m synthetic images:
R(n,m,α) − R⋆ = α²·S∞ + [α²·S(m)^(1/β) + (1−α)²·T(n)^(1/β)]^β, where T(n) = A·n^(−β) is the excess error of real data
alone, S(m) = B·m^(−β) that of synthetic data alone over its own limit S∞ (arXiv 2402.04376).

Its authors fit all five to trainings on one side alone, and predict every mixture (`fit_alone`). Where there are no
such trainings, `fit_scaling_law` fits it to the mixtures themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize_scalar, nnls

from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]

EXPONENTS = (0.05, 1.0)  # β; errors do not fall faster than 1/n, and slower than this is not told from a floor


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """R⋆ (`floor`), A (`real_scale`), B (`synthetic_scale`), β (`exponent`), S∞ (`mismatch`)."""

    floor: float
    real_scale: float
    synthetic_scale: float
    exponent: float
    mismatch: float

    def error(self, num_real: float | np.ndarray, num_synthetic: np.ndarray, alpha: np.ndarray) -> FloatArray:
        """Test error at synthetic weight alpha in [0, 1]. num_synthetic, alpha: one shape."""
        m, a = np.asarray(num_synthetic, dtype=np.float64), np.asarray(alpha, dtype=np.float64)
        real = self.real_scale ** (1 / self.exponent) / num_real
        synthetic = self.synthetic_scale ** (1 / self.exponent) / np.maximum(m, 1.0)
        spread = np.where(m > 0, a**2 * synthetic, 0.0) + (1 - a) ** 2 * real
        result: FloatArray = self.floor + a**2 * self.mismatch + spread**self.exponent
        return result

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_scaling_law(
    num_real: np.ndarray, num_synthetic: np.ndarray, alpha: np.ndarray, error: np.ndarray
) -> ScalingLaw:
    """Least squares on measured errors. All [P]; alpha 0 is real data only, 1 synthetic only.

    Raises:
        InputError: fewer than five points: the law has five parameters.
    """
    n, m, a, e = (np.asarray(v, dtype=np.float64) for v in (num_real, num_synthetic, alpha, error))
    if len(e) < 5 or not len(n) == len(m) == len(a) == len(e):
        raise InputError(
            f"the scaling law needs at least 5 points of one length, got {len(n)}, {len(m)}, {len(a)}, {len(e)}"
        )

    def law(p: np.ndarray) -> ScalingLaw:
        floor, scale, other, exponent, mismatch = p
        return ScalingLaw(
            floor=floor, real_scale=np.exp(scale), synthetic_scale=np.exp(other), exponent=exponent, mismatch=mismatch
        )

    def residual(p: np.ndarray) -> FloatArray:
        return law(p).error(n, m, a) - e

    low, high = [0.0, -6.0, -6.0, 0.1, 0.0], [max(float(e.min()), 1e-6), 6.0, 6.0, 1.0, 1.0]
    best = None
    for exponent in (0.25, 0.5, 0.75):  # the surface has more than one valley
        start = [high[0] / 2, float(np.log(max(e.max(), 1e-3) * n.max() ** exponent)), 0.0, exponent, 0.05]
        found = least_squares(residual, np.clip(start, np.add(low, 1e-9), np.subtract(high, 1e-9)), bounds=(low, high))
        if best is None or found.cost < best.cost:
            best = found
    return law(best.x)  # type: ignore[union-attr]


def fit_alone(
    num_real: np.ndarray, real_error: np.ndarray, num_synthetic: np.ndarray, synthetic_error: np.ndarray
) -> ScalingLaw:
    """The authors' fit: R⋆ + A·n^(−β) to errors of real data alone, R⋆ + S∞ + B·m^(−β) to those of synthetic data,
    with one β for both (Jain et al., 2024, Figures 10 and 12). No mixture is looked at.

    For a given β the errors are linear in the other four, which must not be negative: least squares over β of what
    non-negative least squares leave, so there is one valley to find on a grid, and no start to choose.

    Args:
        num_real, real_error: [P], two sizes at least. num_synthetic, synthetic_error: [Q], three at least.

    Raises:
        InputError: fewer sizes, or one that is not above 0.
    """
    n, e, m, f = (np.asarray(v, dtype=np.float64) for v in (num_real, real_error, num_synthetic, synthetic_error))
    if len(n) != len(e) or len(m) != len(f) or len(np.unique(n)) < 2 or len(np.unique(m)) < 3:
        raise InputError(
            "the scaling law needs errors at 2 sizes of real data alone and at 3 of synthetic data alone, "
            f"got {len(np.unique(n))} and {len(np.unique(m))}"
        )
    if min(n.min(), m.min()) <= 0:
        raise InputError(f"sizes must be > 0, got {n.min():g} and {m.min():g}")
    synthetic = np.r_[np.zeros(len(n)), np.ones(len(m))]
    errors = np.r_[e, f]

    def solved(exponent: float) -> tuple[FloatArray, float]:
        powers = np.r_[n, m] ** -exponent
        columns = np.stack([np.ones(len(errors)), (1 - synthetic) * powers, synthetic * powers, synthetic], axis=1)
        values, missed = nnls(columns, errors)
        return values, float(missed)

    grid = np.linspace(*EXPONENTS, 39)
    best = int(np.argmin([solved(exponent)[1] for exponent in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    exponent = float(minimize_scalar(lambda b: solved(b)[1], bounds=around, method="bounded").x)
    floor, real_scale, synthetic_scale, mismatch = (float(value) for value in solved(exponent)[0])
    return ScalingLaw(
        floor=floor,
        real_scale=real_scale,
        synthetic_scale=synthetic_scale,
        exponent=exponent,
        mismatch=mismatch,
    )
