"""Distance, dimension and sample size in, the stability bound (Shidani et al., 2025, Theorem 3.1) and its optimum out.

The theorem's constants are not known. C1, C2 and C3 stand for them: with the defaults the bound orders settings (a
worse generator, or more real images, lowers the optimum); it gives no absolute ratio by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StabilityConstants:
    """C₁ and C₂ of the mismatch, C₃ of the instability; 1 where nothing is known."""

    c1: float = 1.0
    c2: float = 1.0
    c3: float = 1.0


# Least mean regret on the tuning half of RatioBench (its 48 cells without diffusion models, November 2026), C₃ = 1;
# distances in units of the real images' spread. `python -m tests.benchmarks.ratiobench.calibrate` prints them.
CALIBRATED = StabilityConstants(c1=0.1, c2=1.0, c3=1.0)


def stability_bound(
    ratio: float | np.ndarray,
    *,
    distance: float,
    num_real: int,
    dimension: float,
    constants: StabilityConstants | None = None,
    shift: float = 0.0,
) -> FloatArray:
    """λ̃(C₁W₂ + C₂W₂²) + (1−λ̃)(C₁δ + C₂δ²) + (1−λ̃)·C₃·[(1−λ̃)²/(n²λ̃)]^(1/(d+2)), λ̃ = ρ/(1+ρ).

    Args:
        ratio: ρ > 0, a number or [R].
        distance: W₂ between the synthetic and the target distribution.
        dimension: d, the intrinsic dimension.
        shift: δ, W₂ between the real training distribution and the target; 0 in domain (Theorem 5.2's added term).
    """
    rho = np.asarray(ratio, dtype=np.float64)
    if (rho <= 0).any() or distance < 0 or shift < 0 or num_real < 1 or not dimension > 0:
        raise InputError(
            "ratio > 0, distance >= 0, shift >= 0, num_real >= 1 and dimension > 0 are needed, "
            f"got {ratio}, {distance}, {shift}, {num_real}, {dimension}"
        )
    c = constants or StabilityConstants()
    mixing = rho / (1 + rho)
    instability = (1 - mixing) * c.c3 * ((1 - mixing) ** 2 / (num_real**2 * mixing)) ** (1 / (dimension + 2))
    mismatch = mixing * (c.c1 * distance + c.c2 * distance**2) + (1 - mixing) * (c.c1 * shift + c.c2 * shift**2)
    bound: FloatArray = mismatch + instability
    return bound


def stability_ratio(
    *,
    distance: float,
    num_real: int,
    dimension: float,
    max_ratio: float,
    constants: StabilityConstants | None = None,
    shift: float = 0.0,
) -> float:
    """The ratio in (0, max_ratio] that minimises the bound, on a grid of 2,000 in log(1 + ratio)."""
    grid = np.expm1(np.linspace(0, np.log1p(max_ratio), 2001)[1:])
    terms = {"distance": distance, "num_real": num_real, "dimension": dimension, "shift": shift}
    return float(grid[stability_bound(grid, **terms, constants=constants).argmin()])  # type: ignore[arg-type]
