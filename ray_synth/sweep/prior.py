"""A prediction (estimate.json) in, the first ratios of a sweep and where to draw later ones from out.

The predicted curve is the mean of a Gaussian process over u = log2(1 + ratio), its band says how far the truth may
stray from it, and the level is free. Against it stands the same process without the prediction. What the trials say
decides between the two (by marginal likelihood). A ratio is the best one of a curve drawn from what is then believed
(Thompson, 1933): near the pick where the interval is narrow, all over where nothing is known. Before that, and then
every second time, comes the ratio farthest from all tried ones, until none is far: so is found what a confident and
wrong prediction hides.

Of several generators each has its own prediction, and a probability of being the best, by which they are drawn at
first. Later each draws a curve from what is then believed of it, and the highest one's generator is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ray_synth.bound.result import Curve, Ranked, RatioEstimate

LENGTH = 1.0  # of the processes, in doublings of 1 + ratio
TRUST = 0.8  # in the prediction, before any trial
NOISES = np.array([0.003, 0.006, 0.012, 0.025, 0.05, 0.1])  # of a trial's accuracy around its ratio's
STRAYS = np.array([0.5, 1.0, 2.0])  # of the truth from the prediction, in units of its band
HEIGHTS = np.array([0.02, 0.05, 0.1, 0.2])  # of a curve of which nothing is known
APART = 0.15  # first ratios nearer than this, in u, are one
UNSEEN = 0.9  # in u, from the nearest tried ratio: looked at before anything else
FAR = 0.3  # and so far: looked at every second time
LEVEL = 1.0  # how far the level may be from the trials' mean


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What a sweep takes from a prediction: where to look first, and with a curve also where to draw ratios from.

    generators: of several, each with what is predicted for it, the best-ranked first, whose prediction this is.
    """

    ratio: float
    interval: tuple[float, float]
    curve: Curve | None = None
    confidence: float = 0.0  # of the curve's band
    generators: tuple[GeneratorPrior, ...] = ()

    @classmethod
    def of(cls, estimate: RatioEstimate | Prior | None, prior: str, ranking: Sequence[Ranked] = ()) -> Prior | None:
        """As much as `sweep.prior` says: `none`, `points`, or `distribution`. ranking: of several generators."""
        if estimate is None or prior == "none":
            return None
        found = cls(ratio=estimate.ratio, interval=estimate.interval)
        if prior == "distribution":
            found = replace(found, curve=estimate.curve, confidence=estimate.confidence)
        each = [(ranked.name, ranked.probability, cls.of(ranked.estimate, prior)) for ranked in ranking]
        generators = tuple(GeneratorPrior(name, probability, own) for name, probability, own in each if own)
        return replace(found, generators=generators)

    @property
    def generator(self) -> str | None:
        """The best-ranked of several."""
        return self.generators[0].name if self.generators else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plain: dict[str, Any] = {"ratio": self.ratio, "interval": list(self.interval)}
        if self.curve is not None:
            plain |= {"curve": asdict(self.curve), "confidence": self.confidence}
        if self.generators:
            plain["generators"] = [
                {"name": each.name, "probability": each.probability, **each.prior.to_dict()} for each in self.generators
            ]
        return plain


@dataclass(frozen=True)
class GeneratorPrior:
    """One of several generators: the probability that it is the best, and what is predicted for its images."""

    name: str
    probability: float
    prior: Prior


def drawn_generator(generators: Sequence[GeneratorPrior], seed: int) -> str:
    """One of several, by its probability of being the best as far as the prediction is trusted: each has a chance."""
    shares = np.array([each.probability for each in generators])
    shares = TRUST * shares / shares.sum() + (1 - TRUST) / len(shares)
    return generators[np.random.default_rng([seed, 503]).choice(len(shares), p=shares)].name


def first_ratios(prior: Prior, low: float, high: float) -> list[float]:
    """The predicted ratio, 0, and both ends of the interval, within [low, high]; near ones only once, 0 always."""
    chosen = [0.0]
    for ratio in (prior.ratio, *prior.interval):
        ratio = float(min(max(ratio, low), high))
        if all(abs(np.log2(1 + ratio) - np.log2(1 + other)) > APART for other in chosen):
            chosen.append(ratio)
    predicted = chosen[1:2] if np.log2(1 + prior.ratio) > APART else []
    return [*predicted, 0.0, *chosen[1 + len(predicted) :]]


