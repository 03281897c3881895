"""Image sets in, a few families of leading components out: of pixels and random patches, or of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ray_synth.features.encoders import Encoder

FloatArray = NDArray[np.float64]

NUM_COMPONENTS = 64
NUM_PATCHES = 40
MAX_SIDE = 16
BLOCK = 256  # images that are looked at together
THREADS = 2  # more would hold more copies of the images
PATCHES_BLOCK = 16  # whose patches are: few enough for the processor's cache
BLOCK_VALUES = 2**22  # numbers that are held as floats at once


def linear_families(sets: Sequence[np.ndarray], *, encoder: Encoder | None, seed: int) -> dict[str, list[FloatArray]]:
    """Leading components of every set's images, by family name: matrices [n_k, d], one a set.

    Built in: `raw` (pixels in [-1, 1], not centred); `whitened` (pixels, half-whitened); `patches` (random whitened
    patches, rectified and pooled, then half-whitened; Coates & Ng, 2011). With an encoder: its `features`, plain, and
    half-whitened. Bases are fitted on all sets together, without labels.

    Raises:
        InputError: an encoder whose features are not finite or not [N,d].
    """
    return families_of([looked_at(images, encoder) for images in sets], seed=seed)


def looked_at(images: np.ndarray, encoder: Encoder | None) -> FloatArray:
    """What families are made of: an encoder's features [n,d], or thumbnails [n,h,w,C]. It is smaller than the images,
    and taken image by image, so a set may come in blocks. images: uint8 [n,H,W,C]."""
    return pooled(images) if encoder is None else encoder(images).astype(np.float64)


def families_of(sets: Sequence[FloatArray], *, seed: int) -> dict[str, list[FloatArray]]:
    """`linear_families` of sets that were looked at."""
    sizes = [len(taken) for taken in sets]
    rows = np.concatenate([taken.reshape(len(taken), -1) for taken in sets])
    tasks: dict[str, Callable[[], FloatArray]] = {"whitened": lambda: _components(rows, sizes[0], 0.25)}
    if sets[0].ndim == 2:
        tasks = {"features": lambda: _components(rows, sizes[0], 0.0), **tasks}
    else:
        tasks = {"raw": lambda: _raw(rows), **tasks}
        if min(sets[0].shape[1:3]) >= 3:
            rng = np.random.default_rng([seed, 9])
            tasks["patches"] = lambda: _components(_patch_responses(sets, rng), sizes[0], 0.25)
    cuts = np.cumsum(sizes)[:-1]
    with ThreadPoolExecutor(THREADS) as pool:  # each family is one thread's work: more cores, the same sums
        found = [pool.submit(task) for task in reversed(tasks.values())][::-1]  # the last takes longest
        return {name: np.split(each.result(), cuts) for name, each in zip(tasks, found, strict=True)}


def whole_features(sets: Sequence[FloatArray]) -> list[NDArray[np.float32]] | None:
    """All features [n_k,d] of an encoder, centred and of mean square 1 over the first set; None where the families'
    leading components are all there is."""
    if sets[0].shape[1] <= NUM_COMPONENTS:
        return None
    mean = sets[0].mean(axis=0)
    scale = max(float(np.sqrt(((sets[0] - mean) ** 2).mean())), 1e-12)
    return [((features - mean) / scale).astype(np.float32) for features in sets]


def pooled(images: np.ndarray) -> FloatArray:
    """Average-pooled to at most 16 pixels a side, in [0, 1], in blocks of images. [N,H,W,C] -> [N,h,w,C]"""
    height, width, channels = images.shape[1:]
    factor_h, factor_w = -(-height // MAX_SIDE), -(-width // MAX_SIDE)
    pad = ((0, 0), (0, -height % factor_h), (0, -width % factor_w), (0, 0))
    parts, size = [], max(1, min(BLOCK, BLOCK_VALUES // images[0].size))
    for start in range(0, len(images), size):
        block = np.pad(images[start : start + size].astype(np.float64) / 255.0, pad, mode="edge")
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


def _raw(rows: FloatArray) -> FloatArray:
    """Pixels in [-1, 1] on their leading directions, not centred: no set is far out because it differs. Norm 6."""
    pixels = 2 * rows - 1
    values, vectors = np.linalg.eigh(pixels.T @ pixels / len(pixels))
    linear: FloatArray = pixels @ vectors[:, np.argsort(values)[::-1][:NUM_COMPONENTS]]
    linear *= 6.0 / np.sqrt(max(float((linear**2).sum(axis=1).mean()), 1e-12))
    return linear


def _patch_responses(sets: Sequence[FloatArray], rng: np.random.Generator) -> FloatArray:
    """Responses to random whitened patches of the first set: relu(±z − 1/4), averaged over a 3x3 grid. [sum n_k, .]"""
    first = sets[0]
    size = 5 if min(first.shape[1:3]) >= 12 else 3
    sample = _patches(first[: min(len(first), 500)], size)
    flat = sample.reshape(-1, sample.shape[-1])
    flat = flat[rng.permutation(len(flat))[:5000]]
    mean = flat.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(flat - mean, rowvar=False) + 1e-3 * np.eye(flat.shape[1]))
    whiten = (vectors / np.sqrt(np.maximum(values, 1e-6))) @ vectors.T
    filters = (flat[rng.permutation(len(flat))[:NUM_PATCHES]] - mean) @ whiten
    filters /= np.maximum(np.linalg.norm(filters, axis=1, keepdims=True), 1e-9)
    project = whiten @ filters.T
    out = []
    for images in sets:
        for start in range(0, len(images), PATCHES_BLOCK):
            z = (_patches(images[start : start + PATCHES_BLOCK], size) - mean) @ project  # (b, h, w, K)
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
