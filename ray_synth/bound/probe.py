"""Features with labels in, held-out accuracy at every ratio out: ridge classifiers with exact leave-one-out.

The bounds see image statistics alone; the probe sees labels. For each ratio it fits ridge regression to one-hot targets
on the real images and the first synthetic ones of each class, and scores every real image by the fit without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ray_synth.bound.pilot import Pilot

FloatArray = NDArray[np.float64]

PENALTIES = (0.03, 0.1, 0.3)  # times the sample size and the mean square of a feature
PENALTIES_LARGE = (0.003, 0.01, 0.03, 0.1)  # from 200 real images
QUARTERS = 4
MAX_SCORED = 1000
BLOCK = 64  # rows of a triangle that are solved at once
LARGE_CLASS = 40  # real images of a class from which one more or less is no matter


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a fit is scored on: rows of the real set, each left out in turn, or samples of a target domain.

    labels: [s]; rows: [s], of the real set; target: [s,d] features instead.
    """

    labels: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None
    target: FloatArray | None = None


class Ridge:
    """Ridge classifiers on one set of features: what is learnt of the real images once, and scores for any pilot of the
    synthetic ones.

    real: [n,d]; synthetic: [m,d].
    """

    def __init__(self, real: FloatArray, labels: NDArray[np.int64], synthetic: FloatArray, num_classes: int):
        self.real, self.labels, self.synthetic = real, labels, synthetic
        self.targets = np.eye(num_classes) - 1.0 / num_classes
        self.gram, self.moment = real.T @ real, real.T @ self.targets[labels]
        self.scale = float(np.einsum("nd,nd->", real, real)) / real.size

    def scores(
        self,
        pilot: Pilot,
        held: HeldOut,
        *,
        real_weight: FloatArray,
        penalties: Sequence[float] = PENALTIES,
        correct: bool = True,
    ) -> FloatArray:
        """Share of penalties under which each held-out image is classified right, at each ratio. [s,R]

        Where a class of the pilot has too few images, those it has weigh more, and the score is corrected for how
        little they vary (`extrapolated`), with A the score on the whole pilot and B the mean over disjoint quarters of
        it. What a quarter loses against the whole tells what the whole loses against a pilot that is large enough,
        since errors of averages over m images fall as 1/√m.

        Args:
            real_weight: [R], what a real image weighs at each ratio; a synthetic one weighs 1.
            correct: whether to correct the scores beyond the pilot.
        """
        judge = _Judge(self, held, penalties)
        whole = self._right(pilot.members, pilot.counts, real_weight, judge)
        if not correct:
            return whole / len(penalties)
        beyond = pilot.share_there < 1
        quartered = np.zeros_like(whole[:, beyond])
        if beyond.any():
            for part in range(QUARTERS):
                members = [rows[part::QUARTERS] for rows in pilot.members]
                quartered += self._right(members, pilot.counts[beyond], real_weight[beyond], judge) / QUARTERS
        return extrapolated(whole / len(penalties), quartered / len(penalties), pilot.share_there)

    def _right(
        self,
        members: Sequence[NDArray[np.int64]],
        counts: NDArray[np.int64],
        real_weight: FloatArray,
        judge: _Judge,
    ) -> FloatArray:
        """Number of penalties under which each held-out image is right, at counts [R,C] of each class: [s,R]. Gram
        matrices are cumulative over the ratios' prefixes: no ratio starts from nothing."""
        right = np.zeros((len(judge.labels), len(counts)))
        prefix = _Prefix(self.synthetic, members)
        for i in np.argsort(counts.sum(axis=1), kind="stable"):
            wanted, v = counts[i], float(real_weight[i])
            prefix.extend(wanted)
            weight = np.where(prefix.taken > 0, wanted / np.maximum(prefix.taken, 1), 1.0)
            mixed = v * self.gram + prefix.gram(weight)
            aim = v * self.moment + (prefix.sums * weight[:, None]).T @ self.targets
            weighed = v * len(self.real) + float((prefix.taken * weight).sum())
            right[:, i] = judge.right(mixed, aim, weighed * self.scale, v)
        return right


def extrapolated(whole: FloatArray, quartered: FloatArray, share: FloatArray) -> FloatArray:
    """Scores [s,R] corrected where the share of images there is below 1: A + (1 − √share)·(A − B).

    quartered: B, [s, number of such ratios].
    """
    beyond = share < 1
    corrected = whole.copy()
    corrected[:, beyond] += (1 - np.sqrt(share[beyond])) * (whole[:, beyond] - quartered)
    return corrected


