"""The closed form under every proxy: distances of known Gaussians, no scale of their own, and the swing of σ²."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from ray_synth.bound.proxies import feature_discrepancies, proxy_table
from ray_synth.bound.theorem import closed_form, optimal_strength
from ray_synth.data.splits import Splits
from ray_synth.metrics.spectrum import pixel_stats


def test_a_shift_has_its_own_length_in_every_feature_distance() -> None:
    rng = np.random.default_rng(0)
    real, shift = rng.normal(size=(1000, 4)), np.array([1.0, 0, 0, 0])
    same, moved, far = (feature_discrepancies(real, rng.normal(size=(1000, 4)) + by * shift) for by in (0, 1, 2))
    assert moved["FID"] == pytest.approx(1 / 4, rel=0.2)  # a shift of 1 against a spread of 4
    assert moved["W2"] == pytest.approx(1 / 4, rel=0.2)
    assert far["FID"] == pytest.approx(1, rel=0.15)
    for name in ("FID", "W2", "MMD"):
        assert same[name] < 0.1 * moved[name] < 0.1 * far[name]
    assert feature_discrepancies(10 * real, 10 * real[::-1] + 10) == pytest.approx(
        feature_discrepancies(real, real[::-1] + 1), rel=1e-6
    )


def test_noise_is_seen_by_all_of_them() -> None:
    """Two noisy sets are farther apart than a noisy and a clean one: their own distance is too much to take off."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(100, 64)) @ np.diag(1.0 / np.arange(1, 65))
    other = rng.normal(size=(800, 64)) @ np.diag(1.0 / np.arange(1, 65))
    found = [feature_discrepancies(real, other + by * rng.normal(size=other.shape)) for by in (0, 0.1, 0.3)]
    for name in ("FID", "W2", "MMD"):
        assert found[0][name] < found[1][name] < found[2][name]


def test_a_handful_of_images_has_no_distance_of_features() -> None:
    assert feature_discrepancies(np.zeros((5, 2)), np.zeros((3, 2))) == {}
    assert feature_discrepancies(np.zeros((3, 2)), np.zeros((5, 2))) == {}
    assert feature_discrepancies(np.zeros((5, 2)), np.zeros((4, 2))) == {"FID": 0, "W2": 0, "MMD": 0}


def test_every_reading_has_a_row_and_the_first_are_the_closed_form(splits: Splits) -> None:
    real = splits.train.images()
    blurred = ((real + np.roll(real.astype(float), 1, axis=1)) / 2).astype(np.uint8)
    found = closed_form(*(pixel_stats(images, count=100) for images in (real, blurred)), num_real=100, max_ratio=16.0)
    rows = proxy_table(
        {"RAPSD": found.discrepancy, "FID": 0.5},
        variance=found.noise_variance,
        decays=(found.decay_measured, found.decay_1d),
        num_real=100,
        max_ratio=16.0,
    )
    by = {(row.discrepancy, row.noise, row.decay): row for row in rows}
    assert len(by) == len(rows) == 2 * 3 * 2
    assert by["RAPSD", "[0, 1]", "2d"].ratio == pytest.approx(found.ratio, rel=0.01)
    assert by["RAPSD", "[0, 255]", "2d"].ratio == pytest.approx(found.ratio_raw_variance, rel=0.01)
    assert by["RAPSD", "[0, 1]", "1d"].ratio == pytest.approx(found.ratio_decay_1d, rel=0.01)
    one = by["FID", "variance 1", "1d"]
    assert one.noise_variance == 1
    best = optimal_strength(discrepancy=0.5, noise_variance=1, num_real=100, decay=one.exponent)
    assert one.ratio == pytest.approx(min(best, 16), rel=0.01)
    assert all(by[name, "[0, 255]", "2d"].ratio >= by[name, "[0, 1]", "2d"].ratio for name in ("RAPSD", "FID"))
    json.dumps([asdict(row) for row in rows], allow_nan=False)
