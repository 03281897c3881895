"""Two labelled image sets in, a `RatioEstimate` out: one ratio, an interval, a predicted error curve and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ray_synth.bound.probe import probe_scores
from ray_synth.bound.theorem import closed_form
from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]
Verdict = Literal["helps", "no effect", "hurts", "uncertain"]

NOTICEABLE = 0.01  # accuracy that makes a difference, in verdicts
CERTAIN = 0.8  # probability below which the verdict is "uncertain"
LENGTH_SCALE = 2.5  # of the curve's Gaussian process, in log2(1 + ratio)
AMPLITUDES = (0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Predicted test error over synthetic ratios, with its band at the asked confidence. All [G]."""

    ratio: tuple[float, ...]
    error: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RatioEstimate:
    """What is predicted before training. Ratios are synthetic over real, in [0, max_ratio]."""

    ratio: float
    interval: tuple[float, float]
    verdict: Verdict
    reason: str
    curve: Curve
    methods: Mapping[str, Mapping[str, Any]]
    confidence: float
    max_ratio: float
    num_real: int
    num_synthetic: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "ratio": self.ratio,
            "interval": list(self.interval),
            "verdict": self.verdict,
            "reason": self.reason,
            "curve": {name: list(getattr(self.curve, name)) for name in ("ratio", "error", "low", "high")},
            "methods": {name: dict(terms) for name, terms in self.methods.items()},
            "confidence": self.confidence,
            "max_ratio": self.max_ratio,
            "num_real": self.num_real,
            "num_synthetic": self.num_synthetic,
        }


def estimate_ratio(
    real_images: np.ndarray,
    real_labels: np.ndarray,
    synthetic_images: np.ndarray,
    synthetic_labels: np.ndarray,
    *,
    max_ratio: float = 16.0,
    confidence: float = 0.9,
    seed: int = 0,
) -> RatioEstimate:
    """Predict the best synthetic ratio of a classifier before it is trained.

    The ratio is the probe's (a ridge classifier on frozen features, scored by leave-one-out over a grid of ratios, its
    curve smoothed by a Gaussian process over log2(1 + ratio)). The closed form of paper 003 stands beside it in
    `methods`, with its sensitivity to the scale of the noise variance.

    Args:
        real_images, synthetic_images: uint8 [N,H,W,C] or [N,H,W] of one size.
        real_labels, synthetic_labels: integers [N], from 0.
        max_ratio: the largest ratio considered. Ratios beyond the synthetic images given are extrapolated by weight.
        confidence: of the interval and the curve's band.
        seed: of the random features and posterior draws. Same input and seed, same output.

    Raises:
        InputError: arrays that do not fit together, fewer than two real classes or four real images.
    """
    real, y_real = _checked("real", real_images, real_labels)
    synthetic, y_synthetic = _checked("synthetic", synthetic_images, synthetic_labels)
    if real.shape[1:] != synthetic.shape[1:]:
        raise InputError(
            f"real and synthetic images must have one size, got {list(real.shape[1:])} and {list(synthetic.shape[1:])}"
        )
    if not 0 < max_ratio <= 1000:
        raise InputError(f"max_ratio must be in (0, 1000], got {max_ratio}")
    if not 0.5 < confidence < 1:
        raise InputError(f"confidence must be in (0.5, 1), got {confidence}")
    if len(np.unique(y_real)) < 2 or len(real) < 4:
        raise InputError(
            f"at least 4 real images of 2 classes are needed, got {len(real)} of {len(np.unique(y_real))}; add images"
        )
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be an integer >= 0, got {seed!r}")
    # Classes that occur, numbered without gaps.
    present, both = np.unique(np.concatenate([y_real, y_synthetic]), return_inverse=True)
    y_real, y_synthetic, num_classes = both[: len(y_real)], both[len(y_real) :], len(present)
    real_counts = np.bincount(y_real, minlength=num_classes)
    grid = ratio_grid(max_ratio)
    counts = np.floor(np.outer(grid, real_counts) + 0.5).astype(np.int64)
    # One thread: the matrices are small, and the sums then have one order whatever the machine.
    with threadpool_limits(1):
        scores = probe_scores(real, y_real, synthetic, y_synthetic, counts, seed=seed)
    posterior = _Posterior(grid, scores, max_ratio)
    draws = posterior.draw(500, seed)
    best = posterior.ratios[draws.argmax(axis=1)]
    pick = _rounded(posterior.ratios[posterior.mean.argmax()], max_ratio)
    tail = (1 - confidence) / 2
    low, high = np.quantile(best, [tail, 1 - tail])
    band = np.quantile(draws, [tail, 1 - tail], axis=0)
    verdict, reason, probabilities = _verdict(posterior, draws)
    formula = closed_form(real, synthetic, num_real=len(real), max_ratio=max_ratio)
    return RatioEstimate(
        ratio=pick,
        interval=(min(_rounded(low, max_ratio), pick), max(_rounded(high, max_ratio), pick)),
        verdict=verdict,
        reason=reason,
        curve=Curve(
            ratio=_floats(posterior.ratios),
            error=_floats(1 - posterior.mean.clip(0, 1)),
            low=_floats(1 - band[1].clip(0, 1)),
            high=_floats(1 - band[0].clip(0, 1)),
        ),
        methods={
            "closed_form": formula.to_dict(),
            "probe": {
                "ratio": pick,
                "grid": list(_floats(grid)),
                "accuracy": list(_floats(scores.mean(axis=0))),
                "verdict_probability": probabilities,
            },
        },
        confidence=confidence,
        max_ratio=max_ratio,
        num_real=len(real),
        num_synthetic=len(synthetic),
    )


