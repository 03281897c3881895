"""Features of one class in, the rows of a few real images out that stand for it: what a distilled set must beat.

Each takes (features [n,d], num, seed) and gives distinct rows, int64 [num]; those for a lower `num` are the first of
those for a higher one.
"""

from __future__ import annotations

import numpy as np

from ray_synth.distill.barycenter import FloatArray
from ray_synth.errors import InputError


def random(features: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Rows drawn without replacement."""
    return np.random.default_rng(seed).permutation(len(_checked(features, num)))[:num]


def herding(features: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Greedily the row after which the mean of the chosen is nearest to the mean of all (Welling, 2009).

    The kernel mean in a linear kernel. Nothing is drawn: the seed changes nothing.
    """
    x = _checked(features, num)
    x -= x.mean(axis=0)
    lengths = np.einsum("ij,ij->i", x, x)
    total, free = np.zeros(x.shape[1]), np.ones(len(x), dtype=bool)
    rows = np.empty(num, dtype=np.int64)
    for k in range(num):
        # |total + x|² without the part that all share; the mean of all is 0.
        distance = np.where(free, lengths + 2 * (x @ total), np.inf)
        rows[k] = distance.argmin()
        free[rows[k]] = False
        total += x[rows[k]]
    return rows


def k_center(features: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Greedily the row farthest from those chosen, which is within twice the least radius (Sener & Savarese, 2018).

    The first is the one nearest to the mean. Nothing is drawn: the seed changes nothing.
    """
    x = _checked(features, num)
    x -= x.mean(axis=0)
    rows = np.empty(num, dtype=np.int64)
    nearest, free = np.full(len(x), np.inf), np.ones(len(x), dtype=bool)
    chosen = int(np.einsum("ij,ij->i", x, x).argmin())
    for k in range(num):
        rows[k], free[chosen] = chosen, False
        nearest = np.minimum(nearest, np.square(x - x[chosen]).sum(axis=1))
        chosen = int(np.where(free, nearest, -1.0).argmax())
    return rows


def _checked(features: np.ndarray, num: int) -> FloatArray:
    """The features as float64, a copy."""
    x = np.array(features, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise InputError(f"features must be [n,d] with n, d >= 1, got shape {list(x.shape)}")
    if not np.isfinite(x).all():
        raise InputError("features must be finite, got NaN or infinity; remove those samples first")
    if not 1 <= num <= len(x):
        raise InputError(
            f"a coreset of {num} images cannot be chosen from {len(x)}; ask for 1 to {len(x)} images a class"
        )
    return x