class _Judge:
    """Fits under every penalty and what they say of held-out images, exact for ridge regression (`_LeftOut`)."""

    def __init__(self, ridge: Ridge, held: HeldOut, penalties: Sequence[float]):
        self.labels, self.target, self.penalties = held.labels, held.target, penalties
        self.left_out = None
        if held.rows is not None:
            self.left_out = _LeftOut(ridge.real, ridge.labels, held.rows, ridge.targets[ridge.labels])

    def right(self, mixed: FloatArray, aim: FloatArray, scale: float, weight: float) -> FloatArray:
        """Number of penalties under which each is right [s], from the Gram matrix [d,d] and moment [d,C] of all that is
        trained on. scale: of the penalties; weight: of a real image."""
        right = np.zeros(len(self.labels))
        for penalty in self.penalties:
            ridged = mixed.copy()
            ridged.reshape(-1)[:: len(mixed) + 1] += penalty * scale
            # Symmetric, so its transpose, in the order that LAPACK overwrites, is the same matrix.
            factor = scipy.linalg.cholesky(ridged.T, lower=True, overwrite_a=True, check_finite=False)
            solved = scipy.linalg.cho_solve((factor, True), aim, check_finite=False)
            if self.left_out is None:
                fitted = self.target @ solved
            else:
                fitted = self.left_out.predictions(factor, solved, weight)
            right += fitted.argmax(axis=1) == self.labels
        return right


class _Prefix:
    """Gram matrix and class sums [C,d] of the first synthetic images of each class.

    Where classes are used up they weigh more at every ratio. Of many images each class has a Gram matrix of its own
    then, so that none is gone through again; of few, going through them is cheaper, and there is one for all.
    """

    def __init__(self, synthetic: FloatArray, members: Sequence[NDArray[np.int64]]):
        d = synthetic.shape[1]
        self.synthetic, self.members = synthetic, members
        self.available = np.array([len(rows) for rows in members])
        self.taken = np.zeros(len(members), dtype=np.int64)
        self.sums = np.zeros((len(members), d))
        classes = np.arange(len(members))
        apart = len(members) * d <= 2 * self.available.sum()  # no more memory than twice the images'
        self.groups = np.split(classes, len(members)) if apart else [classes]
        self.grams = np.zeros((len(self.groups), d * d))

    def extend(self, wanted: NDArray[np.int64]) -> None:
        """To as many of each class as are wanted [C] and there."""
        there = np.minimum(wanted, self.available)
        for gram, group in zip(self.grams, self.groups, strict=True):
            grown = group[there[group] > self.taken[group]]
            if not len(grown):
                continue
            new = self.synthetic[np.concatenate([self.members[c][self.taken[c] : there[c]] for c in grown.tolist()])]
            gram += (new.T @ new).ravel()
            each = np.repeat(np.arange(len(grown)), (there - self.taken)[grown])
            self.sums[grown] += np.eye(len(grown))[each].T @ new
        self.taken = there

    def gram(self, weight: FloatArray) -> FloatArray:
        """[d,d], the images of each class weighing `weight` [C]: 1, or more where all of them are taken."""
        d = self.synthetic.shape[1]
        if len(self.groups) > 1:
            weighed: FloatArray = (weight @ self.grams).reshape(d, d)
            return weighed
        found: FloatArray = self.grams[0].reshape(d, d).copy()
        heavy = np.flatnonzero(weight > 1)
        if len(heavy):
            own = self.synthetic[np.concatenate([self.members[c] for c in heavy.tolist()])]
            own *= np.sqrt(np.repeat(weight[heavy] - 1, self.available[heavy]))[:, None]
            found += own.T @ own
        return found