def ratio_grid(max_ratio: float) -> FloatArray:
    """Ratios 0, 1/4, 1/2, 1, 2, 4, ... up to max_ratio, which is always the last."""
    powers = 2.0 ** np.arange(-2, 11)
    return np.concatenate([[0.0], powers[powers < max_ratio * 0.99], [max_ratio]])


class _Posterior:
    """Gaussian process over u = log2(1 + ratio): RBF kernel, noise = covariance of the leave-one-out mean.

    Amplitudes are averaged by marginal likelihood. `mean` and `covariance` stand on the fine grid `ratios`.
    """

    def __init__(self, grid: FloatArray, scores: FloatArray, max_ratio: float):
        u = np.log2(1 + grid)
        fine = np.linspace(0.0, np.log2(1 + max_ratio), 65)
        n = len(scores)
        level = scores.mean()
        y = scores.mean(axis=0) - level
        # The level is common to all ratios and moves no argmax; a quarter of an image keeps the matrix regular.
        noise = np.cov(scores, rowvar=False) / n + np.eye(len(grid)) * (0.5 / n) ** 2 / 4
        kernel = _rbf(u, u)
        evidence, means, covariances = [], [], []
        for amplitude in AMPLITUDES:
            total = amplitude**2 * kernel + noise + 0.05**2
            factor = np.linalg.cholesky(total + 1e-10 * np.eye(len(u)))
            half = np.linalg.solve(factor, y)
            evidence.append(-0.5 * half @ half - np.log(np.diag(factor)).sum())
            prior = amplitude**2 * _rbf(fine, fine) + 0.05**2
            cross = np.linalg.solve(factor, amplitude**2 * _rbf(u, fine) + 0.05**2)
            means.append(cross.T @ half)
            covariances.append(prior - cross.T @ cross)
        weight = np.exp(np.asarray(evidence) - max(evidence))
        weight /= weight.sum()
        self.ratios = 2.0**fine - 1
        self.ratios[-1] = max_ratio
        self.mean = level + np.einsum("a,ag->g", weight, np.asarray(means))
        spread = np.asarray(means) - (self.mean - level)
        self.covariance = np.einsum(
            "a,agh->gh", weight, np.asarray(covariances) + spread[:, :, None] * spread[:, None, :]
        )

    def draw(self, number: int, seed: int) -> FloatArray:
        """Curves [number, G]."""
        values, vectors = np.linalg.eigh(self.covariance)
        normal = np.random.default_rng([seed, 500]).normal(size=(number, len(values)))
        curves: FloatArray = self.mean + (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        return curves


def _rbf(a: FloatArray, b: FloatArray) -> FloatArray:
    kernel: FloatArray = np.exp(-0.5 * ((a[:, None] - b[None, :]) / LENGTH_SCALE) ** 2)
    return kernel


def _verdict(posterior: _Posterior, draws: FloatArray) -> tuple[Verdict, str, dict[str, float]]:
    """Does synthetic data at all help, at the ratios that people use?

    helps: some ratio is at least .01 more accurate than none.
    hurts: nothing helps, and ratio 1 or 2 is at least .01 worse.
    """
    at = [int(np.abs(posterior.ratios - ratio).argmin()) for ratio in (1.0, 2.0)]
    gain = draws.max(axis=1) - draws[:, 0]
    helps = gain >= NOTICEABLE
    hurts = ~helps & ((draws[:, 0, None] - draws[:, at]).max(axis=1) >= NOTICEABLE)
    share: dict[str, float] = {
        "helps": float(helps.mean()),
        "hurts": float(hurts.mean()),
        "no effect": float((~helps & ~hurts).mean()),
    }
    likeliest: Any = max(share, key=lambda name: share[name])
    expected = float(posterior.mean.max() - posterior.mean[0])
    if share[likeliest] < CERTAIN:
        listed = ", ".join(f"{name} {p:.0%}" for name, p in share.items())
        return "uncertain", f"the real images given cannot tell ({listed})", share
    return (
        likeliest,
        f"{share[likeliest]:.0%} probable; expected gain over real data only {expected:+.3f} accuracy",
        share,
    )


def _checked(side: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, NDArray[np.int64]]:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise InputError(
            f"{side}_images must be uint8 [N,H,W,C] or [N,H,W] with N >= 1, got {images.dtype} {list(images.shape)}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise InputError(f"{side}_labels must be integers [{len(images)}], got {labels.dtype} {list(labels.shape)}")
    if labels.min() < 0:
        raise InputError(f"{side}_labels must be >= 0, got {labels.min()}")
    return images, labels.astype(np.int64)


def _rounded(ratio: float, max_ratio: float) -> float:
    """Three significant digits: more would pretend."""
    return min(float(f"{ratio:.3g}"), max_ratio)


def _floats(values: FloatArray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
