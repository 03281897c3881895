"""Features with labels in, what the probe measured out: scores of held-out images over ratios, sizes and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_synth.allocation import Allocation
from ray_synth.bound.networks import MAX_THREADS, Kind, network_scores, stratified_folds, torch_on_one_thread
from ray_synth.bound.pilot import Pilot
from ray_synth.bound.probe import PENALTIES, PENALTIES_LARGE, HeldOut, Ridge, scored_rows
from ray_synth.bound.random_features import random_relu
from ray_synth.bound.samples import Samples

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Sets = list[FloatArray]  # features of the real, the synthetic and, if there is one, the target set

NETWORK_INPUTS = ("raw", "patches", "features")  # of perceptrons
MOST_WEIGHTS = 2**17  # of a linear layer: 1,280 features of 102 classes; of more classes, random projections of them
FEWEST_PROJECTIONS = 128  # below which they say no more than the leading components
SMALL = 100  # real images below which probes are repeated more often
SIDE_PENALTIES = (0.1,)  # of the side questions (sizes, weights), asked of at most SIDE_ROWS images
SIDE_ROWS = 500
REAL_WEIGHTS = (0.25, 1.0, 4.0, 16.0)  # of a real image, a synthetic one weighing 1: the second knob
NOTHING = 1e-9  # what a real image weighs that is not trained on
MIN_HALVED = 8  # real images below which nothing can be learnt from half of them


class Draw(NamedTuple):
    """Random features of every set, ridge regression on them, and the scores that were asked of it, by question."""

    sets: Sets
    ridge: Ridge
    known: dict[tuple[Any, ...], FloatArray]


class Families:
    """The samples, their features by family, and draws of random features of these. All questions share the first.

    linear: by family, the features [n_k,d] of the real, the synthetic and, if there is one, the target set. whole: all
    features of an encoder, of mean square 1, where these are more than the families'.
    """

    def __init__(self, samples: Samples, linear: Mapping[str, Sets], seed: int, whole: Sets | None = None):
        self.samples, self.linear, self.seed = samples, linear, seed
        self.whole = None if whole is None else self._narrowed(whole)
        with ThreadPoolExecutor(MAX_THREADS) as pool:
            self.shared = list(pool.map(self._draw, range(len(linear))))

    @property
    def first(self) -> Sets:
        """The family for questions that need one only: the encoder's, or raw pixels."""
        return next(iter(self.linear.values()))

    def _narrowed(self, whole: Sets) -> Sets | None:
        """As many as a linear layer of so many real classes can have: all, random projections, or none."""
        most, wide = MOST_WEIGHTS // int((self.samples.real_counts > 0).sum()), whole[0].shape[1]
        if wide <= most:
            return whole
        if most < FEWEST_PROJECTIONS:
            return None
        onto = np.random.default_rng([self.seed, 10]).normal(size=(wide, most)) / np.sqrt(wide)
        return [features @ onto for features in whole]

    def draws(self, family: int, number: int) -> Iterator[Draw]:
        """So many, of the family at this place."""
        yield self.shared[family]
        for redraw in range(1, number):
            yield self._draw(family, redraw)

    def _draw(self, family: int, redraw: int = 0) -> Draw:
        linear = list(self.linear.values())[family]
        sets = random_relu(linear, np.random.default_rng([self.seed, family, redraw]))
        return Draw(sets, Ridge(sets[0], self.samples.real_labels, sets[1], self.samples.num_classes), {})


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores: the share of probes that are right about an image that they were not trained on.

    grid: ratios [R]; scores: [s,R], a row per held-out image; probes: [G,R], each probe's mean score; labels: [s];
    importance: [s], each image's share in the mean; under_other: the same under the metric that was not asked for.
    sizes: ridge scores with half of the real images [h,R] and with all [s,R], or None where they are too few. weighted:
    ratios [P], weights of a real image [P] and scores [s,P], or None where a weight was given. share_there: [R], of
    the asked synthetic images, those that are there.
    """

    grid: FloatArray
    scores: FloatArray
    probes: FloatArray
    labels: IntArray
    importance: FloatArray
    under_other: FloatArray
    sizes: tuple[FloatArray, FloatArray] | None
    weighted: tuple[FloatArray, FloatArray, FloatArray] | None
    families: Families
    share_there: FloatArray


class Mix(NamedTuple):
    """How a training mixes its images.

    allocation: which class gets how many synthetic ones. real_weight: λ of Eq. 7, the weight of the real images' mean
    loss; None for uniform weights, 1/ratio. use_real: false trains on synthetic images alone, where there are any.
    """

    allocation: Allocation
    real_weight: float | None
    use_real: bool = True

    def weights(self, grid: FloatArray) -> FloatArray:
        """What a real image weighs at each ratio, a synthetic one weighing 1. [R] -> [R]"""
        if not self.use_real:
            return np.where(grid > 0, NOTHING, 1.0)
        return np.ones(len(grid)) if self.real_weight is None else np.where(grid > 0, self.real_weight * grid, 1.0)


def gather(families: Families, grid: FloatArray, mix: Mix, *, balanced: bool) -> Evidence:
    """Run the probe at every ratio of the grid [R], at half the real images, and over weights of the real set.

    balanced: whether classes or images count alike.
    """
    samples, linear, seed = families.samples, families.linear, families.seed
    pilot = Pilot(samples.synthetic_labels, samples.asked(grid, mix.allocation))
    weight = mix.weights(grid)
    n, rows = len(samples.real), scored_rows(samples.real_labels, seed)
    held = _held(samples, rows)
    fit = _Fit(10 if n < 30 else 3 if n < 1000 else 1, PENALTIES if n < 200 else PENALTIES_LARGE)
    seeds = 2 if n < SMALL else 1
    # Each task is one thread's work whatever the machine: more cores, the same sums. Longest first.
    with ThreadPoolExecutor(MAX_THREADS, initializer=torch_on_one_thread) as pool:

        def trained(kind: Kind, sets: Sets) -> Future[FloatArray]:
            given = kind, sets, samples.real_labels, pilot, held(sets)
            return pool.submit(network_scores, *given, real_weight=weight, seeds=seeds, seed=seed)

        layers = [] if families.whole is None else [trained("linear", families.whole)]
        perceptrons = [trained("perceptron", linear[name]) for name in NETWORK_INPUTS if name in linear]
        fitting = [pool.submit(_ridge, families, each, pilot, rows, weight, fit) for each in range(len(linear))]
        sizing = pool.submit(_scores_by_size, families, grid, weight, mix) if n >= MIN_HALVED else None
        free = mix.real_weight is None and mix.use_real
        weighing = pool.submit(_weighted_scores, families, grid, mix) if free else None
        try:
            kinds = [np.stack([each.result() for each in of]) for of in (fitting, perceptrons, layers) if of]
            sizes = sizing.result() if sizing else None
            weighted = weighing.result() if weighing else None
        except BaseException:  # Ctrl-C must not wait for what has not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    scores = np.mean([kind.mean(axis=0) for kind in kinds], axis=0)
    found = _evidence(families, grid, pilot, rows, scores, kinds, balanced=balanced)
    return replace(found, sizes=sizes, weighted=weighted)


def gather_briefly(families: Families, grid: FloatArray, mix: Mix, *, balanced: bool) -> Evidence:
    """`gather` by ridge regression alone and without its side questions: to compare mixes with each other."""
    samples = families.samples
    pilot = Pilot(samples.synthetic_labels, samples.asked(grid, mix.allocation))
    n, rows = len(samples.real), scored_rows(samples.real_labels, families.seed, SIDE_ROWS)
    fit = _Fit(3 if n < 30 else 1, PENALTIES if n < 200 else PENALTIES_LARGE)
    ridge = _by_family(families, pilot, rows, mix.weights(grid), fit)
    return _evidence(families, grid, pilot, rows, ridge.mean(axis=0), [ridge], balanced=balanced)


def look_again(first: Evidence, thumbnails: Sets, mix: Mix) -> Evidence:
    """What `gather` found, and what convolutional networks say that learn their features from the thumbnails: dearer
    than all the rest. The three kinds of classifiers then count alike in the curve's shape. Each image's mean score
    stays, so that what is uncertain compares with what is not; a score may leave [0, 1] by that."""
    families = first.families
    samples = families.samples
    pilot = Pilot(samples.synthetic_labels, samples.asked(first.grid, mix.allocation))
    held = _held(samples, scored_rows(samples.real_labels, families.seed))(thumbnails)
    convolved = network_scores(
        "convolutional",
        thumbnails,
        samples.real_labels,
        pilot,
        held,
        real_weight=mix.weights(first.grid),
        seeds=1,
        seed=families.seed,
    )
    gain = convolved - first.scores
    return replace(
        first,
        scores=first.scores + (gain - gain.mean(axis=1, keepdims=True)) / 3,
        probes=np.concatenate([first.probes, [first.importance @ convolved]]),
    )


def _evidence(
    families: Families,
    grid: FloatArray,
    pilot: Pilot,
    rows: IntArray,
    scores: FloatArray,
    probes: Sequence[FloatArray],
    *,
    balanced: bool,
) -> Evidence:
    """From the scores [s,R], and those of each kind of probe [families,s,R]."""
    samples = families.samples
    labels, plain = _held(samples, rows)(families.first).labels, _importance(families, rows)
    alike = class_balanced(plain, labels, _told(samples))
    importance, other = (alike, plain) if balanced else (plain, alike)
    return Evidence(
        grid=grid,
        scores=scores.clip(0.0, 1.0),
        probes=np.concatenate([np.einsum("s,fsr->fr", importance, each) for each in probes]),
        labels=labels,
        importance=importance,
        under_other=other,
        sizes=None,
        weighted=None,
        families=families,
        share_there=pilot.share_there,
    )


class _Fit(NamedTuple):
    """How ridge regression is fitted: over how many draws of the random features, with which penalties."""

    redraws: int = 1
    penalties: Sequence[float] = SIDE_PENALTIES
    correct: bool = True


ONCE = _Fit()


def _ridge(
    families: Families, family: int, pilot: Pilot, rows: IntArray, weight: FloatArray, fit: _Fit = ONCE
) -> FloatArray:
    """Scores [s,R] on one family, over redraws."""
    held = _held(families.samples, rows)
    # An allocation that was compared in brief and is then chosen asks the first draw the same once more.
    asked = (pilot.counts.tobytes(), weight.tobytes(), rows.tobytes(), *fit.penalties, fit.correct)
    fits = []
    for draw in families.draws(family, fit.redraws):
        if asked not in draw.known:
            draw.known[asked] = draw.ridge.scores(
                pilot, held(draw.sets), real_weight=weight, penalties=fit.penalties, correct=fit.correct
            )
        fits.append(draw.known[asked])
    scores: FloatArray = np.stack(fits).mean(axis=0)
    return scores


def _by_family(families: Families, pilot: Pilot, rows: IntArray, weight: FloatArray, fit: _Fit = ONCE) -> FloatArray:
    """Scores [families,s,R]."""
    return np.stack([_ridge(families, each, pilot, rows, weight, fit) for each in range(len(families.linear))])


def _held(samples: Samples, rows: IntArray, places: IntArray | None = None) -> Callable[[Sets], HeldOut]:
    """Target samples with labels are what to be right about; without them, each of these real rows, left out.

    places: of the rows among the real images that are trained on, where those are not all.
    """
    if samples.target_labels is not None:
        labels = samples.target_labels
        return lambda parts: HeldOut(labels, target=parts[2])
    return lambda parts: HeldOut(samples.real_labels[rows], rows=rows if places is None else places)


def _scores_by_size(
    families: Families, grid: FloatArray, weight: FloatArray, mix: Mix
) -> tuple[FloatArray, FloatArray]:
    """Ridge scores with half of the real images, in either half [h,R], and with all of them [s,R]."""
    samples, seed = families.samples, families.seed
    pilot = Pilot(samples.synthetic_labels, samples.asked(grid, mix.allocation))
    halves = []
    half = stratified_folds(samples.real_labels, 2, np.random.default_rng([seed, 2]))
    for side in (0, 1):
        own = np.flatnonzero(half == side)
        labels = samples.real_labels[own]
        counts = np.bincount(labels, minlength=samples.num_classes).astype(np.int64)
        # Half of the real images see half of the pilot, so that both reach equally far.
        seen = np.sort(np.concatenate([rows[side::2] for rows in pilot.members]))
        part = Pilot(samples.synthetic_labels[seen], samples.asked(grid, mix.allocation, counts))
        rows = scored_rows(labels, seed, SIDE_ROWS)
        held = _held(samples, own[rows], rows)
        fits = [
            Ridge(sets[0][own], labels, sets[1][seen], samples.num_classes).scores(
                part, held(sets), real_weight=weight, penalties=SIDE_PENALTIES
            )
            for sets, _, _ in families.shared
        ]
        halves.append(np.mean(fits, axis=0).clip(0.0, 1.0))
    full = _by_family(families, pilot, scored_rows(samples.real_labels, seed, SIDE_ROWS), weight)
    return np.concatenate(halves), full.mean(axis=0).clip(0.0, 1.0)


def _weighted_scores(families: Families, grid: FloatArray, mix: Mix) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Ridge scores at every ratio above 0 and every weight of a real image: ratios [P], weights [P], scores [s,P]."""
    samples = families.samples
    ratios, weights = (a.ravel() for a in np.meshgrid(grid[grid > 0], REAL_WEIGHTS, indexing="ij"))
    pilot = Pilot(samples.synthetic_labels, samples.asked(ratios, mix.allocation))
    rows = scored_rows(samples.real_labels, families.seed, SIDE_ROWS)
    # What is compared are weights at one ratio: a correction beyond the pilot would move all of them.
    fits = _by_family(families, pilot, rows, weights, _Fit(correct=False))
    return ratios, weights, fits.mean(axis=0)


