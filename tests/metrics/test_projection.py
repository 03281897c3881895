"""The plane of both sets: that of a singular value decomposition, and what it cannot turn."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.errors import InputError
from ray_synth.metrics.projection import principal_plane


def test_the_plane_is_that_of_a_decomposition() -> None:
    generator = np.random.default_rng(0)
    real, synthetic = (generator.normal(size=(40, 6)) * [9, 5, 1, 1, 1, 1] for _ in range(2))
    plane = principal_plane(real, synthetic)
    both = np.concatenate([real, synthetic])
    centred = both - both.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    found = np.concatenate([plane.real, plane.synthetic])
    assert np.abs(found) == pytest.approx(np.abs(expected))  # an axis may point either way
    assert plane.shares == pytest.approx((sizes**2 / (sizes**2).sum())[:2])


def test_a_larger_set_does_not_choose_the_plane_alone() -> None:
    generator = np.random.default_rng(0)
    few = generator.normal(size=(50, 3)) * [10, 1, 0.1]
    many = generator.normal(size=(5000, 3)) * [0.1, 1, 8]
    plane = principal_plane(few, many)
    assert plane.real.std(axis=0).max() == pytest.approx(10, rel=0.3)
    assert plane.synthetic.std(axis=0).max() == pytest.approx(8, rel=0.3)


def test_equal_images_have_no_spread_and_nan_is_refused() -> None:
    plane = principal_plane(np.ones((5, 4)), np.ones((6, 4)))
    assert plane.shares == (0.0, 0.0)
    assert not plane.real.any()
    with pytest.raises(InputError, match="finite"):
        principal_plane(np.full((5, 4), np.nan), np.ones((6, 4)))
