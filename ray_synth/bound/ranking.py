"""Predictions for several generators in, the probability that each is the best one out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ray_synth.bound.estimator import Predicted

FloatArray = NDArray[np.float64]

DRAWS = 4000


def best_probabilities(found: Sequence[Predicted], seed: int) -> FloatArray:
    """How often each is the most accurate at its own best ratio. [G], summing to 1.

    All were scored on the same held-out images, so what these have in common takes no part: images are drawn anew
    (Bayesian bootstrap; Rubin, 1981), the same for all, and each generator's classifier may stray from its probes.
    """
    rng = np.random.default_rng([seed, 502])
    scores = np.stack([each.at_best for each in found], axis=1)  # [s,G]
    importance = found[0].evidence.importance
    weights = rng.exponential(size=(DRAWS, len(scores))) * importance
    weights /= weights.sum(axis=1, keepdims=True)
    level = np.array([each.mean[each.best] for each in found])
    left = np.array([np.median(each.grown, axis=0)[each.best] for each in found])  # of the error, at the full size
    values = level + (weights @ scores - importance @ scores) * left
    values += rng.normal(size=values.shape) * [each.astray[each.best] for each in found]
    best = np.bincount(values.argmax(axis=1), minlength=len(found))
    share: FloatArray = best / best.sum()
    return share