def _importance(families: Families, rows: IntArray) -> FloatArray:
    """Equal shares; for an unlabelled target, the real rows' density ratio by logistic regression, at most 10."""
    samples = families.samples
    if samples.target is None or samples.target_labels is not None:
        number = len(rows) if samples.target_labels is None else len(samples.target_labels)
        return np.full(number, 1.0 / number)
    from sklearn.linear_model import LogisticRegression

    source, target = families.first[0], families.first[2]
    model = LogisticRegression(C=0.01, max_iter=500, class_weight="balanced")
    model.fit(np.concatenate([source, target]), np.r_[np.zeros(len(source)), np.ones(len(target))])
    ratio = np.exp(model.decision_function(source[rows])).clip(0.1, 10.0)
    share: FloatArray = ratio / ratio.sum()
    return share


def class_balanced(importance: FloatArray, labels: IntArray, told: BoolArray) -> FloatArray:
    """The same shares within each class, and the same of each that is `told` [C] of, or of all where none is.
    [s] -> [s]"""
    of_class = np.bincount(labels, weights=importance, minlength=len(told))
    counted = (of_class > 0) & told if told[labels].any() else of_class > 0
    share: FloatArray = np.where(counted, 1 / np.maximum(of_class, 1e-12), 0.0)[labels] * importance / counted.sum()
    return share


def _told(samples: Samples) -> BoolArray:
    """Classes of which leaving one image out leaves another: without, no ratio 0 is right about it. [C]"""
    if samples.target_labels is not None:
        return np.ones(samples.num_classes, dtype=bool)
    return samples.real_counts > 1
