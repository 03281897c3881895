"""Which of several generators: the best of pilots of known worth, and no winner where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ray_synth as rs
from ray_synth.data.splits import Splits

ASKED: dict[str, Any] = {"max_ratio": 2.0, "methods": ("probe",)}


def test_the_best_of_three_stands_first(splits: Splits) -> None:
    rng = np.random.default_rng(0)
    real, pool = splits.train, splits.generator
    images, labels = pool.images()[:300], pool.labels[:300]
    wrong = np.where(rng.uniform(size=300) < 0.6, rng.integers(0, 10, 300), labels)
    blurred = (images.astype(int) * 0 + images.mean(axis=(1, 2), keepdims=True)).astype(np.uint8)
    pilots = {"wrong labels": (images, wrong), "shapeless": (blurred, labels), "real": (images, labels)}
    ranked = rs.rank_generators(real.images(), real.labels, pilots, **ASKED)
    assert ranked[0].name == "real"
    assert ranked[0].probability > 0.7  # the shapeless ones do no harm where none of them is taken
    assert ranked[2].probability < 0.05
    assert sum(each.probability for each in ranked) == pytest.approx(1, abs=1e-3)
    assert (ranked[1].name, ranked[2].name) == ("shapeless", "wrong labels")
    assert ranked[0].to_dict()["ratio"] == ranked[0].estimate.ratio


def test_equal_generators_share_the_probability(splits: Splits) -> None:
    real, pool = splits.train, splits.generator
    halves = {
        name: (pool.images()[rows], pool.labels[rows]) for name, rows in (("a", slice(0, 250)), ("b", slice(250, 500)))
    }
    ranked = rs.rank_generators(real.images(), real.labels, halves, **ASKED)
    assert 0.1 < ranked[1].probability <= ranked[0].probability < 0.9
    with pytest.raises(rs.InputError, match=r"b: real and synthetic images must have one size"):
        rs.rank_generators(
            real.images(), real.labels, {**halves, "b": (np.zeros((4, 3, 3), np.uint8), np.arange(4) % 2)}
        )
    with pytest.raises(rs.InputError, match="at least one pilot"):
        rs.rank_generators(real.images(), real.labels, {})


def test_one_alone_is_the_estimate(splits: Splits) -> None:
    real, pool = splits.train, splits.generator
    sets = (pool.images()[:100], pool.labels[:100])
    (alone,) = rs.rank_generators(real.images(), real.labels, {"only": sets}, **ASKED, seed=3)
    assert alone.probability == 1
    assert alone.estimate == rs.estimate_ratio(real.images(), real.labels, *sets, **ASKED, seed=3)
