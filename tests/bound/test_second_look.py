"""Where features cannot tell, convolutional networks are asked too; where they can, and between generators, not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ray_synth as rs
from ray_synth.bound import estimator
from ray_synth.data.images import ImageSet

Labelled = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What was looked at again."""
    seen: list[tuple[int, ...]] = []
    look = estimator.look_again

    def looked(first: Any, thumbnails: Any, mix: Any) -> Any:
        seen.append(thumbnails[0].shape)
        return look(first, thumbnails, mix)

    monkeypatch.setattr(estimator, "look_again", looked)
    return seen


def few(digits: ImageSet, start: int, number: int) -> Labelled:
    """Of all writers: they come one after the other."""
    rows = np.random.default_rng(0).permutation(len(digits))[start : start + number]
    return digits.pixels[rows], digits.labels[rows]


def partly_wrong(digits: ImageSet) -> Labelled:
    """Digits of which every fourth is labelled as the next one."""
    images, labels = few(digits, 400, 300)
    return images, np.where(np.arange(300) % 4 == 0, (labels + 1) % 10, labels)


def test_what_is_uncertain_is_looked_at_again(digits: ImageSet, looks: list[tuple[int, ...]]) -> None:
    first = rs.rank_generators(
        *few(digits, 0, 60), {"a": partly_wrong(digits), "b": partly_wrong(digits)}, max_ratio=4, methods=("probe",)
    )
    assert {each.estimate.verdict for each in first} == {"uncertain"}
    assert looks == []  # all by one rule
    again = rs.estimate_ratio(*few(digits, 0, 60), *partly_wrong(digits), max_ratio=4, methods=("probe",))
    assert looks == [(60, 8, 8, 1)]
    assert max(again.methods["probe"]["accuracy"]) <= 1
    assert again.curve != first[0].estimate.curve


def test_what_features_tell_is_not_looked_at_again(digits: ImageSet, looks: list[tuple[int, ...]]) -> None:
    assert (
        rs.estimate_ratio(*few(digits, 0, 60), *few(digits, 400, 300), max_ratio=4, methods=("probe",)).verdict
        == "helps"
    )
    assert looks == []


def test_nor_is_what_is_seen_through_a_network(digits: ImageSet, looks: list[tuple[int, ...]]) -> None:
    class Noise:
        name = "noise"

        def __call__(self, images: np.ndarray) -> np.ndarray:
            return np.random.default_rng(len(images)).normal(size=(len(images), 8))

    estimate = rs.estimate_ratio(*few(digits, 0, 60), *partly_wrong(digits), max_ratio=4, features=Noise())
    assert estimate.verdict == "uncertain"
    assert looks == []


def test_nor_where_there_are_too_few_images_to_be_right_about(digits: ImageSet, looks: list[tuple[int, ...]]) -> None:
    estimate = rs.estimate_ratio(*few(digits, 0, 9), *partly_wrong(digits), max_ratio=4, methods=("probe",))
    assert estimate.verdict == "uncertain"
    assert looks == []
