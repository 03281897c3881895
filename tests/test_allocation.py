"""Which class gets how many: closed forms, water, prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_synth.allocation import ALLOCATIONS, Allocation, largest_ratio, synthetic_counts, uneven

COUNTS = st.lists(st.integers(0, 60), min_size=2, max_size=12).filter(lambda counts: sum(c > 0 for c in counts) >= 2)
ALLOCATION = st.sampled_from(ALLOCATIONS)


def test_by_hand() -> None:
    real = [40, 20, 10]
    assert synthetic_counts(real, 1, "proportional").tolist() == [40, 20, 10]
    assert synthetic_counts(real, 1, "equal").tolist() == [23, 23, 23]
    assert synthetic_counts(real, 0.5, "fill").tolist() == [0, 13, 23]  # both at 32.5, and half is rounded upwards
    assert synthetic_counts(real, 1, "fill").tolist() == [7, 27, 37]  # all at 46.7
    assert synthetic_counts([10, 3, 0], 0.25, "proportional").tolist() == [3, 1, 0]
    assert synthetic_counts([10, 3, 0], 16, "fill").tolist() == [101, 108, 0]
    assert synthetic_counts(real, [0, 1], "fill").tolist() == [[0, 0, 0], [7, 27, 37]]


@given(each=st.integers(1, 50), classes=st.integers(2, 20), ratio=st.floats(0, 40))
def test_on_even_sets_the_three_are_one(each: int, classes: int, ratio: float) -> None:
    real = [each] * classes
    expected = np.floor(ratio * each + 0.5 + 1e-9)
    for allocation in ALLOCATIONS:
        assert np.abs(synthetic_counts(real, ratio, allocation) - expected).max() <= (1 if ratio * each % 1 else 0)
    for halves in (0.25, 0.5, 1, 2.5, 1 / 3):
        assert len({tuple(synthetic_counts(real, halves, allocation)) for allocation in ALLOCATIONS}) == 1
    assert not uneven(real)


@given(real=COUNTS, ratios=st.lists(st.floats(0, 40), min_size=2, max_size=6), allocation=ALLOCATION)
def test_counts_never_fall_and_sum_to_the_ratio(real: list[int], ratios: list[float], allocation: Allocation) -> None:
    ratios = sorted(ratios)
    counts = synthetic_counts(real, ratios, allocation)
    assert (np.diff(counts, axis=0) >= 0).all()
    classes = sum(c > 0 for c in real)
    assert np.abs(counts.sum(axis=1) - np.array(ratios) * sum(real)).max() <= classes / 2 + 1e-6
    assert not counts[:, np.array(real) == 0].any()


@given(real=COUNTS, ratio=st.floats(0.01, 40))
def test_fill_is_water(real: list[int], ratio: float) -> None:
    """One image after another to the class that has the fewest ends within an image of it."""
    total = round(ratio * sum(real))
    there = np.flatnonzero(real)
    filled = np.array(real)
    for _ in range(total):
        filled[there[filled[there].argmin()]] += 1
    assert np.abs(synthetic_counts(real, total / sum(real), "fill") - (filled - real)).max() <= 1


@given(real=COUNTS, allocation=ALLOCATION, data=st.data())
def test_up_to_the_largest_ratio_there_are_enough(real: list[int], allocation: Allocation, data: st.DataObject) -> None:
    available = np.array(data.draw(st.lists(st.integers(0, 200), min_size=len(real), max_size=len(real))))
    most = largest_ratio(real, available, allocation)
    assert (synthetic_counts(real, most, allocation, available) <= available).all()
    # One more image for the class that binds, which may be the only real one of its class.
    beyond = synthetic_counts(real, most + 2 * len(real) / sum(real) + 1, allocation, available)
    assert (beyond > available).any() or not most


@given(real=COUNTS, ratio=st.floats(0, 40), allocation=ALLOCATION, data=st.data())
def test_classes_without_images_leave_theirs_to_the_others(
    real: list[int], ratio: float, allocation: Allocation, data: st.DataObject
) -> None:
    """What the others get is what they would get alone, for as many images in all."""
    counts, given_ = (
        np.array(real),
        np.array(data.draw(st.lists(st.booleans(), min_size=len(real), max_size=len(real)))),
    )
    found = synthetic_counts(counts, ratio, allocation, given_)
    own = counts * given_
    assert not found[own == 0].any()
    alone = synthetic_counts(own, ratio * counts.sum() / max(1, own.sum()), allocation)
    assert np.abs(found - alone).max() <= 1  # a half may fall to either side
    assert abs(found.sum() - ratio * counts.sum() * own.any()) <= len(real) / 2 + 1e-6
    assert (
        synthetic_counts(counts, ratio, allocation, np.ones(len(real))) == synthetic_counts(counts, ratio, allocation)
    ).all()


def test_one_class_takes_all_whatever_the_allocation() -> None:
    for allocation in ALLOCATIONS:
        assert synthetic_counts([40, 20, 10], [0, 0.5, 2], allocation, [0, 0, 1]).tolist() == [
            [0, 0, 0], [0, 0, 35], [0, 0, 140]
        ]  # fmt: skip
        assert largest_ratio([40, 20, 10], [0, 0, 35], allocation) == pytest.approx(0.5)
        assert largest_ratio([40, 20, 10], [0, 0, 0], allocation) == 0
    assert synthetic_counts([40, 20, 10], 1, "fill", [1, 0, 1]).tolist() == [20, 0, 50]  # both at 60
    assert not uneven([40, 20, 10], [0, 0, 1])
    assert uneven([40, 20, 10], [1, 0, 1])


def test_few_images_of_one_class_bind_where_it_takes_part() -> None:
    assert largest_ratio([40, 20, 10], [100, 100, 5], "proportional") == 0.5
    assert largest_ratio([40, 20, 10], [100, 100, 5], "equal") == pytest.approx(15 / 70)
    assert largest_ratio([40, 20, 10], [100, 100, 5], "fill") == pytest.approx(5 / 70)
    assert largest_ratio([40, 20, 0], [100, 100, 0], "fill") == pytest.approx((80 + 100) / 60)
