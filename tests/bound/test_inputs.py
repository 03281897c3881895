"""What a caller's arrays may be: labels of every form, turned layouts, copies; nothing wrong is computed in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_synth import estimate_ratio
from ray_synth.bound.pilot import Pilot
from ray_synth.bound.result import RatioEstimate
from ray_synth.bound.samples import channels_first, checked_images, checked_labels, numbered_samples
from ray_synth.config import Data
from ray_synth.data.images import ImageSet
from ray_synth.data.splits import split
from ray_synth.errors import InputError
from ray_synth.features.reading import read_set
from ray_synth.metrics.spectrum import pixel_stats

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
NUMBERS = [2, 0, 2, 1, 0, 1]
NAMES = ["dog", "café", "dog", "ox", "café", "ox"]


@pytest.mark.parametrize(
    "form",
    [
        np.asarray, list, lambda y: np.asarray(y, dtype=np.uint64), lambda y: np.asarray(y, dtype=float),
        lambda y: np.asarray(y)[:, None], lambda y: np.asarray(y, dtype=object), pd.Series, pd.Categorical,
        lambda y: pd.Series(y, dtype="category"), lambda y: pd.DataFrame({"y": y}),
        lambda y: np.asarray(y, dtype=np.float32)[:, None],
    ],
)  # fmt: skip
def test_numbers_of_every_form_are_taken_as_they_are(form: Callable[[list[int]], Any]) -> None:
    _, labels = checked_images("real", IMAGES, form(NUMBERS))
    assert (labels.dtype, labels.tolist()) == (np.int64, NUMBERS)


@pytest.mark.parametrize(
    "form",
    [
        list, np.asarray, lambda y: np.asarray(y, dtype=object), pd.Series, pd.Categorical,
        lambda y: np.asarray(y)[:, None], lambda y: np.asarray([name.encode() for name in y]),
    ],
)  # fmt: skip
def test_names_of_every_form_are_taken_as_they_are(form: Callable[[list[str]], Any]) -> None:
    _, labels = checked_images("real", IMAGES, form(NAMES))
    assert labels.tolist() == NAMES


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([2**63, *NUMBERS[1:]], r"real_labels must be <= 9223372036854775807, got 9223372036854775808; .*np\.unique"),
        (np.full(6, 2**64 - 1, dtype=np.uint64), "got 18446744073709551615"),
        (np.full(6, 1e300), r"must be <= 9223372036854775807"),
        ([0.5, *NUMBERS[1:]], r"whole numbers or names, got 0\.5"),
        ([np.nan, *NUMBERS[1:]], "whole numbers or names, got nan"),
        ([np.inf, *NUMBERS[1:]], "whole numbers or names, got inf"),
        ([None, *NAMES[1:]], "one of them for all, got NoneType, str"),
        (np.asarray([0, *NAMES[1:]], dtype=object), "one of them for all, got int, str"),
        (np.eye(3)[NUMBERS], r"of a column per class type real_labels\.argmax\(axis=1\)"),
        ([-1, *NUMBERS[1:]], "must be >= 0, got -1"),
        (NUMBERS[1:], r"integers or names \[6\], got int64 \[5\]"),
        (np.zeros(6, dtype="datetime64[D]"), r"integers or names \[6\], got datetime64"),
    ],
)  # fmt: skip
def test_other_labels_are_refused_with_their_value(labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_labels("real", labels, 6)


@given(st.integers(5, 64), st.integers(5, 64), st.sampled_from([1, 2, 3, 4]))
def test_channels_that_come_first_are_seen_and_those_that_come_last_are_not(h: int, w: int, c: int) -> None:
    assert channels_first((9, c, h, w))
    assert not channels_first((9, h, w, c))


@pytest.mark.parametrize("side", ["real", "synthetic", "target"])
def test_a_turned_layout_is_refused_with_the_line_that_turns_it(side: str) -> None:
    turned = IMAGES.transpose(0, 3, 1, 2)
    arguments = {"real": IMAGES, "synthetic": IMAGES, "target": IMAGES, side: turned}
    with pytest.raises(InputError, match=rf"{side}_images .*\[6, 3, 8, 8\].*{side}_images\.transpose\(0, 2, 3, 1\)"):
        estimate_ratio(
            arguments["real"], NUMBERS, arguments["synthetic"], NUMBERS, target_images=arguments["target"]
        )  # fmt: skip
    assert channels_first((100, 13, 64, 64))  # bands of a satellite
    assert not channels_first((100, 64, 64, 13))


@pytest.fixture(scope="module")
def sides(digits: ImageSet) -> tuple[Any, ...]:
    rows = np.flatnonzero(digits.labels < 3)
    real, made = rows[:12], rows[12:36]
    return digits.images()[real], digits.labels[real], digits.images()[made], digits.labels[made]


QUICK = {"max_ratio": 0.5, "methods": ("probe",), "features": lambda images: images.reshape(len(images), -1)[:, ::9]}


def test_names_stand_in_the_answer_and_near_misses_are_asked_about(sides: tuple[Any, ...]) -> None:
    real, y, made, z = sides
    words = np.asarray(["a cat", "dog", "ox"])
    others = pd.Categorical(np.asarray(["A_cat", "dog", "ox"])[z])
    found = estimate_ratio(real, words[y], made, others, **QUICK)
    assert {each.label: (each.num_real, each.num_synthetic) for each in found.classes} == {
        word: (int((y == c).sum()), int((z == c).sum()) if c else 0) for c, word in enumerate(words)
    }
    assert "no synthetic images of class(es) a cat: they stay real only" in found.warnings
    assert "did you mean one class by 'A_cat' (synthetic) and 'a cat' (real)? Give both one name" in found.warnings
    assert RatioEstimate.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(InputError, match="got real_labels names, synthetic_labels numbers; give both alike"):
        estimate_ratio(real, words[y], made, z)


@pytest.mark.parametrize("allocation", ["fill", "equal", "proportional"])
def test_a_ratio_counts_what_is_there_where_some_classes_have_none(allocation: Any) -> None:
    """Of one class alone, every image that a ratio asks for is of it."""
    stats = pixel_stats(IMAGES)
    samples = numbered_samples((stats, np.asarray([7, 7, 7, 3, 3, 5])), (stats, np.full(6, 5)))
    assert samples.asked(np.asarray([0.0, 0.5, 4.0]), allocation).tolist() == [[0, 0, 0], [0, 3, 0], [0, 24, 0]]
    pilot = Pilot(samples.synthetic_labels, samples.asked(np.asarray([0.5, 4.0]), allocation))
    assert pilot.share_there.tolist() == [1, 6 / 24]


def test_one_synthetic_class_makes_allocations_one(sides: tuple[Any, ...]) -> None:
    real, y, made, z = sides
    rare = np.r_[np.flatnonzero(y != 1), np.flatnonzero(y == 1)[:2]]
    found = estimate_ratio(real[rare], y[rare], made[z == 1], z[z == 1], **QUICK)
    assert len({(each.ratio, each.accuracy) for each in found.allocations.values()}) == 1
    assert {each.label: each.num_synthetic for each in found.classes} == {0: 0, 1: int((z == 1).sum()), 2: 0}
    assert np.isfinite([*found.curve.error, *found.curve.low, *found.curve.high]).all()


# Copies.


def test_copies_of_real_images_change_no_answer_and_are_counted(sides: tuple[Any, ...]) -> None:
    real, y, made, z = sides
    order = np.random.default_rng(1).permutation(24) % 12
    _, first = np.unique(order, return_index=True)
    read = read_set(ImageSet(pixels=real[order], labels=y[order], class_names=()), None, once=True)
    kept = np.sort(first)
    alone = read_set(ImageSet(pixels=real[order][kept], labels=y[order][kept], class_names=()), None)
    np.testing.assert_array_equal(read.rows, kept)
    np.testing.assert_array_equal(read.taken, alone.taken)
    np.testing.assert_array_equal(read.stats.spectrum.power, alone.stats.spectrum.power)
    assert (read.stats.variance, len(read.stats)) == (alone.stats.variance, 12)
    twice = estimate_ratio(np.repeat(real, 2, axis=0), np.repeat(y, 2), made, z, **QUICK)
    assert twice.warnings[0] == "real: 12 image(s) left out: identical pixels stand in the same class already"
    assert (twice.num_real, twice.num_real_given) == (12, 12)


def test_one_image_under_two_classes_is_refused_by_estimate_and_run_alike(
    digits: ImageSet, sides: tuple[Any, ...]
) -> None:
    real, y, made, z = sides
    wrong = real.copy()
    wrong[-1] = wrong[0]
    assert y[-1] != y[0]
    with pytest.raises(InputError, match=r"images 0 \(class 0\) and 11 \(class \d\) have identical pixels; remove"):
        estimate_ratio(wrong, y, made, z)
    pixels, labels = digits.images().copy(), digits.labels
    pixels[1] = pixels[0]
    doubled = ImageSet(pixels=pixels, labels=labels, class_names=digits.class_names)
    with pytest.raises(InputError, match=r"images 0 \(class '0'\) and 1 \(class '1'\) have identical pixels; remove"):
        split(doubled, Data(), 0)


@pytest.mark.parametrize("grey", [0, 77, 255])
def test_real_images_of_one_colour_are_refused(grey: int, sides: tuple[Any, ...]) -> None:
    real, y, made, z = sides
    with pytest.raises(InputError, match="have identical pixels, and so have all 12: one image, such as a colour"):
        estimate_ratio(np.full_like(real, grey), y, made, z)


def test_images_that_look_alike_through_the_features_are_refused() -> None:
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 2, (12, 1, 1, 16, 16)) * 255  # which of two pixels is white: their means are equal
    pairs = np.stack([fine, 255 - fine], axis=2).reshape(12, 1, 2, 16, 16).transpose(0, 3, 1, 4, 2).reshape(12, 16, 32)
    images = np.repeat(pairs, 2, axis=1).astype(np.uint8)
    y = np.arange(12) % 2
    with pytest.raises(InputError, match="all 12 real images look alike through thumbnails of at most 16 pixels"):
        estimate_ratio(images, y, images, y)