class RatioPrior:
    """Draws ratios from what the prediction and the trials so far say."""

    def __init__(
        self,
        curve: Curve,
        confidence: float,
        ratio_range: tuple[float, float],
        *,
        choices: Sequence[float] | None = None,
        size: int = 65,
    ):
        """confidence: of the curve's band. choices: the ratios that may be tried, where not all of the range may."""
        low, high = np.log2(1 + np.asarray(ratio_range))
        self.u = np.linspace(low, high, size)
        self.between = (self.u[1] - self.u[0]) / 2
        if choices is not None:
            self.u, self.between = np.log2(1 + np.unique(np.asarray(choices, dtype=float))), 0.0
        at = np.log2(1 + np.asarray(curve.ratio, dtype=float))
        self.predicted = np.interp(self.u, at, 1 - np.asarray(curve.error, dtype=float))
        band = np.interp(self.u, at, np.asarray(curve.high, dtype=float) - np.asarray(curve.low, dtype=float))
        self.stray = np.maximum(band / 2, 1e-3) / _normal_quantile(confidence)
        self.kernel = np.exp(-0.5 * ((self.u[:, None] - self.u) / LENGTH) ** 2) + 1e-9 * np.eye(len(self.u))

    def propose(
        self, ratios: Sequence[float], values: Sequence[float], *, tried: Sequence[float], turn: int, seed: int
    ) -> float:
        """The next ratio.

        Args:
            ratios, values: [T] of the complete trials.
            tried: ratios of all trials, those that still run among them.
            turn: how many ratios were proposed before.
        """
        rng = np.random.default_rng(seed)
        distance = np.abs(self.u[:, None] - np.log2(1 + np.asarray(tried, dtype=float))).min(axis=1, initial=np.inf)
        if distance.max() > (UNSEEN if turn % 2 else FAR):
            return float(2 ** self.u[int(np.argmax(distance))] - 1)
        drawn, _ = self._drawn(ratios, values, rng)
        best = self.u[int(np.argmax(drawn))] + rng.uniform(-1, 1) * self.between
        return float(2 ** np.clip(best, self.u[0], self.u[-1]) - 1)

    def height(self, ratios: Sequence[float], values: Sequence[float], *, seed: int) -> float:
        """The value at the best ratio of a curve that is drawn; some trials must be complete, which say its level."""
        drawn, level = self._drawn(ratios, values, np.random.default_rng(seed))
        return float(drawn.max() + level)

    def _drawn(
        self, ratios: Sequence[float], values: Sequence[float], rng: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        """A curve on the grid from what is believed after the complete trials, and its level. [U]"""
        counts, means, scatter = self._binned(ratios, values)
        beliefs = [
            *((np.log(TRUST / len(STRAYS)), self.predicted, np.outer(self.stray, self.stray) * s**2) for s in STRAYS),
            *((np.log((1 - TRUST) / len(HEIGHTS)), 0 * self.u, np.full_like(self.kernel, h**2)) for h in HEIGHTS),
        ]  # fmt: skip
        fits = [
            (weight + _evidence(*_joint(mean, scale * self.kernel, counts), means, counts, scatter, noise), i, noise)
            for i, (weight, mean, scale) in enumerate(beliefs)
            for noise in NOISES
        ]
        logs = np.array([fit[0] for fit in fits])
        chosen = rng.choice(len(fits), p=np.exp(logs - logsumexp(logs)))
        _, i, noise = fits[chosen]
        _, mean, scale = beliefs[i]
        return _draw(mean, scale * self.kernel, counts, means, noise, rng)

    def _binned(self, ratios: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray, float]:
        """Trials at the nearest point of the grid: how many there, their mean, and the squares around it in all."""
        y = np.asarray(values, dtype=float)
        if len(y) >= 4:  # a trial that learnt nothing says nothing of the ratio
            middle, upper = np.quantile(y, [0.5, 0.75])
            y = np.maximum(y, middle - 3 * (upper - middle) - 0.01)
        place = np.searchsorted((self.u[1:] + self.u[:-1]) / 2, np.log2(1 + np.asarray(ratios, dtype=float)))
        counts = np.bincount(place, minlength=len(self.u)).astype(float)
        sums = np.bincount(place, weights=y, minlength=len(self.u)).astype(float)  # ints where empty
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        return counts, means, float(((y - means[place]) ** 2).sum())


def _joint(mean: np.ndarray, covariance: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    seen = counts > 0
    return mean[seen], covariance[np.ix_(seen, seen)]


def _evidence(
    mean: np.ndarray, covariance: np.ndarray, means: np.ndarray, counts: np.ndarray, scatter: float, noise: float
) -> float:
    """Log marginal likelihood of the trials, up to what is the same for all beliefs; the level is free."""
    n = counts[counts > 0]
    if not len(n):
        return 0.0
    residual = means[counts > 0] - mean
    total = covariance + LEVEL**2 + np.diag(noise**2 / n)
    factor = np.linalg.cholesky(total)
    white = np.linalg.solve(factor, residual - np.average(residual, weights=n))
    within = -(n.sum() - len(n)) * np.log(noise) - scatter / (2 * noise**2)
    return float(-0.5 * white @ white - np.log(np.diag(factor)).sum() + within)


def _draw(
    mean: np.ndarray,
    covariance: np.ndarray,
    counts: np.ndarray,
    means: np.ndarray,
    noise: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """A curve from the posterior on the grid, and its level (by Matheron's rule). [U]"""
    curve = mean + _root(covariance) @ rng.standard_normal(len(mean))
    seen = counts > 0
    if not seen.any():
        return curve, 0.0
    deviation = noise / np.sqrt(counts[seen])
    level = np.average(means[seen] - mean[seen], weights=counts[seen]) + LEVEL * rng.standard_normal()
    noisy = curve[seen] + level + deviation * rng.standard_normal(int(seen.sum()))
    total = covariance[np.ix_(seen, seen)] + LEVEL**2 + np.diag(deviation**2)
    gain = np.linalg.solve(total, means[seen] - noisy)
    drawn: np.ndarray = curve + covariance[:, seen] @ gain
    return drawn, float(level + LEVEL**2 * gain.sum())


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


def _normal_quantile(confidence: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + confidence / 2))
