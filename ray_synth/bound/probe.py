"""Images with labels in, leave-one-out accuracy at every ratio out: a ridge classifier on frozen random features.

The bounds see image statistics alone; the probe sees labels. For each ratio it fits ridge regression to one-hot targets
on the real images and the first synthetic ones of each class, and scores every real image by the leave-one-out fit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PENALTIES = (0.03, 0.1, 0.3)  # times the sample size and the mean square of a feature
NUM_RANDOM_FEATURES = 300
NUM_COMPONENTS = 64
MAX_SIDE = 16


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
        counts: [R,C], synthetic images of each class at each ratio, rising along R. A pilot with fewer weighs the ones
            it has by what is asked over what is there.

    Returns:
        [n,R] in [0, 1]: the share of feature families, redraws and penalties that are right.
    """
    num_classes = counts.shape[1]
    targets = np.eye(num_classes) - 1.0 / num_classes
    redraws = 10 if len(real_labels) < 30 else 3
    total = np.zeros((len(real_labels), len(counts)))
    fits = 0
    for real, synthetic in _feature_families(real_images, synthetic_images, redraws, seed):
        total += _leave_one_out(real, real_labels, synthetic, synthetic_labels, targets, counts)
        fits += len(PENALTIES)
    return total / fits


def _leave_one_out(
    real: FloatArray,
    real_labels: np.ndarray,
    synthetic: FloatArray,
    synthetic_labels: np.ndarray,
    targets: FloatArray,
    counts: NDArray[np.int64],
) -> FloatArray:
    """Number of penalties under which each real image is right, at each ratio: [n,R].

    The Gram matrix of each class is cumulative over its prefix, so no ratio starts from nothing.
    """
    y_real = targets[real_labels]
    gram_real, moment_real = real.T @ real, real.T @ y_real
    scale = float((real**2).sum(axis=1).mean())
    right = np.zeros((len(real), len(counts)))
    members = [np.flatnonzero(synthetic_labels == c) for c in range(len(targets))]
    taken = np.zeros(len(targets), dtype=np.int64)
    class_gram = np.zeros((len(targets), real.shape[1], real.shape[1]))
    class_sum = np.zeros((len(targets), real.shape[1]))
    for i, wanted in enumerate(counts):
        gram, moment = gram_real.copy(), moment_real.copy()
        for c, rows in enumerate(members):
            stop = min(int(wanted[c]), len(rows))
            if stop > taken[c]:
                new = synthetic[rows[taken[c] : stop]]
                class_gram[c] += new.T @ new
                class_sum[c] += new.sum(axis=0)
                taken[c] = stop
            if stop:
                weight = wanted[c] / stop
                gram += weight * class_gram[c]
                moment += weight * np.outer(class_sum[c], targets[c])
        size = len(real) + int(wanted[[len(rows) > 0 for rows in members]].sum())
        values, vectors = scipy.linalg.eigh(gram)
        projected, moments = real @ vectors, vectors.T @ moment
        for penalty in PENALTIES:
            inverse = 1.0 / (np.maximum(values, 0.0) + penalty * size * scale / real.shape[1])
            fitted = (projected * inverse) @ moments
            leverage = np.einsum("nd,d,nd->n", projected, inverse, projected)[:, None]
            held_out = (fitted - leverage * y_real) / np.maximum(1.0 - leverage, 1e-9)
            right[:, i] += held_out.argmax(axis=1) == real_labels
    return right


def _feature_families(
    real: np.ndarray, synthetic: np.ndarray, redraws: int, seed: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Principal components of the pixels, plain and half-whitened, each beside random ReLU features of itself."""
    pixels_real, pixels_synthetic = _pooled(real), _pooled(synthetic)
    mean = pixels_real.mean(axis=0)
    joint = np.concatenate([pixels_real, pixels_synthetic]) - mean
    values, vectors = np.linalg.eigh(joint.T @ joint / len(joint))
    top = np.argsort(values)[::-1][:NUM_COMPONENTS]
    values, vectors = np.maximum(values[top], 0.0), vectors[:, top]
    for family, power in enumerate((0.0, 0.25)):
        basis = vectors * np.maximum(values, 1e-6 * max(values[0], 1e-12)) ** -power
        linear = joint @ basis
        norm = np.sqrt((linear[: len(real)] ** 2).sum(axis=1).mean())
        linear *= 3.0 / max(norm, 1e-12)
        for redraw in range(redraws):
            rng = np.random.default_rng([seed, family, redraw])
            weights = rng.normal(size=(linear.shape[1], NUM_RANDOM_FEATURES)) / 3.0
            hidden = np.maximum(linear @ weights + rng.uniform(-0.5, 0.5, NUM_RANDOM_FEATURES), 0.0)
            hidden /= np.sqrt(NUM_RANDOM_FEATURES / 10)
            features = np.concatenate([np.ones((len(linear), 1)), linear, hidden], axis=1)
            yield features[: len(real)], features[len(real) :]


def _pooled(images: np.ndarray) -> FloatArray:
    """Average-pooled to at most 16 pixels a side and flattened, in [0, 1]. [N,H,W,C] -> [N,d]"""
    if len(images) > 256:
        return np.concatenate([_pooled(images[i : i + 256]) for i in range(0, len(images), 256)])
    n, height, width, channels = images.shape
    factor_h, factor_w = -(-height // MAX_SIDE), -(-width // MAX_SIDE)
    pixels = images.astype(np.float64) / 255.0
    pad_h, pad_w = -height % factor_h, -width % factor_w
    pixels = np.pad(pixels, ((0, 0), (0, pad_h), (0, pad_w), (0, 0)), mode="edge")
    pixels = pixels.reshape(n, (height + pad_h) // factor_h, factor_h, (width + pad_w) // factor_w, factor_w, channels)
    pooled: FloatArray = pixels.mean(axis=(2, 4)).reshape(n, -1)
    return pooled
