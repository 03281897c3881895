"""Images in, their pixels as vectors out, in as much memory as is given."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ray_synth.errors import InputError

FEATURE_BYTES = 2**30  # what pixel features may take; beyond it images are averaged over blocks


def pixel_features(batches: Iterable[np.ndarray], num_images: int, *, max_bytes: int = FEATURE_BYTES) -> np.ndarray:
    """Images as vectors for k-means, read once and kept as float32 [n,d] of at most `max_bytes`.

    batches: uint8 [b,H,W,C] each, `num_images` in all. Where whole images would take more, each is averaged over equal
    blocks of pixels. That is an orthogonal projection: distances shrink by what varies inside a block, no more.

    Raises:
        InputError: an empty set, or batches that do not hold `num_images`.
    """
    features: np.ndarray | None = None
    block = done = 0
    for images in batches:
        _, height, width, channels = images.shape
        if features is None:
            block = _block_size(num_images, height, width, channels, max_bytes)
            shape = (num_images, -(-height // block) * -(-width // block) * channels)
            features = np.empty(shape, dtype=np.float32)
        if done + len(images) > num_images:
            break
        features[done : done + len(images)] = _block_means(images, block).reshape(len(images), -1)
        done += len(images)
    if features is None or done != num_images:
        raise InputError(f"images to cluster must be {num_images} in all and at least one, got {done} or more")
    return features


def _block_size(num_images: int, height: int, width: int, channels: int, max_bytes: int) -> int:
    block = 1
    while num_images * -(-height // block) * -(-width // block) * channels * 4 > max_bytes and block < max(
        height, width
    ):
        block += 1
    return block


def _block_means(images: np.ndarray, block: int) -> np.ndarray:
    """uint8 [b,H,W,C] -> float32 [b,h,w,C] in [0, block]: means times the block's side: distances keep scale."""
    if block == 1:
        return images.astype(np.float32) / 255.0
    _, height, width, _ = images.shape
    edges = (np.arange(0, height, block), np.arange(0, width, block))
    sums = np.add.reduceat(np.add.reduceat(images, edges[0], axis=1, dtype=np.float32), edges[1], axis=2)
    rows = np.diff(np.append(edges[0], height))[:, None, None]
    columns = np.diff(np.append(edges[1], width))[:, None]
    means: np.ndarray = sums / (255.0 * np.sqrt(rows * columns).astype(np.float32))
    return means
