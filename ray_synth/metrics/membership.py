"""Confidences of a classifier and of shadow models in, how sure one is that it saw an image out: scores, and their ROC.

The likelihood ratio attack (LiRA) of (Carlini et al., 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from scipy.stats import beta, norm, rankdata

from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]
Mode = Literal["online", "offline"]


def logit_confidence(logits: ArrayLike, labels: ArrayLike) -> FloatArray:
    """log p / (1 - p) of the probability p of each image's label: [n,K] and int [n] -> [n].

    The label's logit less the logarithm of the sum of the others' exponentials: nothing is lost where p is nearly 1.

    Raises:
        InputError: other shapes, fewer than two classes, a label that is no column, logits that are not finite.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if z.ndim != 2 or z.shape[1] < 2 or y.shape != z.shape[:1]:
        raise InputError(
            f"logits must be [n,K] with K >= 2 and labels [n], got {list(z.shape)} and {list(y.shape)}; "
            "give a row of logits and a label for each image"
        )
    if not np.issubdtype(y.dtype, np.integer) or (len(y) and not 0 <= y.min() <= y.max() < z.shape[1]):
        raise InputError(f"labels must be whole numbers from 0 to {z.shape[1] - 1}, the columns of the logits")
    _refuse_infinite(logits=z)
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    confidence: FloatArray = z[rows, y] - logsumexp(others, axis=1)
    return confidence


def lira_scores(
    target_confidence: ArrayLike,
    in_confidences: ArrayLike | None,
    out_confidences: ArrayLike,
    *,
    mode: Mode = "online",
    fixed_variance: bool = False,
) -> FloatArray:
    """How much likelier it is that a classifier saw an image than that it did not (Carlini et al., 2022, Algorithm 1).

    All confidences are logits, as of `logit_confidence`. Gaussians are fitted to those of the shadow models, by the
    mean and the standard deviation with ddof=0, image by image.

    Args:
        target_confidence: [n], of the classifier that is attacked.
        in_confidences: [n,k], of k shadow models that saw the image; offline looks at none of them, and takes None.
        out_confidences: [n,m], of m shadow models that did not.
        mode: online: log N(c; in) - log N(c; out). offline: -log Pr[Z > c] for Z ~ N(out), the logarithm of the
            paper's one-sided test, which does not run into 1.
        fixed_variance: one standard deviation a side for all images, that of all its confidences, as the authors' own
            code has it: for few shadow models.

    Returns:
        Scores, [n]; higher: rather a member. Only their order and differences mean something.

    Raises:
        InputError: other shapes, too few shadow models, values that are not finite or do not vary.
    """
    if mode not in ("online", "offline"):
        raise InputError(f"mode must be 'online' or 'offline', got {mode!r}; 'offline' needs out_confidences alone")
    target = np.asarray(target_confidence, dtype=np.float64)
    if target.ndim != 1:
        raise InputError(f"target_confidence must be [n], one of each image, got {list(target.shape)}")
    _refuse_infinite(target_confidence=target)
    mean, std = _gaussian("out_confidences", out_confidences, len(target), fixed_variance=fixed_variance)
    if mode == "offline":
        above: FloatArray = -norm.logsf(target, mean, std)
        return above
    ours, spread = _gaussian("in_confidences", in_confidences, len(target), fixed_variance=fixed_variance)
    ratio: FloatArray = norm.logpdf(target, ours, spread) - norm.logpdf(target, mean, std)
    return ratio


def _gaussian(
    name: str, confidences: ArrayLike | None, images: int, *, fixed_variance: bool
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each image's confidences: [n,k] -> [n], and [n] or []."""
    values = np.asarray([] if confidences is None else confidences, dtype=np.float64)
    if values.ndim != 2 or len(values) != images:
        raise InputError(
            f"{name} must be [{images},k], a row of k shadow models for each image, got "
            f"{None if confidences is None else list(values.shape)}; transpose them if shadow models come first"
        )
    least = 1 if fixed_variance else 2
    if values.shape[1] < least or values.size < 2:
        cure = "train more of them" if fixed_variance else "train more of them, or give fixed_variance=True"
        raise InputError(f"{name} must be of >= {least} shadow models, got {values.shape[1]}; {cure}")
    _refuse_infinite(**{name: values})
    std = np.asarray(values.std() if fixed_variance else values.std(axis=1))
    if not (std > 0).all():
        row = 0 if fixed_variance else int(np.flatnonzero(std <= 0)[0])
        raise InputError(
            f"{name} of image {row} are all {values[row, 0]:g}: no Gaussian fits them; "
            + ("give shadow models that differ" if fixed_variance else "give fixed_variance=True")
        )
    return values.mean(axis=1), std


def _refuse_infinite(**named: FloatArray) -> None:
    for name, values in named.items():
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            raise InputError(f"{name} must be finite, got {bad} of {values.size} that are not; leave those images out")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share with its 95 % interval (Clopper & Pearson, 1934), which takes the trials to be independent."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, trials: int) -> Rate:
        tail = 0.025
        low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
        high = float(beta.isf(tail, hits + 1, trials - hits)) if hits < trials else 1.0
        return cls(value=hits / trials, low=low, high=high)


@dataclass(frozen=True, kw_only=True, eq=False)
class Roc:
    """What a threshold on scores finds. false, true: int [t], non-members and members at or above each threshold, from
    none of either to all; scores that are equal are taken together."""

    false: NDArray[np.int64]
    true: NDArray[np.int64]
    auc: float  # of a member and a non-member, how often the member scores higher; ties count half

    @classmethod
    def of(cls, scores: ArrayLike, members: ArrayLike) -> Roc:
        """scores: [n], higher for rather a member; members: bool [n].

        Raises:
            InputError: other shapes, scores that are not finite, members or non-members alone.
        """
        s, m = np.asarray(scores, dtype=np.float64), np.asarray(members)
        if s.ndim != 1 or s.shape != m.shape or m.dtype != np.bool_:
            raise InputError(
                f"scores and members must be [n], members true or false, got {list(s.shape)} and "
                f"{m.dtype} {list(m.shape)}"
            )
        _refuse_infinite(scores=s)
        inside, outside = int(m.sum()), int((~m).sum())
        if not inside or not outside:
            raise InputError(f"a ROC needs members and non-members, got {inside} and {outside}")
        order = np.argsort(-s, kind="stable")
        last = np.append(np.flatnonzero(np.diff(s[order])), len(s) - 1)  # of each group of equal scores
        false, true = (np.append(0, np.cumsum(kind[order])[last]) for kind in (~m, m))
        above = rankdata(s)[m].sum() - inside * (inside + 1) / 2  # Mann & Whitney's U
        return cls(false=false, true=true, auc=float(above / (inside * outside)))

    @property
    def members(self) -> int:
        return int(self.true[-1])

    @property
    def non_members(self) -> int:
        return int(self.false[-1])

    @property
    def smallest_fpr(self) -> float:
        """Above 0: what the number of non-members can tell apart from none."""
        return 1 / self.non_members

    def tpr_at(self, fpr: float) -> Rate | None:
        """The largest true positive rate at a false positive rate of at most `fpr`; None where that is below the
        smallest one that this many non-members resolve."""
        # A little more, so that 1 % of 200 is 2 whatever the last digits of .01 are.
        allowed = int(np.floor(fpr * self.non_members + 1e-9))
        if allowed < 1:
            return None
        return Rate.of(int(self.true[self.false <= allowed].max()), self.members)
