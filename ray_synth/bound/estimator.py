"""Two labelled image sets and their features in, a `RatioEstimate` out: a ratio, an allocation, a curve, a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_synth.allocation import ALLOCATIONS, Allocation, uneven
from ray_synth.bound.curve import (
    AGAIN_SECONDS,
    FEWEST,
    NEAR,
    NOTICEABLE,
    Posterior,
    Verdict,
    discrepancy_covariance,
    fine_ratios,
    near_best_interval,
    ratio_grid,
    verdict_of,
)
from ray_synth.bound.evidence import Evidence, Families, Mix, Sets, gather, gather_briefly, look_again
from ray_synth.bound.image_risk import exact_risk_on_images, excess_distance, stability_on_images
from ray_synth.bound.leak import leak_warning
from ray_synth.bound.networks import MAX_THREADS, one_thread
from ray_synth.bound.proxies import feature_discrepancies, proxy_table
from ray_synth.bound.random_features import random_relu
from ray_synth.bound.result import AllocationEstimate, ClassEstimate, Curve, RatioEstimate, Spectra, WeightEstimate
from ray_synth.bound.samples import Samples
from ray_synth.bound.scaling_law import ScalingLaw, fit_alone, fit_scaling_law
from ray_synth.bound.theorem import closed_form
from ray_synth.errors import InputError, near_misses

FloatArray = NDArray[np.float64]

METRICS = ("accuracy", "balanced_accuracy")  # as in config.sweep, which nothing here imports; a test holds them equal
METHODS = ("probe", "closed_form", "exact_risk", "stability", "scaling_law")
DRAWS = 500
LEARNING = 0.5  # exponent of the learning curve where the real images are too few to be halved
LARGE_PILOT = 10_000  # synthetic images that are always enough
SMALL_CLASS = 5  # real images of a class below which its own curve says nothing


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the image sets, in the words of `estimate_ratio`. num_given: real images at hand.

    Raises:
        InputError: a value out of range.
    """

    num_given: int
    num_real: int
    max_ratio: float = 16.0
    real_weight: float | None = None
    methods: Sequence[str] = METHODS
    confidence: float = 0.9
    seed: int = 0
    allocation: Allocation | None = None
    metric: str | None = None
    use_real: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.num_real, int | np.integer) or self.num_real < self.num_given:
            raise InputError(
                f"num_real must be an integer >= {self.num_given}, the number of real images given, "
                f"got {self.num_real!r}"
            )
        if not 0 < self.max_ratio <= 1000:
            raise InputError(f"max_ratio must be in (0, 1000], got {self.max_ratio}")
        if self.real_weight is not None and not 0 < self.real_weight <= 1e6:
            raise InputError(f"real_weight must be in (0, 1e6], or None for uniform weights, got {self.real_weight}")
        unknown = [name for name in self.methods if name not in METHODS]
        if isinstance(self.methods, str) or unknown:
            raise InputError(f"methods must be among {', '.join(METHODS)}, got {self.methods!r}")
        if self.allocation is not None and self.allocation not in ALLOCATIONS:
            raise InputError(
                f"allocation must be {', '.join(ALLOCATIONS)}, or None to compare them, got {self.allocation!r}"
            )
        if self.metric not in (*METRICS, None):
            raise InputError(
                f"metric must be {' or '.join(METRICS)}, or None to go by the classes, got {self.metric!r}"
            )
        if not 0.5 < self.confidence < 1:
            raise InputError(f"confidence must be in (0.5, 1), got {self.confidence}")
        if not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise InputError(f"seed must be an integer >= 0, got {self.seed!r}")


