"""Kernel ridge regression towards a generator (Shidani et al., 2025, section 2): predictions and their exact risk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import brentq

from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]
Kernel = Callable[[FloatArray, FloatArray], FloatArray]


class SyntheticRidge:
    """argmin (1/n)Σ(y − f(x))² + λ‖f − g‖²_H for a generator g (Shidani et al., 2025, Eq. 1).

    The exact minimiser over all of H is `g + k(·,X)(K + nλI)⁻¹(y − g(X))`. Lemma 2.1 works in the span of the training
    points instead, with g replaced by its projection; both agree where g lies in that span.

    Args:
        kernel: (X [a,d], Y [b,d]) -> Gram matrix [a,b].
        strength: λ >= 0.
        projection_ridge: η of the projection β = (K + ηI)⁻¹ g(X).
    """

    def __init__(self, kernel: Kernel, strength: float, projection_ridge: float = 1e-8):
        if not strength >= 0 or not projection_ridge >= 0:
            raise InputError(f"strength and projection_ridge must be >= 0, got {strength} and {projection_ridge}")
        self.kernel, self.strength, self.projection_ridge = kernel, strength, projection_ridge

    def fit(self, x: np.ndarray, y: np.ndarray, generator_values: np.ndarray) -> SyntheticRidge:
        """x: [n] or [n,d]; y: [n]; generator_values: g(x), [n]."""
        self.x = _points(x)
        y, g = np.asarray(y, dtype=np.float64), np.asarray(generator_values, dtype=np.float64)
        n = len(self.x)
        if y.shape != (n,) or g.shape != (n,):
            raise InputError(f"y and generator_values must be [{n}], got {list(y.shape)} and {list(g.shape)}")
        if not (np.isfinite(self.x).all() and np.isfinite(y).all() and np.isfinite(g).all()):
            raise InputError("x, y and generator_values must be finite, got NaN or infinity")
        gram = np.asarray(self.kernel(self.x, self.x), dtype=np.float64)
        self.projection = _solve(gram, self.projection_ridge, g)
        self.residual_exact = _solve(gram, n * self.strength, y - g)
        self.alpha = self.projection + _solve(gram, n * self.strength, y - gram @ self.projection)
        return self

    def predict(self, x: np.ndarray, generator_values: np.ndarray | None = None) -> FloatArray:
        """x: [q] or [q,d] -> [q]. With generator_values g(x) [q] the exact minimiser, without the span form."""
        cross = np.asarray(self.kernel(_points(x), self.x), dtype=np.float64)
        if generator_values is None:
            span: FloatArray = cross @ self.alpha
            return span
        g = np.asarray(generator_values, dtype=np.float64)
        if g.shape != cross.shape[:1]:
            raise InputError(f"generator_values must be [{len(cross)}], got {list(g.shape)}")
        exact: FloatArray = g + cross @ self.residual_exact
        return exact


def discrepancy(target: np.ndarray, generator: np.ndarray, eigenvalues: np.ndarray) -> float:
    """D = Σ_j (θ_j − ω_j)²/μ_j² (Shidani et al., 2025, Theorem 2.2): coefficients [J] in the Mercer basis."""
    theta, omega, mu = _series(target, generator, eigenvalues)
    return float((((theta - omega) / mu) ** 2).sum())


def exact_risk(
    eigenvalues: np.ndarray, residual: np.ndarray, *, noise_variance: float, num_real: int, strength: float
) -> float:
    """Expected excess risk of the full minimiser, by the deterministic equivalents of ridge regression.

    With κ solving n − nλ/κ = Σ μ_j/(μ_j+κ) and γ = (1/n)Σ μ_j²/(μ_j+κ)²: [κ²Σ u_j²/(μ_j+κ)² + σ²γ]/(1 − γ)
    (Simon et al., 2023; Misiakiewicz & Saeed, 2024). Not a bound: no free constant.

    Args:
        eigenvalues: μ_j > 0, [J].
        residual: u_j = θ_j − ω_j, coefficients of target minus generator, [J].
        strength: λ > 0.
    """
    u, _, mu = _series(residual, residual, eigenvalues)
    if num_real < 1 or not strength > 0 or noise_variance < 0:
        raise InputError(
            f"num_real >= 1, strength > 0 and noise_variance >= 0 are needed, "
            f"got {num_real}, {strength}, {noise_variance}"
        )
    n = num_real
    kappa = effective_regularization(mu, num_real=n, strength=strength)
    gamma = float(((mu / (mu + kappa)) ** 2).sum()) / n
    bias = kappa**2 * float(((u / (mu + kappa)) ** 2).sum())
    return (bias + noise_variance * gamma) / (1 - gamma)


def effective_regularization(eigenvalues: np.ndarray, *, num_real: int, strength: float) -> float:
    """κ of `exact_risk`: the ridge that the population sees. It lies in [λ, λ + Σμ/n]."""
    mu, n = np.asarray(eigenvalues, dtype=np.float64), num_real

    def excess(kappa: float) -> float:
        return n - n * strength / kappa - float((mu / (mu + kappa)).sum())

    low, high = strength, strength + float(mu.sum()) / n
    return float(brentq(excess, low, high * (1 + 1e-12), xtol=1e-14 * high, rtol=1e-12)) if high > low else low


def shifted_bias(
    source: np.ndarray, target: np.ndarray, generator: np.ndarray, eigenvalues: np.ndarray, *, strength: float
) -> float:
    """Bias² under domain shift: Σ_j [(λ(θᵗ−ω) + μ(θᵗ−θˢ))/(μ+λ)]² (Shidani et al., 2025, Theorem 5.1, exact form).

    Training labels follow θˢ (`source`), the test follows θᵗ (`target`), the generator ω. All [J].
    """
    theta_s, theta_t, mu = _series(source, target, eigenvalues)
    omega = np.asarray(generator, dtype=np.float64)
    terms = (strength * (theta_t - omega) + mu * (theta_t - theta_s)) / (mu + strength)
    return float((terms**2).sum())


def _points(x: np.ndarray) -> FloatArray:
    points = np.asarray(x, dtype=np.float64)
    if points.ndim not in (1, 2) or len(points) == 0:
        raise InputError(f"x must be [n] or [n,d] with n >= 1, got {list(points.shape)}")
    return points[:, None] if points.ndim == 1 else points


def _solve(gram: FloatArray, ridge: float, right: FloatArray) -> FloatArray:
    matrix = gram + ridge * np.eye(len(gram))
    try:
        solution: FloatArray = scipy.linalg.solve(matrix, right, assume_a="pos")
    except np.linalg.LinAlgError:
        # A Gram matrix without ridge is often singular to working precision: the least-norm solution.
        solution = np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0], dtype=np.float64)
    return solution


def _series(a: np.ndarray, b: np.ndarray, eigenvalues: np.ndarray) -> tuple[FloatArray, FloatArray, FloatArray]:
    theta, omega, mu = (np.asarray(v, dtype=np.float64) for v in (a, b, eigenvalues))
    if mu.ndim != 1 or theta.shape != mu.shape or omega.shape != mu.shape or not (mu > 0).all():
        raise InputError(
            f"coefficients and eigenvalues must be [J], eigenvalues > 0; got {list(theta.shape)}, {list(omega.shape)}, "
            f"{list(mu.shape)}"
        )
    return theta, omega, mu
