"""Images with labels in, leave-one-out accuracy at every ratio out: a ridge classifier on frozen random features.

The bounds see image statistics alone; the probe sees labels. For each ratio it fits ridge regression to one-hot targets
on the real images and the first synthetic ones of each class, and scores every real image by the leave-one-out fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ray_synth.bound.features import feature_families

FloatArray = NDArray[np.float64]

PENALTIES = (0.03, 0.1, 0.3)  # times the sample size and the mean square of a feature
QUARTERS = 4


def probe_scores(
    real_images: np.ndarray,
    real_labels: np.ndarray,
    synthetic_images: np.ndarray,
    synthetic_labels: np.ndarray,
    counts: NDArray[np.int64],
    *,
    seed: int,
) -> FloatArray:
    """How often each real image is classified right when it is left out of training.

    Args:
        real_images, synthetic_images: uint8 [n,H,W,C], [m,H,W,C]; labels: int in [0, C).
        counts: [R,C], synthetic images of each class at each ratio, rising along R. Where a class of the pilot has
            fewer, those it has weigh more, and the score is corrected for how little they vary (see `_extrapolated`).

    Returns:
        [n,R] in [0, 1]: the share of feature families, redraws and penalties that are right.
    """
    num_classes = counts.shape[1]
    targets = np.eye(num_classes) - 1.0 / num_classes
    redraws = 10 if len(real_labels) < 30 else 3
    members = [np.flatnonzero(synthetic_labels == c) for c in range(num_classes)]
    available = np.array([len(rows) for rows in members])
    share = _share_there(counts, available)
    beyond = share < 1
    total, quartered = np.zeros((2, len(real_labels), len(counts)))
    fits = 0
    for real, synthetic in feature_families(real_images, synthetic_images, redraws=redraws, seed=seed):
        total += leave_one_out(real, real_labels, synthetic, members, targets, counts)
        if beyond.any():
            for part in range(QUARTERS):
                rows = [m[part::QUARTERS] for m in members]
                quartered[:, beyond] += (
                    leave_one_out(real, real_labels, synthetic, rows, targets, counts[beyond]) / QUARTERS
                )
        fits += len(PENALTIES)
    return _extrapolated(total / fits, quartered / fits, share)


def leave_one_out(
    real: FloatArray,
    real_labels: np.ndarray,
    synthetic: FloatArray,
    members: Sequence[np.ndarray],
    targets: FloatArray,
    counts: NDArray[np.int64],
) -> FloatArray:
    """Number of penalties under which each real image is right, at each ratio: [n,R].

    Exact for ridge regression: the fit without row i is (f_i − h_i y_i)/(1 − h_i), with h the leverage. The Gram matrix
    of each class is cumulative over its prefix, so no ratio starts from nothing.

    Args:
        real: [n,d]; synthetic: [m,d]; members: per class, its rows of `synthetic` in order; targets: [C,C].
    """
    y_real = targets[real_labels]
    gram, moment = real.T @ real, real.T @ y_real
    size = float(len(real))
    scale = float((real**2).mean())
    right = np.zeros((len(real), len(counts)))
    taken = np.zeros(len(targets), dtype=np.int64)
    class_gram = np.zeros((len(targets), real.shape[1], real.shape[1]))
    class_sum = np.zeros((len(targets), real.shape[1]))
    for i, wanted in enumerate(counts):
        mixed, aim, weighed = gram.copy(), moment.copy(), size
        for c, rows in enumerate(members):
            stop = min(int(wanted[c]), len(rows))
            if stop > taken[c]:
                new = synthetic[rows[taken[c] : stop]]
                class_gram[c] += new.T @ new
                class_sum[c] += new.sum(axis=0)
                taken[c] = stop
            if stop:
                weight = wanted[c] / stop
                mixed += weight * class_gram[c]
                aim += weight * np.outer(class_sum[c], targets[c])
                weighed += wanted[c]
        for penalty in PENALTIES:
            ridge = penalty * weighed * scale
            factor = scipy.linalg.cho_factor(mixed + ridge * np.eye(len(mixed)), overwrite_a=True, check_finite=False)
            smoothed = scipy.linalg.cho_solve(factor, real.T, check_finite=False)  # (d, n)
            leverage = np.einsum("nd,dn->n", real, smoothed)[:, None]
            fitted = smoothed.T @ aim
            held_out = (fitted - leverage * y_real) / np.maximum(1.0 - leverage, 1e-9)
            right[:, i] += held_out.argmax(axis=1) == real_labels
    return right


def _share_there(counts: NDArray[np.int64], available: NDArray[np.int64]) -> FloatArray:
    """For each ratio, the share of the asked synthetic images that the pilot has: [R] in (0, 1]."""
    asked = np.where(available > 0, counts, 0).sum(axis=1)
    there = np.minimum(counts, available).sum(axis=1)
    share: FloatArray = np.where(asked > 0, there / np.maximum(asked, 1), 1.0)
    return share


def _extrapolated(whole: FloatArray, quartered: FloatArray, share: FloatArray) -> FloatArray:
    """The score at ratios beyond the pilot: A + (1 − √share)·(A − B), B the mean over disjoint quarters of the pilot.

    What a quarter loses against the whole tells what the whole loses against a pilot that is large enough: errors of
    averages over m images fall as 1/√m.
    """
    corrected: FloatArray = whole + np.where(share < 1, 1 - np.sqrt(share), 0.0) * (whole - quartered)
    return corrected.clip(0.0, 1.0)
