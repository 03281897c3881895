"""Feature matrices in, random ReLU features of them out, [n,d] -> [n,1+d+300]: as many draws as asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NUM_HIDDEN = 300


def random_relu(linear: Sequence[FloatArray], rng: np.random.Generator) -> list[FloatArray]:
    """A constant, the features themselves, and 300 random ReLU features of them. [n_k,d] -> [n_k, 1+d+300]"""
    weights = rng.normal(size=(linear[0].shape[1], NUM_HIDDEN)) / 3.0
    bias = rng.uniform(-0.5, 0.5, NUM_HIDDEN)
    hidden = [np.maximum(part @ weights + bias, 0.0) for part in linear]
    scale = np.sqrt(9.0 / max(float((hidden[0] ** 2).sum(axis=1).mean()), 1e-12))
    return [
        np.concatenate([np.ones((len(part), 1)), part, h * scale], axis=1)
        for part, h in zip(linear, hidden, strict=True)
    ]


def redrawn(families: Mapping[str, list[FloatArray]], *, redraws: int, seed: int) -> Iterator[list[FloatArray]]:
    """Every family's random ReLU features, `redraws` times."""
    for number, linear in enumerate(families.values()):
        for redraw in range(redraws):
            yield random_relu(linear, np.random.default_rng([seed, number, redraw]))
