"""Right and wrong answers of repeated trainings in, intervals of their mean over seeds and images together out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and where it lies with CONFIDENCE."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


def resampled_means(values: np.ndarray, *, seed: int, draws: int = DRAWS) -> np.ndarray:
    """What the mean over repeats and images may have been: [M,R,N] of M classifiers -> [draws,M].

    Images and repeats are drawn anew, each with replacement and independently (the pigeonhole bootstrap; Owen, 2007,
    section 3), and all classifiers see the same draw: differences of two columns are paired, by images and by repeats.
    Deviations between R repeats are stretched by sqrt(R / (R - 1)), or few of them would seem to agree more than they
    do. Of one repeat the images alone are drawn.
    """
    classifiers, repeats, images = values.shape
    rng = np.random.default_rng(seed)
    flat = values.reshape(classifiers * repeats, images).astype(np.float32)
    stretch = math.sqrt(repeats / (repeats - 1)) if repeats > 1 else 0.0
    means = np.empty((draws, classifiers))
    for draw in range(draws):
        drawn = np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float32)
        chosen = np.bincount(rng.integers(repeats, size=repeats), minlength=repeats)
        weights = (1 + stretch * (chosen - 1)) / repeats
        means[draw] = (flat @ drawn).reshape(classifiers, repeats).astype(np.float64) @ weights / images
    return means


def interval(value: float, drawn: np.ndarray, *, confidence: float = CONFIDENCE) -> Interval:
    """A figure between the quantiles of what it may have been. drawn: [draws]."""
    low, high = np.quantile(drawn, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(value=value, low=float(low), high=float(high))
