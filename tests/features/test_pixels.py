"""Pixels as vectors: distances stay what they are where whole images would not fit."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.data.images import ImageSet
from ray_synth.features.pixels import pixel_vectors


def test_pixel_vectors_keep_distances_up_to_what_varies_in_a_block(digits: ImageSet) -> None:
    images = np.repeat(np.repeat(digits.images()[:100], 4, axis=1), 4, axis=2)  # constant over blocks of 4
    whole = pixel_vectors(100, images.shape[1:])(images)
    assert np.allclose(whole, images.reshape(100, -1) / 255.0)
    fewer = pixel_vectors(100, images.shape[1:], max_bytes=100 * 8 * 8 * 4)
    small = np.concatenate([fewer(images[:30]), fewer(images[30:])])
    assert small.shape == (100, 64)
    a, b = (((f[:50] - f[50:]) ** 2).sum(1) for f in (whole, small))
    assert np.allclose(a, b, rtol=1e-4)


def test_uneven_blocks_are_weighted_by_their_pixels() -> None:
    images = np.full((1, 5, 7, 3), 255, dtype=np.uint8)
    features = pixel_vectors(1, (5, 7, 3), max_bytes=2 * 3 * 3 * 4)(images)  # blocks of 3: 2 x 3, the last ones smaller
    assert features.shape == (1, 18)
    assert (features**2).sum() == pytest.approx(5 * 7 * 3, rel=1e-5)  # a constant image keeps its whole norm
