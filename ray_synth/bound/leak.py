"""Real and synthetic features of each class in, a warning out where the generator seems to have seen the real images.

Leave-one-out is too kind to such a generator: the image that is left out of the fit still speaks through its copies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MAX_SYNTHETIC = 200  # looked at in each class
NEAR = 0.5  # of the distance to the second nearest real image: nearer than chance
EXCESS = 0.25  # share of such images above what real images show among themselves
FLAT = 0.02  # of a real image's distance to the span of the others: inside the span


def leak_warning(
    real: FloatArray, real_labels: np.ndarray, synthetic: FloatArray, synthetic_labels: np.ndarray
) -> str | None:
    """Two signs, each against what real images of a class show when compared with the others of their class:

    copies and mixtures of few images lie much nearer to one real image than to the next; models fitted on the class
    (Gaussians, principal components) lie in the span of its images. A generator that shows neither may still have
    been trained on them: None is no proof.

    Args:
        real: [n,d]; synthetic: [m,d], pixels or an invertible linear map of them.
    """
    pairs = [(real[real_labels == c], synthetic[synthetic_labels == c][:MAX_SYNTHETIC]) for c in np.unique(real_labels)]
    pairs = [(x, s) for x, s in pairs if len(x) >= 3 and len(s)]
    if not pairs:
        return None
    near = np.concatenate([_is_near(s, x) for x, s in pairs]).mean()
    chance = np.concatenate([_is_near(x, x, itself=True) for x, _ in pairs]).mean()
    if near > chance + EXCESS:
        return (
            f"{near:.0%} of the synthetic images lie much nearer to one real image than to any other "
            f"({chance:.0%} among real images): the generator seems to have been fitted on the real images given. "
            "Leave-one-out is then too kind to it; estimate with real images that the generator has not seen"
        )
    inside, spans = [], []
    for x, s in pairs:
        if len(x) < x.shape[1]:  # more images than dimensions span everything
            inside.append(_off_span(s, x))
            spans.append([float(_off_span(x[i : i + 1], np.delete(x, i, axis=0))[0]) for i in range(min(len(x), 20))])
    if inside and np.median(np.concatenate(inside)) < FLAT * np.median(np.concatenate(spans)):
        return (
            "the synthetic images lie in the span of the real images of their class: the generator seems to have been "
            "fitted on the real images given. Leave-one-out is then too kind to it; estimate with real images that the "
            "generator has not seen"
        )
    return None


def _is_near(points: FloatArray, reference: FloatArray, *, itself: bool = False) -> NDArray[np.bool_]:
    """Whether each point's nearest reference is at most half as far as its second nearest. [p]"""
    squared = (points**2).sum(1)[:, None] + (reference**2).sum(1)[None] - 2 * points @ reference.T
    if itself:
        np.fill_diagonal(squared, np.inf)
    two = np.sqrt(np.maximum(np.partition(squared, 1, axis=1)[:, :2], 0.0))
    near: NDArray[np.bool_] = two[:, 0] < NEAR * two[:, 1]
    return near


def _off_span(points: FloatArray, reference: FloatArray) -> FloatArray:
    """Squared distance of each point to the affine span of the reference. [p]"""
    centre = reference.mean(axis=0)
    _, values, directions = np.linalg.svd(reference - centre, full_matrices=False)
    directions = directions[values > 1e-8 * max(float(values[0]), 1e-300)]
    off = (points - centre) - (points - centre) @ directions.T @ directions
    squared: FloatArray = (off**2).sum(axis=1)
    return squared
