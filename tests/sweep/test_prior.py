"""The prediction as a prior: narrow where it is sure, overcome where it is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.sweep.prior import Prior, RatioPrior, first_ratios
from tests.estimates import curve_of

RATIOS = np.expm1(np.linspace(0, np.log(17), 33))
U = np.log2(1 + RATIOS)


def prediction(best: float, *, depth: float = 0.1, band: float = 0.01) -> Prior:
    """A U-curve with its lowest error at `best`."""
    error = 0.1 + depth * (U - np.log2(1 + best)) ** 2 / 4
    curve = curve_of(RATIOS, error, error - band, error + band)
    return Prior(ratio=best, interval=(best / 2, best * 2), curve=curve, confidence=0.9)


def prior_of(best: float, *, band: float = 0.01) -> RatioPrior:
    curve = prediction(best, band=band).curve
    assert curve is not None
    return RatioPrior(curve, 0.9, (0.0, 16.0))


def truth(ratio: float, best: float) -> float:
    return 0.9 - 0.1 * (np.log2(1 + ratio) - np.log2(1 + best)) ** 2 / 4


def drawn(prior: RatioPrior, ratios: list[float], values: list[float], count: int = 200) -> np.ndarray:
    return np.array([prior.propose(ratios, values, tried=RATIOS.tolist(), turn=1, seed=s) for s in range(count)])


def test_first_ratios_are_the_pick_none_and_the_ends() -> None:
    assert first_ratios(prediction(4.0), 0.0, 16.0) == [4.0, 0.0, 2.0, 8.0]
    assert first_ratios(prediction(4.0), 0.0, 6.0) == [4.0, 0.0, 2.0, 6.0]
    assert first_ratios(Prior(ratio=16.0, interval=(15.5, 16.0)), 0.0, 16.0) == [16.0, 0.0]  # the end is the pick
    assert first_ratios(Prior(ratio=0.0, interval=(0.0, 0.05)), 0.0, 16.0) == [0.0]
    assert first_ratios(Prior(ratio=0.05, interval=(0.05, 12.0)), 0.0, 16.0) == [0.0, 12.0]  # 0 itself is there
    assert first_ratios(Prior(ratio=0.0, interval=(0.0, 4.0)), 1.0, 16.0) == [0.0, 1.0, 4.0]


def test_among_choices_only_these_are_far_or_near() -> None:
    """Halfway between two choices nothing can be tried: that is no reason to try a neighbour again and again."""
    curve = prediction(4.0).curve
    assert curve is not None
    prior = RatioPrior(curve, 0.9, (0.0, 16.0), choices=[16.0, 0.0, 4.0])
    values = [truth(ratio, 4.0) for ratio in (4.0, 0.0, 16.0)]
    proposed = [prior.propose([4.0, 0.0, 16.0], values, tried=[4.0, 0.0, 16.0], turn=t, seed=t) for t in range(40)]
    assert set(np.round(proposed, 6)) <= {0.0, 4.0, 16.0}
    assert np.mean(np.isclose(proposed, 4.0)) > 0.6  # where the truth and the prediction have it
    assert prior.propose([], [], tried=[4.0, 0.0], turn=0, seed=0) == pytest.approx(16.0)  # not yet seen


def test_a_narrow_band_is_trusted_and_a_wide_one_is_not() -> None:
    sure = drawn(prior_of(4.0, band=0.005), [], [])
    unsure = drawn(prior_of(4.0, band=0.1), [], [])
    near, far = (np.median(np.abs(np.log2(1 + ratios) - np.log2(5))) for ratios in (sure, unsure))
    assert near < 0.2
    assert far > 2 * near
    assert sure.min() >= 0
    assert sure.max() <= 16


@pytest.mark.parametrize(("said", "best"), [(0.0, 12.0), (16.0, 1.0), (4.0, 0.0)])
def test_a_confident_and_wrong_prediction_is_overcome(said: float, best: float) -> None:
    rng = np.random.default_rng(0)
    prior = prior_of(said, band=0.005)
    ratios, values = [], []
    for turn in range(20):
        ratio = prior.propose(ratios, values, tried=ratios, turn=turn, seed=turn)
        ratios.append(ratio)
        values.append(truth(ratio, best) + rng.normal(0, 0.005))
    late = np.log2(1 + np.array(ratios[10:]))
    assert np.median(np.abs(late - np.log2(1 + best))) < 0.5


def test_trials_that_learnt_nothing_do_not_count_against_their_ratio() -> None:
    prior = prior_of(4.0)
    ratios = [0.0, 1.0, 2.0, 4.0, 4.0, 8.0, 16.0]
    values = [truth(ratio, 4.0) for ratio in ratios]
    values[3] = 0.1  # at the best ratio, with a learning rate that was too high
    picks = np.log2(1 + drawn(prior, ratios, values))
    assert abs(np.median(picks) - np.log2(5)) < 0.6


def test_it_looks_around_until_nothing_is_far() -> None:
    prior = prior_of(0.5)
    assert prior.propose([], [], tried=[0.0, 0.5], turn=0, seed=0) == pytest.approx(16.0)
    assert prior.propose([], [], tried=[0.0, 0.5, 4.0, 16.0], turn=0, seed=0) == pytest.approx(8.2, abs=0.5)
    near = [prior.propose([], [], tried=RATIOS.tolist(), turn=s, seed=s) for s in range(50)]
    assert np.median(near) < 2  # all has been seen: the prediction's own region


def test_a_proposal_follows_from_its_seed() -> None:
    prior = prior_of(4.0)
    one, two = (prior.propose([0.0, 4.0], [0.8, 0.9], tried=[0.0, 4.0], turn=1, seed=s) for s in (3, 3))
    assert one == two