def predicted_from_features(
    samples: Samples,
    linear: Mapping[str, Sets],
    asked: Question,
    whole: Sets | None = None,
    thumbnails: Sets | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[RatioEstimate, Predicted]:
    """The estimate on frozen features of every set, matrices [n_k,d] by family, and what it rests on. On one thread.

    Of one kind at most: whole: all features of an encoder, of mean square 1. thumbnails: [n_k,h,w,C] in [0, 1], to look
    at again where features cannot tell, which is said.
    """
    with one_thread():
        return _estimate(Families(samples, linear, asked.seed, whole), asked, thumbnails, say)


@dataclass(frozen=True, eq=False)
class Predicted:
    """The curve of one allocation: accuracy (or balanced accuracy) [G] at fine ratios [G], with draws of it [D,G].

    rate: [D,G], exponents of the learning curve; grown: [D,G], what is left of the error at the full size; astray: [G],
    the standard deviation of a classifier's curve about the probes'.
    """

    allocation: Allocation
    evidence: Evidence
    ratios: FloatArray
    posterior: Posterior
    rate: FloatArray
    grown: FloatArray
    mean: FloatArray
    draws: FloatArray
    astray: FloatArray

    @property
    def best(self) -> int:
        return int(self.mean.argmax())

    @property
    def at_best(self) -> FloatArray:
        """Each held-out image's score at the best ratio. [s]"""
        u, at = np.log2(1 + self.evidence.grid), float(np.log2(1 + self.ratios[self.best]))
        right = int(np.clip(np.searchsorted(u, at), 1, len(u) - 1))
        share = (at - u[right - 1]) / (u[right] - u[right - 1])
        scores: FloatArray = self.evidence.scores[:, right - 1] * (1 - share) + self.evidence.scores[:, right] * share
        return scores


def metric_of(samples: Samples) -> str:
    """What is predicted where nobody says: accuracy; where real classes are uneven and no labelled target says their
    shares, how many there are of each is seldom what it is to be right about, and classes count alike."""
    return "balanced_accuracy" if samples.target_labels is None and uneven(samples.real_counts) else "accuracy"


def _estimate(
    families: Families, asked: Question, thumbnails: Sets | None, say: Callable[[str], None] | None
) -> tuple[RatioEstimate, Predicted]:
    samples = families.samples
    metric = asked.metric or metric_of(samples)
    asked = replace(asked, metric=metric)
    brief: dict[Allocation, Predicted] = {}
    if uneven(samples.real_counts, samples.given):  # where classes are equal all allocations are one
        with ThreadPoolExecutor(MAX_THREADS) as pool:
            predicted = pool.map(lambda each: _predict(families, asked, each, gather_briefly), ALLOCATIONS)
            brief = dict(zip(ALLOCATIONS, predicted, strict=True))
    recommended = _recommended(brief, metric)
    chosen = _predict(families, asked, asked.allocation or recommended, gather)
    if thumbnails is not None and _cannot_tell(samples, chosen):
        if say is not None:
            took = f"about {AGAIN_SECONDS} seconds of one core"
            say(f"the features cannot tell; convolutional networks are asked too ({took})")
        again = look_again(chosen.evidence, thumbnails, _mix(asked, chosen.allocation))
        chosen = _from_evidence(again, asked, chosen.allocation)
    verdict, reason, probabilities = _verdict(samples, chosen)
    pick, interval = _picked(chosen, asked)
    evidence, ratios, mean = chosen.evidence, chosen.ratios, chosen.mean
    tail = (1 - asked.confidence) / 2
    band = np.quantile(chosen.draws, [tail, 1 - tail], axis=0).clip(0, 1)
    probe = {
        "ratio": pick,
        "grid": list(_floats(evidence.grid)),
        "accuracy": list(_floats((evidence.importance @ evidence.scores).clip(0, 1))),
        "verdict_probability": probabilities,
    }
    names = [name for name in asked.methods if name != "probe"]
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        classes = pool.submit(_per_class, samples, chosen, asked)
        answers = dict(zip(names, pool.map(lambda name: _METHODS[name](samples, evidence, asked), names), strict=True))
    estimate = RatioEstimate(
        ratio=pick,
        interval=interval,
        allocation=chosen.allocation,
        allocations=_of_allocations(chosen, brief, asked),
        metric=metric,
        verdict=verdict,
        reason=reason,
        curve=Curve(
            ratio=_floats(ratios),
            error=_floats(1 - mean.clip(0, 1)),
            low=_floats(1 - band[1]),
            high=_floats(1 - band[0]),
        ),
        methods={"probe": probe, **answers},
        weights=_best_weights(evidence),
        real_equivalent=_real_equivalent(mean, ratios, float(np.median(chosen.rate[:, 0]))) if asked.use_real else None,
        classes=classes.result(),
        spectra=_spectra(samples),
        warnings=tuple(_warnings(samples, evidence)),
        confidence=asked.confidence,
        max_ratio=asked.max_ratio,
        num_real=asked.num_real,
        num_real_given=len(samples.real),
        num_synthetic=len(samples.synthetic),
        recommended=recommended,
    )
    return estimate, chosen


def _predict(
    families: Families, asked: Question, allocation: Allocation, gathered: Callable[..., Evidence]
) -> Predicted:
    balanced = asked.metric == "balanced_accuracy"
    evidence = gathered(families, ratio_grid(asked.max_ratio), _mix(asked, allocation), balanced=balanced)
    return _from_evidence(evidence, asked, allocation)


def _mix(asked: Question, allocation: Allocation) -> Mix:
    return Mix(allocation, asked.real_weight, asked.use_real)


def _from_evidence(evidence: Evidence, asked: Question, allocation: Allocation) -> Predicted:
    ratios = fine_ratios(asked.max_ratio)
    # Without real images the curve has a jump at 0, where they are all that is trained on.
    smooth = np.arange(len(evidence.grid)) >= (0 if asked.use_real else 1)
    posterior = Posterior(
        np.log2(1 + evidence.grid[smooth]), evidence.scores[:, smooth], np.log2(1 + ratios), weights=evidence.importance
    )
    rate = _learning_rate(evidence, ratios, DRAWS, asked.seed)
    grown = (len(evidence.families.samples.real) / asked.num_real) ** rate
    others = discrepancy_covariance(ratios, evidence.grid, evidence.probes, evidence.share_there)
    mean, draws = posterior.mean.copy(), posterior.draw(DRAWS, asked.seed, others)
    if not asked.use_real:
        none = evidence.scores[:, 0]
        mean[0] = evidence.importance @ none
        noise = float(np.sqrt((evidence.importance**2) @ (none - mean[0]) ** 2))
        draws[:, 0] = mean[0] + noise * np.random.default_rng([asked.seed, 501]).normal(size=DRAWS)
    return Predicted(
        allocation=allocation,
        evidence=evidence,
        ratios=ratios,
        posterior=posterior,
        rate=rate,
        grown=grown,
        mean=1 - (1 - mean) * np.median(grown, axis=0),
        draws=1 - (1 - draws) * grown,
        astray=np.sqrt(np.diag(others)),
    )


def _picked(found: Predicted, asked: Question) -> tuple[float, tuple[float, float]]:
    """The best ratio and its interval."""
    ratios = found.ratios
    first, last = near_best_interval(found.draws, found.best, asked.confidence)
    interval = (_rounded(ratios[first], asked.max_ratio), _rounded(ratios[last], asked.max_ratio))
    return _rounded(ratios[found.best], asked.max_ratio), interval


def _recommended(brief: Mapping[Allocation, Predicted], metric: str) -> Allocation:
    """Of allocations that are as good as the best, the one that comes first: within .003 of it, or where classes count
    alike, within one standard error of what the held-out images say of the two (Breiman et al., 1984). Filling rare
    classes is then what is to be expected; under the real images' shares it is not."""

    def no_worse(one: Predicted, other: Predicted) -> bool:
        share, apart = one.evidence.importance, other.at_best - one.at_best
        error = float(np.sqrt(share**2 @ (apart - share @ apart) ** 2)) if metric == "balanced_accuracy" else 0.0
        return float(other.mean.max() - one.mean.max()) <= max(NEAR, error)

    good = (name for name, each in brief.items() if all(no_worse(each, other) for other in brief.values()))
    return next(good, max(brief, key=lambda name: float(brief[name].mean.max()), default=ALLOCATIONS[0]))


def _of_allocations(
    chosen: Predicted, brief: Mapping[Allocation, Predicted], asked: Question
) -> dict[Allocation, AllocationEstimate]:
    """What each would give: the chosen one as predicted in full, the others by how far they are from it in brief at
    each ratio; at ratio 0 all are one. (Each at its own best ratio in brief, ridge regression alone would answer many
    images of wrong labels where all kinds of classifiers do not.)"""
    here = _both_measures(chosen, asked)
    found = dict.fromkeys(ALLOCATIONS, _of_allocation(chosen, here, asked))
    if not brief:
        return found
    base = brief[chosen.allocation]
    by, both_by = chosen.mean - base.mean, here - _both_measures(base, asked)
    for name, each in brief.items():
        if name != chosen.allocation:
            moved = replace(each, mean=each.mean + by, draws=each.draws + by)
            measures = _both_measures(each, asked) + both_by if moved.best else here
            found[name] = _of_allocation(moved, measures, asked)
    return found


def _both_measures(found: Predicted, asked: Question) -> FloatArray:
    """Curves of accuracy and of balanced accuracy, [2,G]."""
    evidence, points, fine = found.evidence, np.log2(1 + found.evidence.grid), np.log2(1 + found.ratios)
    other = Posterior(points, evidence.scores, fine, weights=evidence.under_other).mean
    curves = [found.mean, 1 - (1 - other) * np.median(found.grown, axis=0)]
    return np.stack(curves if asked.metric == "accuracy" else curves[::-1])


def _of_allocation(found: Predicted, measures: FloatArray, asked: Question) -> AllocationEstimate:
    """Both measures [2,G] at the allocation's own best ratio."""
    accuracy, balanced = measures[:, found.best].clip(0, 1)
    ratio, interval = _picked(found, asked)
    return AllocationEstimate(
        ratio=ratio, interval=interval, accuracy=round(float(accuracy), 6), balanced_accuracy=round(float(balanced), 6)
    )


def _verdict(samples: Samples, found: Predicted) -> tuple[Verdict, str, dict[str, float]]:
    verdict, reason, probabilities = verdict_of(found.ratios, found.mean, found.draws, len(found.evidence.scores))
    if _alone(samples):
        # Left out, it leaves none of its class: what real data alone are worth is then a guess, and so is any gain.
        return "uncertain", "most classes have one real image only; two a class are needed", probabilities
    return verdict, reason, probabilities


def _alone(samples: Samples) -> bool:
    return bool(np.median(samples.real_counts) < 2) and samples.target_labels is None


def _cannot_tell(samples: Samples, found: Predicted) -> bool:
    """Whether it is uncertain for another reason than that there are too few images to be right about."""
    return len(found.evidence.scores) >= FEWEST and not _alone(samples) and _verdict(samples, found)[0] == "uncertain"


def _learning_rate(evidence: Evidence, ratios: FloatArray, draws: int, seed: int) -> FloatArray:
    """b of error ∝ (real images)^−b at each ratio, from half of the images to all: draws [D,G] in [0, 1]."""
    if evidence.sizes is None:
        return np.full((draws, len(ratios)), LEARNING)
    u, fine = np.log2(1 + evidence.grid), np.log2(1 + ratios)
    half, full = (
        1 - Posterior(u, scores, fine).draw(draws, seed + number).clip(0.0, 0.995)
        for number, scores in enumerate(evidence.sizes)
    )
    rate: FloatArray = np.log2(half / full).clip(0.0, 1.0)
    return rate


def _real_equivalent(mean: FloatArray, ratios: FloatArray, rate: float) -> float | None:
    """Synthetic images worth one real image: real images that would lower the error as much, by the learning curve."""
    best = int(mean.argmax())
    none, here = 1 - mean[0], 1 - mean[best]
    if best == 0 or none - here < NOTICEABLE / 2 or here <= 0 or rate < 0.01:
        return None
    more = (none / here) ** (1 / rate) - 1  # in units of the real set
    return float(f"{ratios[best] / more:.3g}") if more > 0 else None


def _best_weights(evidence: Evidence) -> tuple[WeightEstimate, ...]:
    """At each ratio of the grid, the best weight by a Gaussian process over ratio and log2 weight, and its worth."""
    if evidence.weighted is None:
        return ()
    ratios, weights, scores = evidence.weighted
    points = np.stack([np.log2(1 + ratios), np.log2(weights)], axis=1)
    fine = np.linspace(np.log2(weights.min()), np.log2(weights.max()), 25)
    found = []
    for ratio in np.unique(ratios):
        queries = np.stack([np.full(len(fine) + 1, np.log2(1 + ratio)), np.append(fine, 0.0)], axis=1)
        posterior = Posterior(points, scores, queries)
        best = int(posterior.mean[:-1].argmax())
        spread = posterior.covariance
        variance = spread[best, best] + spread[-1, -1] - 2 * spread[best, -1]
        found.append(
            WeightEstimate(
                ratio=float(ratio),
                real_weight=float(f"{2.0 ** fine[best] / ratio:.3g}"),
                gain=round(float(posterior.mean[best] - posterior.mean[-1]), 6),
                gain_std=round(float(np.sqrt(max(variance, 0.0))), 6),
            )
        )
    return tuple(found)


def _per_class(samples: Samples, chosen: Predicted, asked: Question) -> tuple[ClassEstimate, ...]:
    """Each class's recall over ratios, a Gaussian process around the curve of all classes; worst class first."""
    evidence, ratios, posterior = chosen.evidence, chosen.ratios, chosen.posterior
    grown = np.median(chosen.grown, axis=0)
    u, fine = np.log2(1 + evidence.grid), np.log2(1 + ratios)
    overall = np.interp(u, fine, posterior.mean)
    pixels = evidence.families.first
    goal = pixels[0] if samples.target_labels is None else pixels[2]
    goal_labels = samples.real_labels if samples.target_labels is None else samples.target_labels
    synthetic_counts = np.bincount(samples.synthetic_labels, minlength=samples.num_classes)
    found = []
    for c in np.flatnonzero(samples.real_counts):
        rows = np.flatnonzero(evidence.labels == c)
        own = None
        if len(rows) >= SMALL_CLASS:
            own = Posterior(u, evidence.scores[rows], fine, prior=(overall, posterior.mean))
        curve = 1 - (1 - (own or posterior).mean) * grown
        ours, theirs = goal[goal_labels == c], pixels[1][samples.synthetic_labels == c]
        apart = excess_distance(ours, theirs) if min(len(ours), len(theirs) // 2) >= 2 else None
        best, interval = int(curve.argmax()), None
        if own is not None and synthetic_counts[c]:
            drawn = 1 - (1 - own.draw(DRAWS, asked.seed)) * grown
            ends = near_best_interval(drawn, best, asked.confidence)
            interval = (_rounded(ratios[ends[0]], asked.max_ratio), _rounded(ratios[ends[1]], asked.max_ratio))
        found.append(
            ClassEstimate(
                label=samples.class_ids[c].item(),
                num_real=int(samples.real_counts[c]),
                num_synthetic=int(synthetic_counts[c]),
                ratio=_rounded(ratios[best], float(ratios[-1])) if synthetic_counts[c] else 0.0,
                interval=interval,
                recall_real_only=round(float(curve[0].clip(0, 1)), 6),
                recall=round(float(curve[posterior.mean.argmax()].clip(0, 1)), 6),
                distance=None if apart is None else round(apart, 6),
            )
        )
    return tuple(sorted(found, key=lambda each: each.recall))


def _closed_form(samples: Samples, evidence: Evidence, asked: Question) -> dict[str, Any]:
    """Its terms, and its ratios under every proxy of them."""
    found = closed_form(
        samples.real, samples.synthetic, num_real=asked.num_real, max_ratio=asked.max_ratio, target=samples.target
    )
    sets = evidence.families.first
    rows = proxy_table(
        {"RAPSD": found.discrepancy, **feature_discrepancies(sets[2] if len(sets) > 2 else sets[0], sets[1])},
        variance=found.noise_variance,
        decays=(found.decay_measured, found.decay_1d),
        num_real=asked.num_real,
        max_ratio=asked.max_ratio,
    )
    return {**found.to_dict(), "proxies": [asdict(row) for row in rows]}


def _exact_risk(samples: Samples, evidence: Evidence, asked: Question) -> dict[str, Any]:
    richest = list(evidence.families.linear.values())[-1]
    labels = [samples.real_labels, samples.synthetic_labels]
    if samples.target_labels is not None:
        labels.append(samples.target_labels)
    return exact_risk_on_images(
        random_relu(richest[: len(labels)], np.random.default_rng(0)),
        labels,
        num_classes=samples.num_classes,
        num_real=asked.num_real,
        max_ratio=asked.max_ratio,
    ).to_dict()


def _stability(samples: Samples, evidence: Evidence, asked: Question) -> dict[str, Any]:
    sets = evidence.families.first
    target = sets[2] if len(sets) > 2 else None
    return stability_on_images(
        sets[0], sets[1], num_real=asked.num_real, max_ratio=asked.max_ratio, target=target
    ).to_dict()


def _scaling_law(samples: Samples, evidence: Evidence, asked: Question) -> dict[str, Any]:
    """Fitted to the probe's errors on mixtures; `alone` is what its authors' own fit says, where it has the points."""
    real_weight = asked.real_weight
    fine = fine_ratios(asked.max_ratio)
    alpha = fine / (fine + 1) if real_weight is None else np.where(fine > 0, 1 / (1 + real_weight), 0.0)

    def answer(law: ScalingLaw) -> dict[str, Any]:
        predicted = law.error(asked.num_real, fine * asked.num_real, alpha)
        best = _rounded(fine[predicted.argmin()], asked.max_ratio)
        return {"ratio": best, "error": float(predicted.min()), **law.to_dict()}

    alone = _law_alone(samples, evidence, asked)
    return {**answer(_law_of_mixtures(samples, evidence, asked)), "alone": alone and answer(alone)}


def _law_of_mixtures(samples: Samples, evidence: Evidence, asked: Question) -> ScalingLaw:
    """To errors at half of the real images and at all, at every ratio and at several weights of a real image."""
    n, real_weight, points = len(samples.real), asked.real_weight, []
    weight = np.ones(len(evidence.grid)) if real_weight is None else np.maximum(real_weight * evidence.grid, 1e-9)
    half, full = evidence.sizes or (None, evidence.scores)
    for share, scores in ((0.5, half), (1.0, full)):
        if scores is not None:
            points += [
                (share * n, r, v, e) for r, v, e in zip(evidence.grid, weight, 1 - scores.mean(axis=0), strict=True)
            ]
    if evidence.weighted is not None:
        ratios, weights, scores = evidence.weighted
        points += [(n, r, v, e) for r, v, e in zip(ratios, weights, 1 - scores.mean(axis=0), strict=True) if v != 1]
    count, ratio, v, error = np.array(points).T
    return fit_scaling_law(count, ratio * count, ratio / (ratio + v), error)


def _law_alone(samples: Samples, evidence: Evidence, asked: Question) -> ScalingLaw | None:
    """To errors of real images alone, half of them and all, and of synthetic ones alone at every ratio that is there.

    None where the real images are too few to be halved or the synthetic ones reach fewer than three ratios.
    """
    there = (evidence.grid > 0) & (evidence.share_there >= 1)
    if evidence.sizes is None or there.sum() < 3:
        return None
    n, grid = len(samples.real), np.r_[0.0, evidence.grid[there]]
    mix = Mix(asked.allocation or ALLOCATIONS[0], None, use_real=False)
    without = gather_briefly(evidence.families, grid, mix, balanced=False)
    real = [1 - float(scores[:, 0].mean()) for scores in evidence.sizes]
    synthetic = 1 - without.scores[:, 1:].mean(axis=0)
    return fit_alone(np.array([n / 2, n]), np.array(real), grid[1:] * n, synthetic)


_METHODS: dict[str, Callable[[Samples, Evidence, Question], dict[str, Any]]] = {
    "closed_form": _closed_form,
    "exact_risk": _exact_risk,
    "stability": _stability,
    "scaling_law": _scaling_law,
}


def _spectra(samples: Samples) -> Spectra:
    real, synthetic = samples.real.spectrum, samples.synthetic.spectrum
    return Spectra(
        frequency=_floats(real.frequency / min(samples.real.shape[:2])),
        real=_floats(real.power),
        synthetic=_floats(synthetic.power),
    )


def _warnings(samples: Samples, evidence: Evidence) -> Iterator[str]:
    n, m = len(samples.real), len(samples.synthetic)
    wanted = min(max(4 * n, 400), LARGE_PILOT)
    if m < wanted:
        yield f"{m} synthetic images are few: {wanted} (4 per real image, at least 400) tell much more"
    counts = np.bincount(samples.synthetic_labels, minlength=samples.num_classes)
    missing, only = (
        [samples.class_ids[c].item() for c in np.flatnonzero(which)]
        for which in ((samples.real_counts > 0) & (counts == 0), (samples.real_counts == 0) & (counts > 0))
    )
    if missing:
        yield f"no synthetic images of class(es) {_listed(missing)}: they stay real only"
    for here, there in near_misses(map(str, only), map(str, missing)):
        yield f"did you mean one class by {here!r} (synthetic) and {there!r} (real)? Give both one name"
    single = int((samples.real_counts == 1).sum())
    if single:
        yield f"{single} class(es) have one real image: left out of training, nothing real tells of its class"
    first = evidence.families.first
    leak = leak_warning(first[0], samples.real_labels, first[1], samples.synthetic_labels)
    if leak:
        yield leak


def _listed(values: Sequence[int | str], limit: int = 8) -> str:
    return ", ".join(str(v) for v in values[:limit]) + (
        f" and {len(values) - limit} more" if len(values) > limit else ""
    )


def _rounded(ratio: float, max_ratio: float) -> float:
    """Three significant digits: more would pretend."""
    return min(float(f"{ratio:.3g}"), max_ratio)


def _floats(values: FloatArray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
