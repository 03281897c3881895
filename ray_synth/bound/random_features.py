"""Feature matrices in, random ReLU features of them out, [n,d] -> [n,1+d+300]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NUM_HIDDEN = 300


def random_relu(linear: Sequence[FloatArray], rng: np.random.Generator) -> list[FloatArray]:
    """A constant, the features themselves, and 300 random ReLU features of them. [n_k,d] -> [n_k, 1+d+300]"""
    weights = rng.normal(size=(linear[0].shape[1], NUM_HIDDEN)) / 3.0
    bias = rng.uniform(-0.5, 0.5, NUM_HIDDEN)
    found = []
    for part in linear:
        out = np.empty((len(part), 1 + part.shape[1] + NUM_HIDDEN))
        out[:, 0], out[:, 1:-NUM_HIDDEN] = 1.0, part
        hidden = np.matmul(part, weights, out=out[:, -NUM_HIDDEN:])
        hidden += bias
        np.maximum(hidden, 0.0, out=hidden)
        found.append(out)
    first = found[0][:, -NUM_HIDDEN:]
    scale = np.sqrt(9.0 / max(float(np.einsum("nd,nd->n", first, first).mean()), 1e-12))
    for out in found:
        out[:, -NUM_HIDDEN:] *= scale
    return found
