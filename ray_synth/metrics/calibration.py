"""How sure a classifier was of its answers, and whether they were right, in; how far the two are apart out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """error: the expected calibration error. Of each bin: counts [B], mean confidence and accuracy [B], 0 of an empty
    one."""

    error: float
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def calibration(confidence: np.ndarray, right: np.ndarray, *, bins: int = BINS) -> Calibration:
    """The expected calibration error over bins of equal width, ((b - 1)/B, b/B] (Guo et al., 2017, Eq. 3).

    confidence: [N], the largest softmax probability; right: [N].
    """
    places = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums = [np.bincount(places, weights=each.astype(np.float64), minlength=bins) for each in (confidence, right)]
    sure, accurate = (each / np.maximum(counts, 1) for each in sums)
    error = float((counts / max(len(places), 1) * np.abs(accurate - sure)).sum())
    return Calibration(error=error, counts=counts, confidence=sure, accuracy=accurate)
