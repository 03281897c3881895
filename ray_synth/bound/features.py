"""Images in, feature matrices of three families out: built in, frozen, never downloaded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NUM_COMPONENTS = 64
NUM_PATCHES = 40
NUM_HIDDEN = 300
MAX_SIDE = 16
BLOCK = 256


def feature_families(
    real: np.ndarray, synthetic: np.ndarray, *, redraws: int, seed: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """For each family and redraw, features of both sides: [n,d], [m,d].

    The families: principal components of the pixels; the same half-whitened; random whitened patches, rectified and
    pooled, then half-whitened components of those. Each is scaled to a mean squared norm of 9 over the real images,
    and stands beside random ReLU features of itself and a constant. Images [.,H,W,C] are first average-pooled to at
    most 16 pixels a side. Bases are fitted on both sides together, without labels.
    """
    a, b = pooled(real), pooled(synthetic)
    n = len(a)
    pixels = np.concatenate([a.reshape(n, -1), b.reshape(len(b), -1)])
    families = [_components(pixels, n, 0.0), _components(pixels, n, 0.25)]
    if min(a.shape[1:3]) >= 3:
        responses = _patch_responses(a, b, np.random.default_rng([seed, 9]))
        families.append(_components(responses, n, 0.25))
    for family, linear in enumerate(families):
        for redraw in range(redraws):
            rng = np.random.default_rng([seed, family, redraw])
            weights = rng.normal(size=(linear.shape[1], NUM_HIDDEN)) / 3.0
            hidden = np.maximum(linear @ weights + rng.uniform(-0.5, 0.5, NUM_HIDDEN), 0.0)
            hidden *= np.sqrt(9.0 / max(float((hidden[:n] ** 2).sum(axis=1).mean()), 1e-12))
            features = np.concatenate([np.ones((len(linear), 1)), linear, hidden], axis=1)
            yield features[:n], features[n:]


def pooled(images: np.ndarray) -> FloatArray:
    """Average-pooled to at most 16 pixels a side, in [0, 1], in blocks of images. [N,H,W,C] -> [N,h,w,C]"""
    height, width, channels = images.shape[1:]
    factor_h, factor_w = -(-height // MAX_SIDE), -(-width // MAX_SIDE)
    pad = ((0, 0), (0, -height % factor_h), (0, -width % factor_w), (0, 0))
    parts = []
    for start in range(0, len(images), BLOCK):
        block = np.pad(images[start : start + BLOCK].astype(np.float64) / 255.0, pad, mode="edge")
        shape = (len(block), block.shape[1] // factor_h, factor_h, block.shape[2] // factor_w, factor_w, channels)
        parts.append(block.reshape(shape).mean(axis=(2, 4)))
    return np.concatenate(parts)


def _components(rows: FloatArray, n: int, power: float) -> FloatArray:
    """Leading principal components of all rows, divided by their variance to `power`, scaled over the first n rows."""
    centred = rows - rows[:n].mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    top = np.argsort(values)[::-1][:NUM_COMPONENTS]
    values, vectors = np.maximum(values[top], 0.0), vectors[:, top]
    floor = max(1e-6 * values[0], 1e-12)
    linear: FloatArray = centred @ (vectors * np.maximum(values, floor) ** -power)
    norm = float((linear[:n] ** 2).sum(axis=1).mean())
    linear *= 3.0 / np.sqrt(max(norm, 1e-12))
    return linear


def _patch_responses(real: FloatArray, synthetic: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Responses to random whitened patches of the real images: relu(±z − 1/4), averaged over a 3x3 grid. [n+m, .]

    (Coates & Ng, 2011: whitened patches of the data itself are filters good enough for small images.)
    """
    size = 5 if min(real.shape[1:3]) >= 12 else 3
    sample = _patches(real[: min(len(real), 500)], size)
    flat = sample.reshape(-1, sample.shape[-1])
    flat = flat[rng.permutation(len(flat))[:5000]]
    mean = flat.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(flat - mean, rowvar=False) + 1e-2 * np.eye(flat.shape[1]) * 0.1)
    whiten = (vectors / np.sqrt(np.maximum(values, 1e-6))) @ vectors.T
    filters = (flat[rng.permutation(len(flat))[:NUM_PATCHES]] - mean) @ whiten
    filters /= np.maximum(np.linalg.norm(filters, axis=1, keepdims=True), 1e-9)
    project = whiten @ filters.T
    out = []
    for images in (real, synthetic):
        for start in range(0, len(images), BLOCK):
            z = (_patches(images[start : start + BLOCK], size) - mean) @ project  # (b, h, w, K)
            rectified = np.concatenate([np.maximum(z - 0.25, 0.0), np.maximum(-z - 0.25, 0.0)], axis=-1)
            out.append(_grid_means(rectified, 3))
    return np.concatenate(out)


def _patches(images: FloatArray, size: int) -> FloatArray:
    """All size x size patches, flattened. [N,H,W,C] -> [N,H',W',size*size*C]"""
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    return windows.reshape(*windows.shape[:3], -1)


def _grid_means(maps: FloatArray, cells: int) -> FloatArray:
    """Means over a cells x cells grid. [N,H,W,K] -> [N, cells*cells*K]"""
    rows = np.array_split(np.arange(maps.shape[1]), cells)
    columns = np.array_split(np.arange(maps.shape[2]), cells)
    means = [
        maps[:, r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean(axis=(1, 2)) for r in rows for c in columns if len(r) * len(c)
    ]
    return np.concatenate(means, axis=1)
