"""Noisy scores of single images at a few ratios in, a smooth curve with its uncertainty, and a verdict, out."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Verdict = Literal["helps", "no effect", "hurts", "uncertain"]

NOTICEABLE = 0.01  # accuracy that makes a difference, in verdicts
FEWEST = 10  # images below which the verdict is "uncertain"
CERTAIN = 0.8  # probability below which the verdict is "uncertain"
AGAIN_BELOW = 1000  # real images of an "uncertain" that is looked at again; what more of them leave is a near tie
AGAIN_SECONDS = 40  # of one core, for a second look
LENGTH_SCALE = 2.5  # of the Gaussian process, in log2(1 + ratio), and in log2 of a weight
SLOPE = 2.0  # of its linear part, in amplitudes a unit: wide, so that the data say whether a curve rises to its end
AMPLITUDES = (0.01, 0.02, 0.05, 0.1, 0.2)
SHRINK_IMAGES = 50.0  # as many images as the assumption of equal, independent noise is worth
NEAR = 0.003  # accuracy within which a ratio counts as best, in intervals
DISCREPANCY = 0.005  # spread of a classifier's curve about the probes', whatever they say
DISAGREEMENT = 0.35  # share of the probes' own variance about their mean that a classifier shows too
DISCREPANCY_LENGTH = 0.7  # over which it varies, in log2(1 + ratio)
BEYOND = 5.0  # how much wider it is far beyond the pilot


class Posterior:
    """Gaussian process over coordinates such as log2(1 + ratio), for the shape of a curve of mean scores.

    Its kernel is RBF and linear, its amplitude averaged by marginal likelihood, its noise the covariance of the mean
    scores. Height and shape are apart: the height is the mean over the points, and only each image's deviations from
    its own mean enter the shape. (Fitted together, correlated noise of unequal size draws the curve off the data.)
    `mean` [Q] and `covariance` [Q,Q] stand at the queries.

    Args:
        points: [P] or [P,k]; scores: [n,P], one row an image; queries: [Q] or [Q,k].
        weights: of the images, [n], summing to 1; equal by default.
        prior: mean of the process at points and queries, [P] and [Q]; flat by default.
    """

    def __init__(
        self,
        points: FloatArray,
        scores: FloatArray,
        queries: FloatArray,
        *,
        weights: FloatArray | None = None,
        prior: tuple[FloatArray, FloatArray] | None = None,
    ):
        n, number = scores.shape
        w = np.full(n, 1.0 / n) if weights is None else weights
        share = float((w**2).sum())  # 1/n for equal weights
        prior_points, prior_queries = prior or (np.zeros(number), np.zeros(len(queries)))
        height = scores.mean(axis=1)
        y = w @ scores - w @ height - (prior_points - prior_points.mean())
        noise = _covariance_of_mean(scores - height[:, None], w)
        # A few images cannot tell 28 covariances: drawn to one size without correlation.
        centring = np.eye(number) - 1.0 / number
        amount = SHRINK_IMAGES * share / (1 + SHRINK_IMAGES * share)
        noise = (1 - amount) * noise + amount * np.trace(noise) / max(number - 1, 1) * centring
        # Half an image more or less, and the direction of the height, which carries nothing, kept regular.
        noise += np.eye(number) * (0.25 * share) ** 2 + 1.0 / number
        inner, cross, far = _kernel(points, points), _kernel(points, queries), _kernel(queries, queries)
        towards = cross.mean(axis=0)  # of each query with the mean over the points
        near, over = centring @ inner @ centring, centring @ (cross - inner.mean(axis=1)[:, None])
        far = far - towards[:, None] - towards[None, :] + inner.mean()
        evidence, means, covariances = [], [], []
        for amplitude in AMPLITUDES:
            factor = np.linalg.cholesky(amplitude**2 * near + noise + 1e-10 * np.eye(number))
            half = np.linalg.solve(factor, y)
            evidence.append(-0.5 * half @ half - np.log(np.diag(factor)).sum())
            spread = np.linalg.solve(factor, amplitude**2 * over)
            means.append(spread.T @ half)
            covariances.append(amplitude**2 * far - spread.T @ spread)
        belief = np.exp(np.asarray(evidence) - max(evidence))
        belief /= belief.sum()
        shape = np.einsum("a,aq->q", belief, np.asarray(means))
        apart = np.asarray(means) - shape
        self.mean: FloatArray = float(w @ height) + prior_queries - prior_points.mean() + shape
        self.covariance: FloatArray = (
            np.einsum("a,aqr->qr", belief, np.asarray(covariances) + apart[:, :, None] * apart[:, None, :])
            + _covariance_of_mean(height[:, None], w)[0, 0]
        )

    def draw(self, number: int, seed: int, extra: FloatArray | float = 0.0) -> FloatArray:
        """Curves [number, Q]; `extra` is added to the covariance."""
        values, vectors = np.linalg.eigh(self.covariance + extra)
        normal = np.random.default_rng([seed, 500]).normal(size=(number, len(values)))
        curves: FloatArray = self.mean + (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        return curves


def discrepancy_covariance(
    ratios: FloatArray, grid: FloatArray, probes: FloatArray, share_there: FloatArray
) -> FloatArray:
    """How the curve of a classifier differs from that of the probes, [G,G] at `ratios`.

    Where the probes disagree among themselves, classifiers will; where the pilot has too few images, all may be wrong.

    Args:
        grid: [R]; probes: [P,R], each probe's mean score; share_there: [R] in (0, 1], the share of the asked synthetic
            images that the pilot has.
    """
    u, at = np.log2(1 + ratios), np.log2(1 + grid)
    apart = probes - probes.mean(axis=1, keepdims=True)
    apart = np.stack([np.interp(u, at, curve) for curve in apart - apart.mean(axis=0)])
    spread = DISCREPANCY * (1 + BEYOND * (1 - np.sqrt(np.interp(u, at, share_there))))
    kernel = np.exp(-0.5 * ((u[:, None] - u[None, :]) / DISCREPANCY_LENGTH) ** 2)
    covariance: FloatArray = kernel * np.outer(spread, spread) + DISAGREEMENT * apart.T @ apart / len(apart)
    return covariance


def near_best_interval(draws: FloatArray, pick: int, confidence: float) -> tuple[int, int]:
    """The shortest interval around `pick` that holds a near-best ratio in a share `confidence` of the draws [D,G].

    Near-best: within .003 of the draw's highest accuracy. A flat curve has many such ratios, so that its interval is
    short although its highest point could be anywhere. Returns the first and the last index.
    """
    places = np.arange(draws.shape[1])
    near = draws >= draws.max(axis=1, keepdims=True) - NEAR
    left = np.where(near & (places <= pick), places, -1).max(axis=1)
    right = np.where(near & (places >= pick), places, len(places)).min(axis=1)
    best = (0, len(places) - 1)
    for first in range(pick, -1, -1):
        # For each draw the last index at which the interval from `first` must end to hold one of its near-best ratios.
        needed = np.sort(np.where(left >= first, pick, right))
        last = int(needed[int(np.ceil(confidence * len(needed))) - 1])
        if last < len(places) and last - first < best[1] - best[0]:
            best = (first, last)
    return best


def ratio_grid(max_ratio: float) -> FloatArray:
    """Ratios 0, 1/4, 1/2, 1, 2, 4, ... up to max_ratio, which is always the last: where the probe is asked."""
    powers = 2.0 ** np.arange(-2, 11)
    return np.concatenate([[0.0], powers[powers < max_ratio * 0.99], [max_ratio]])


def fine_ratios(max_ratio: float) -> FloatArray:
    """65 ratios, even in log2(1 + ratio): where the curve is drawn."""
    ratios = 2.0 ** np.linspace(0.0, np.log2(1 + max_ratio), 65) - 1
    ratios[-1] = max_ratio
    return ratios


def verdict_of(
    ratios: FloatArray, mean: FloatArray, draws: FloatArray, num_images: int
) -> tuple[Verdict, str, dict[str, float]]:
    """Does synthetic data at all help, at the ratios that people use? The verdict, its reason, and each one's share.

    helps: some ratio is at least .01 more accurate than none.
    hurts: nothing helps, and ratio 1 or 2 is at least .01 worse.

    Args:
        ratios: [G]; mean: accuracy [G]; draws: [D,G]; num_images: held-out images behind them.
    """
    measured = draws[:, [_index(ratios, ratio) for ratio in ratio_grid(float(ratios[-1]))]]
    helps = measured.max(axis=1) - draws[:, 0] >= NOTICEABLE
    common = draws[:, [_index(ratios, ratio) for ratio in (1.0, 2.0)]]
    hurts = ~helps & ((draws[:, :1] - common).max(axis=1) >= NOTICEABLE)
    share: dict[str, float] = {
        "helps": float(helps.mean()),
        "hurts": float(hurts.mean()),
        "no effect": float((~helps & ~hurts).mean()),
    }
    likeliest: Any = max(share, key=lambda name: share[name])
    if num_images < FEWEST:
        return "uncertain", f"{num_images} images to be right about are too few; {FEWEST} are needed", share
    if share[likeliest] < CERTAIN:
        listed = ", ".join(f"{name} {p:.0%}" for name, p in share.items())
        return "uncertain", f"the real images given cannot tell ({listed})", share
    gain = float(mean.max() - mean[0])
    return likeliest, f"{share[likeliest]:.0%} probable; expected gain over real data only {gain:+.3f} accuracy", share


def _covariance_of_mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Of the weighted mean of rows [n,k], unbiased for equal weights: [k,k]."""
    centred = values - weights @ values
    covariance: FloatArray = (centred * (weights**2)[:, None]).T @ centred / max(1 - float((weights**2).sum()), 1e-9)
    return covariance


def _index(ratios: FloatArray, ratio: float) -> int:
    return int(np.abs(ratios - ratio).argmin())


def _kernel(a: FloatArray, b: FloatArray) -> FloatArray:
    """Of amplitude 1. RBF alone draws a curve that rises to its end back to its mean there."""
    a, b = (points[:, None] if points.ndim == 1 else points for points in (a, b))
    kernel: FloatArray = np.exp(-0.5 * ((a[:, None] - b[None, :]) ** 2).sum(axis=-1) / LENGTH_SCALE**2)
    return kernel + SLOPE**2 * a @ b.T