class _LeftOut:
    """Predictions for rows by the fit without each, the others of its class weighing as much as with it.

    Where weights change by δ on rows K, predictions there become (I + H_KK diag δ)⁻¹ (f_K + H_KK diag(δ) y_K), with
    H = X A⁻¹ Xᵀ. Left out without that, an image leaves its class lighter (of two images half of it is gone), and more
    so the fewer synthetic ones there are. Of a class of k, δ is a = weight/(k − 1), and less by k·a at the image i
    itself: with N = (I + a H_KK)⁻¹ the i-th row of that inverse is N_i / (1 − k(1 − N_ii)) (Sherman-Morrison formula),
    and there is one N for all images of a class. All classes are padded to one size k, so that a fit takes a few calls.
    """

    def __init__(self, real: FloatArray, labels: NDArray[np.int64], rows: NDArray[np.int64], targets: FloatArray):
        number = np.bincount(labels)
        small = number[labels] < LARGE_CLASS
        needed = np.union1d(rows, np.flatnonzero(small))
        self.real, self.targets, self.own = real[needed], targets[needed], np.searchsorted(needed, rows)
        self.alone = np.flatnonzero(~small[rows])  # of large classes: that they get lighter is no matter
        self.shared = np.flatnonzero(small[rows])
        classes = np.flatnonzero((number > 0) & (number < LARGE_CLASS))
        size = int(number[classes].max(initial=1))
        self.members = np.zeros((len(classes), size), dtype=np.int64)  # [c,k], of `needed`
        there = np.arange(size) < number[classes, None]  # [c,k], the rest is padding
        for place, c in enumerate(classes):
            self.members[place, : number[c]] = np.flatnonzero(labels[needed] == c)
        # An image that is alone in its class (k = 1) has no others: a is anything, and twice that stands for k·a.
        others = np.maximum(number[classes] - 1, 1)[:, None, None]
        self.change = there[:, :, None] * there[:, None, :] / others  # a [c,k,k], where a real image weighs 1
        self.group = np.searchsorted(classes, labels[rows[self.shared]])  # [s]
        self.times = np.maximum(number[classes], 2)[self.group]
        self.place = (self.members[self.group] == self.own[self.shared, None]).argmax(axis=1)  # padding comes last

    def predictions(self, factor: FloatArray, solved: FloatArray, weight: float) -> FloatArray:
        """[s,C] from L of A = L Lᵀ [d,d] and the fit [d,C]. weight: of a real image."""
        root = _solved_triangle(factor, self.real.T)  # [d,n]
        early = len(self.real) <= 2 * len(self.own)  # whether the fit comes first, or is asked of what is scored alone
        values = self.real @ solved if early else self.real  # [n,C] or [n,d]
        found = np.empty((len(self.own), values.shape[1]))
        goal = self.targets[self.own]
        found[self.alone] = values[self.own[self.alone]]
        leverage = weight * np.einsum("ds,ds->s", root, root)[self.own[self.alone], None]
        if len(self.shared):
            inside = root.T[self.members]  # [c,k,d]
            gram = inside @ inside.transpose(0, 2, 1) * self.change
            inverse = np.linalg.inv(np.eye(gram.shape[1]) + weight * gram)
            found[self.shared] = (inverse @ values[self.members])[self.group, self.place]
            row = inverse[self.group, self.place]  # [s,k]
            off = self.times[:, None] * (1 - row[np.arange(len(row)), self.place, None])
            share = 1 - row.sum(axis=1, keepdims=True) - off
        found = found if early else found @ solved
        found[self.alone] = (found[self.alone] - leverage * goal[self.alone]) / np.maximum(1.0 - leverage, 1e-9)
        if len(self.shared):
            found[self.shared] = (found[self.shared] + share * goal[self.shared]) / (1 - off)
        return found


def _solved_triangle(factor: FloatArray, right: FloatArray) -> FloatArray:
    """L⁻¹B [d,n] from the lower triangle of L: in blocks of rows, where most of the work is matrix products, which are
    twice as fast as LAPACK's substitution."""
    if right.shape[1] < BLOCK:
        solved: FloatArray = scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)
        return solved
    found = np.empty(right.shape)
    for start in range(0, len(factor), BLOCK):
        rows = slice(start, start + BLOCK)
        inverse, _ = scipy.linalg.lapack.dtrtri(factor[rows, rows], lower=1)
        np.matmul(inverse, right[rows] - factor[rows, :start] @ found[:start], out=found[rows])
    return found


def scored_rows(labels: NDArray[np.int64], seed: int, limit: int = MAX_SCORED) -> NDArray[np.int64]:
    """Rows that are left out in turn: all, or of a large set `limit`, every class in proportion."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    order = np.random.default_rng([seed, 2000]).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # by class, shuffled within
    return np.sort(order[np.linspace(0, len(order) - 1, limit).round().astype(np.int64)])
