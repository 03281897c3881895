"""Coresets against a plain reading of their definitions, and the scores of DD-Ranking."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ray_synth.distill import coresets
from ray_synth.distill.scores import hard_label_recovery, improvement_over_random
from ray_synth.errors import InputError

METHODS = [coresets.random, coresets.herding, coresets.k_center]
every = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def points(n: int = 30, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + 3


@every
def test_rows_are_distinct_and_the_same_for_a_seed(method) -> None:  # type: ignore[no-untyped-def]
    x = points()
    x[10:20] = x[3]  # duplicates are other images all the same
    given = x.copy()
    for num in (1, 7, 30):
        rows = method(x, num, 5)
        assert sorted(set(rows.tolist())) == sorted(rows.tolist())
        assert len(rows) == num
        assert (rows == method(x, num, 5)).all()
    assert (x == given).all()


@every
def test_fewer_rows_are_the_first_of_more(method) -> None:  # type: ignore[no-untyped-def]
    x = points()
    assert (method(x, 12, 1)[:5] == method(x, 5, 1)).all()


def test_random_rows_are_drawn_alike() -> None:
    drawn = np.concatenate([coresets.random(points(10), 3, seed) for seed in range(2000)])
    counts = np.bincount(drawn, minlength=10)
    assert ((counts - 600) ** 2 / 600).sum() < 27.9  # chi² of 9 degrees of freedom, p = .001


@pytest.mark.parametrize("seed", range(4))
def test_herding_is_the_row_that_brings_the_mean_nearest(seed: int) -> None:
    x = points(seed=seed)
    chosen: list[int] = []
    for _ in range(8):
        left = [i for i in range(len(x)) if i not in chosen]
        chosen.append(min(left, key=lambda i: float(np.linalg.norm(x[[*chosen, i]].mean(0) - x.mean(0)))))
    assert coresets.herding(x, 8, 0).tolist() == chosen


def test_herding_comes_nearer_to_the_mean_than_random_rows() -> None:
    x = points(300, 5)
    apart = [
        np.linalg.norm(x[rows].mean(0) - x.mean(0)) for rows in (coresets.herding(x, 20, 0), coresets.random(x, 20, 0))
    ]
    assert apart[0] < 0.2 * apart[1]


@pytest.mark.parametrize("seed", range(4))
def test_k_center_is_farthest_first_and_within_twice_the_least_radius(seed: int) -> None:
    x = points(12, 2, seed)
    apart = np.linalg.norm(x[:, None] - x[None], axis=-1)
    chosen = [int(np.linalg.norm(x - x.mean(0), axis=1).argmin())]
    while len(chosen) < 3:
        chosen.append(int(apart[chosen].min(0).argmax()))
    assert coresets.k_center(x, 3, 0).tolist() == chosen
    best = min(apart[list(three)].min(0).max() for three in combinations(range(12), 3))
    assert apart[chosen].min(0).max() <= 2 * best


@every
@pytest.mark.parametrize(("num", "expected"), [(31, "31 images cannot be chosen from 30"), (0, "of 0")])
def test_more_images_than_there_are_are_refused(method, num: int, expected: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=expected):
        method(points(), num, 0)


@every
def test_features_that_are_not_finite_are_refused(method) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="finite"):
        method(np.full((4, 2), np.nan), 2, 0)


def test_scores_are_differences_of_accuracies() -> None:
    assert hard_label_recovery(0.9, 0.3) == pytest.approx(0.6)
    assert improvement_over_random(0.5, 0.4) == pytest.approx(0.1)
    with pytest.raises(InputError, match="divide per cents by 100"):
        hard_label_recovery(90, 0.3)
