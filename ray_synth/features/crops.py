"""Images and boxes in them in, small grey vectors of mean 0 and length 1 out: cosines are correlations of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_synth.data.decoding import LUMA

Floats = NDArray[np.float32]

BLOCK = 1024  # images that are held as floats at once
WHOLE = np.array([0, 0, 1], dtype=np.float32)  # a box: top, left and length of a side, as shares of the image's own


def grey(images: np.ndarray) -> NDArray[np.uint8]:
    """uint8 [n,H,W,C] -> uint8 [n,H,W]."""
    return images[..., 0] if images.shape[-1] == 1 else np.rint(images[..., :3] @ np.array(LUMA)).astype(np.uint8)


def seen(images: NDArray[np.uint8], boxes: Floats, side: int) -> Floats:
    """What lies in a box of each image, as `side`² numbers of mean 0 and length 1; 0 where it is one colour.

    images: grey [n,H,W]; boxes: [3], or one for each image [n,3] -> [n,side²]
    """
    found = np.empty((len(images), side * side), dtype=np.float32)
    height, width = images.shape[1:]
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK].astype(np.float32)
        top, left, length = (boxes if boxes.ndim == 1 else boxes[start : start + BLOCK]).T
        down = _weights(top * height, length * height, side, height)
        across = _weights(left * width, length * width, side, width)
        found[start : start + BLOCK] = (down @ block @ across.swapaxes(-1, -2)).reshape(len(block), -1)
    return directions(found - found.mean(axis=1, keepdims=True), least=1e-2 * side)


def directions(vectors: np.ndarray, *, least: float = 1e-12) -> Floats:
    """[n,d] -> [n,d] of length 1; those that are shorter than `least` are 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = np.where(length > least, vectors / np.maximum(length, least), 0).astype(np.float32)
    return found


def _weights(start: np.ndarray, length: np.ndarray, side: int, pixels: int) -> Floats:
    """What each of `pixels` gives to each of `side` equal parts of a stretch: means over areas, or, where a part is
    smaller than a pixel, between the two nearest. [...], [...] -> [...,side,pixels]"""
    start, step = np.asarray(start)[..., None, None], np.asarray(length / side)[..., None, None]
    low = start + np.arange(side)[:, None] * step
    at = np.arange(pixels)
    area = np.clip(np.minimum(low + step, at + 1) - np.maximum(low, at), 0, None) / step
    middle = np.clip(low + step / 2 - 0.5, 0, pixels - 1)
    found: Floats = np.where(step >= 1, area, np.clip(1 - np.abs(middle - at), 0, None)).astype(np.float32)
    return found
