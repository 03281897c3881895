"""Intervals hold what they say on data of known spread; the calibration error against its definition, bin by bin."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_synth.metrics.calibration import BINS, calibration
from ray_synth.metrics.intervals import interval, resampled_means


def answers(rng: np.random.Generator, repeats: int, images: int, seed_effect: float) -> np.ndarray:
    """Two classifiers' right answers: images are hard or easy for both, a repeat is better or worse as a whole."""
    hard = rng.normal(0, 1.5, images)
    better = rng.normal(0, seed_effect, (2, repeats))
    luck = rng.normal(0, 0.7, (2, repeats, images))
    return np.array([1.6, 2.0])[:, None, None] + hard + better[:, :, None] + luck > 0


def share(threshold: float, seed_effect: float) -> float:
    return 0.5 * (1 + math.erf(threshold / math.sqrt(2 * (1.5**2 + seed_effect**2 + 0.7**2))))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Over images and three repeats: 93 % of 1,000 such sets were measured, of 95 %."""
    rng, held, held_gain, times, spread = np.random.default_rng(0), 0, 0, 120, 0.15
    truth = share(1.6, spread), share(2.0, spread)
    for seed in range(times):
        right = answers(rng, 3, 300, spread)
        drawn = resampled_means(right, seed=seed, draws=200)
        first = interval(float(right[0].mean()), drawn[:, 0])
        gain = interval(float(right[1].mean() - right[0].mean()), drawn[:, 1] - drawn[:, 0])
        held += first.low <= truth[0] <= first.high
        held_gain += gain.low <= truth[1] - truth[0] <= gain.high
    assert held / times > 0.87
    assert held_gain / times > 0.87
    assert held / times < 1  # and are no wider than they must be


def test_a_difference_is_paired_and_one_repeat_has_the_spread_of_images() -> None:
    rng = np.random.default_rng(1)
    one = rng.random((1, 1, 2000)) < 0.8
    same = resampled_means(np.concatenate([one, one]), seed=0)
    assert (same[:, 0] == same[:, 1]).all()
    assert same[:, 0].std() == pytest.approx(math.sqrt(0.8 * 0.2 / 2000), rel=0.1)
    assert same[:, 0].mean() == pytest.approx(one.mean(), abs=0.002)
    assert (resampled_means(one, seed=0) == resampled_means(one, seed=0)).all()


def test_repeats_that_differ_widen_as_their_standard_error() -> None:
    """Every image alike in a repeat: the spread is that of three repeats, not of two thirds of it."""
    right = np.zeros((1, 3, 500))
    right[0, 0] = 1
    spread = resampled_means(right, seed=0, draws=4000)[:, 0].std()
    assert spread == pytest.approx(np.std([1, 0, 0], ddof=1) / math.sqrt(3), rel=0.05)


def test_the_calibration_error_is_its_definition() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.1, 1, 4000).astype(np.float32)
    right = rng.random(4000) < confidence**2
    expected = 0.0
    for b in range(BINS):
        inside = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = calibration(confidence, right)
    assert found.error == pytest.approx(expected, rel=1e-5)
    assert found.counts.sum() == 4000
    assert calibration(confidence, rng.random(4000) < confidence).error < 0.02  # as sure as it is right


def test_whole_confidence_lies_in_the_last_bin() -> None:
    found = calibration(np.array([1.0, 1.0, 1 / BINS]), np.array([True, False, True]))
    assert found.counts[-1] == 2
    assert found.counts[0] == 1
    assert found.error == pytest.approx(2 / 3 * 0.5 + 1 / 3 * (1 - 1 / BINS))
