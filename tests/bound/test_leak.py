"""Generators fitted on the given real digits are recognised; the same generators fitted on other digits are not."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.bound.leak import leak_warning
from ray_synth.data.splits import Splits
from ray_synth.estimate import estimate_ratio
from ray_synth.features.families import linear_families
from tests.benchmarks.ratiobench.generators import GENERATORS

SPREAD = ("real", "smote", "collapsed-3", "labels-50")  # copies and mixtures of few images


def warned(splits: Splits, generator: str, *, saw_them: bool) -> str | None:
    real = splits.train
    pool = real if saw_them else splits.generator
    images, labels = GENERATORS[generator](pool.images(), pool.labels, 40, np.random.default_rng(0))
    features = linear_families([real.images(), images], encoder=None, seed=0)["raw"]
    return leak_warning(features[0], real.labels, features[1], labels)


@pytest.mark.parametrize("generator", sorted(GENERATORS))
def test_no_alarm_for_a_generator_that_saw_other_images(splits: Splits, generator: str) -> None:
    assert warned(splits, generator, saw_them=False) is None


@pytest.mark.parametrize("generator", SPREAD)
def test_copies_and_mixtures_of_the_real_images_are_recognised(splits: Splits, generator: str) -> None:
    assert "fitted on the real images" in (warned(splits, generator, saw_them=True) or "")


def test_gaussians_fitted_on_the_real_images_are_recognised_by_their_span() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(60, 60)) / np.arange(1, 61)[:, None]
    real, fresh = rng.normal(size=(20, 60)) @ mixing, rng.normal(size=(200, 60)) @ mixing
    centred = real - real.mean(axis=0)
    fitted = real.mean(axis=0) + rng.normal(size=(200, 20)) @ centred / np.sqrt(19)
    y, z = np.zeros(20, dtype=np.int64), np.zeros(200, dtype=np.int64)
    assert leak_warning(real, y, fresh, z) is None
    assert "span" in (leak_warning(real, y, fitted, z) or "")


def test_the_estimate_carries_the_warning(splits: Splits) -> None:
    real = splits.train
    copies = np.repeat(real.images(), 4, axis=0)
    estimate = estimate_ratio(real.images(), real.labels, copies, np.repeat(real.labels, 4), methods=("probe",))
    assert any("fitted on the real images" in warning for warning in estimate.warnings)
