"""The first lines of a report: what to do, by how much it is better, what it costs, and commands that can be typed."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.main import get_command

from ray_synth.cli import app
from ray_synth.report.decision import Asked, Cost, Gain, gain_of, headline, next_steps, seconds_said
from ray_synth.sweep.ledger import Trial
from ray_synth.sweep.space import Setting

from .test_summary import summary_of

ASKED = Asked(place="x", seed=0, shots=10, max_ratio=16.0, images_per_class=160, more=True)


def trial(ratio: float, seconds: float, status: Any = "complete") -> Trial:
    setting = Setting(synthetic_ratio=ratio, num_clusters=2, classifier={})
    return Trial(trial_id="t00000", status=status, seconds=seconds, accuracy=0.5, setting=setting)


def test_the_interval_of_a_gain_is_welchs() -> None:
    a, b = np.array([0.91, 0.93, 0.95, 0.90]), np.array([0.80, 0.86, 0.85, 0.81])
    summary = summary_of(
        accuracy={"at_predicted": a.mean(), "real_only": b.mean()},
        accuracy_std={"at_predicted": a.std(ddof=1), "real_only": b.std(ddof=1)},
        repeats=4,
    )
    gain = gain_of(summary, "at_predicted")
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert gain is not None
    assert gain.half is not None
    assert (gain.value - gain.half, gain.value + gain.half) == pytest.approx((interval.low, interval.high))
    assert str(gain) == f"{100 * gain.value:+.1f} points (±{100 * gain.half:.1f})"


def test_a_gain_that_was_measured_in_pairs_is_taken_as_it_is() -> None:
    metrics = {"gain/predicted": 0.05, "gain/predicted/low": 0.03, "gain/predicted/high": 0.08}
    gain = gain_of(summary_of(), "at_predicted", metrics)
    assert gain is not None
    assert (gain.value, gain.half, gain.paired) == pytest.approx((0.05, 0.025, True))
    best = gain_of(summary_of(), "best", metrics)
    assert best is not None
    assert not best.paired  # of which the metrics do not tell


def test_single_trainings_have_no_interval_and_what_was_not_measured_no_gain() -> None:
    gain = gain_of(summary_of(repeats=1), "best")
    assert gain is not None
    assert (gain.half, gain.told) == (None, False)
    assert "one training each" in str(gain)
    assert gain_of(summary_of(accuracy={"best": 0.9}), "best") is None


@pytest.mark.parametrize(
    ("changes", "gain", "said"),
    [
        ({}, Gain(value=0.06, half=0.01), "Use about 4 synthetic images per real image (2 to 8)"),
        ({}, None, "Use about 4 synthetic images per real image (2 to 8)"),
        ({"verdict": "hurts", "predicted_ratio": 0.0}, None, "Use real images alone"),
        ({"verdict": "no effect"}, None, "Use real images alone"),
        ({"verdict": "uncertain"}, None, "Undecided; if any, about 4 synthetic images per real image (2 to 8)"),
    ],
)
def test_the_headline_follows_the_verdict(changes: dict[str, Any], gain: Gain | None, said: str) -> None:
    assert headline(summary_of(**changes), gain) == said


def test_the_test_set_overrules_the_prediction() -> None:
    assert headline(summary_of(), Gain(value=-0.05, half=0.01)).endswith("were predicted to help, and did not")
    assert headline(summary_of(), Gain(value=-0.005, half=0.01)).startswith("Use about 4")  # not told from none


def test_a_training_is_a_share_of_the_sweep() -> None:
    trials = [trial(0, 10.0), trial(8, 10.0), trial(4, 12.0), trial(2, 3.0, "pruned")]
    cost = Cost.of(trials, image=0.5, grows=False)
    assert (cost.training_at(16), cost.sweep) == (10.0, 35.0)
    assert cost.share_of_sweep(16) == pytest.approx(3.5)
    grown = Cost.of([trial(0, 10.0), trial(4, 50.0)], image=None, grows=True)
    assert (grown.training_at(0), grown.training_at(4)) == (10.0, 50.0)
    assert math.isnan(Cost.of([], image=None, grows=False).share_of_sweep(1))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.034, "0.034 s"), (5.03, "5 s"), (52.1, "52 s"), (119, "119 s"), (7000, "117 min"), (9e5, "10 days")],
)
def test_seconds_are_said_in_their_unit(seconds: float, said: str) -> None:
    assert seconds_said(seconds) == said


@pytest.mark.parametrize("changes", [{}, {"verdict": "uncertain"}, {"predicted_ratio": 16.0}, {"verdict": "hurts"}])
def test_what_to_type_next_can_be_typed(changes: dict[str, Any]) -> None:
    place = "runs/a folder; rm -rf"
    steps = next_steps(summary_of(**changes), replace(ASKED, place=place))
    assert len(steps) >= 1
    for why, command in steps:
        words = shlex.split(command)
        assert why
        assert words[0] == "ray-synth"
        assert words[2] == place
        verb = get_command(app).get_command(None, words[1])  # type: ignore[attr-defined]
        verb.make_context(words[1], words[2:])  # all its words are known


def test_another_seed_has_a_folder_of_its_own() -> None:
    for place, seed, other in (("runs/x/", 0, "runs/x-seed1"), ("runs/x-seed1", 1, "runs/x-seed2")):
        (_, command) = next_steps(summary_of(), replace(ASKED, place=place, seed=seed))[-1]
        assert command == f"ray-synth run {place} --seed {seed + 1} --out {other}"


def test_an_answer_at_the_largest_ratio_asks_for_a_larger_one() -> None:
    at_top = summary_of(predicted_ratio=16.0)
    commands = [command for _, command in next_steps(at_top, ASKED)]
    assert commands[0] == "ray-synth run x --set sweep.max_ratio=32 --set generate.images_per_class=320"
    given = next_steps(at_top, replace(ASKED, more=False))  # images that exist already
    assert not [command for _, command in given if "max_ratio" in command]
