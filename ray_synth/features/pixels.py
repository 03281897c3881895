"""Images in, their pixels as vectors out, in as much memory as is given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FEATURE_BYTES = 2**30  # what pixel features may take; beyond it images are averaged over blocks


def pixel_vectors(
    num_images: int, shape: tuple[int, int, int], *, max_bytes: int = FEATURE_BYTES
) -> Callable[[np.ndarray], np.ndarray]:
    """What makes vectors for k-means of images: uint8 [b,H,W,C] -> float32 [b,d], `num_images` of them in `max_bytes`.

    Where whole images would take more, each is averaged over equal blocks of pixels. That is an orthogonal projection:
    distances shrink by what varies inside a block, no more.
    """
    block = _block_size(num_images, *shape, max_bytes)
    return lambda images: _block_means(images, block).reshape(len(images), -1)


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
