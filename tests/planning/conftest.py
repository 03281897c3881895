"""Plans are made of counted work and rates; these are small ones that every test can change."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from ray_synth.config import Experiment
from ray_synth.planning.rates import NOTHING, Limits, Measure, Rates
from ray_synth.planning.sizes import Sizes


def exactly(value: float) -> Measure:
    return Measure(value=value, sigma=0.0, origin="given")


def rates_of(slots: int = 2, **seconds: float) -> Rates:
    """No seconds for anything but what is named, and no uncertainty."""
    names = [one.name for one in fields(Rates) if "Measure" in str(one.type) and "None" not in str(one.type)]
    given = {name: exactly(seconds.pop(name)) if name in seconds else NOTHING for name in names}
    given |= {"final": exactly(1.0), "data_parallel": exactly(1.0)}
    given |= {name: exactly(value) for name, value in seconds.items()}
    limits = {one.name: exactly(1e12) for one in fields(Limits)}
    return Rates(hardware="a machine", kind="cpu", slots=slots, limits=Limits(**limits), **given)


def lost_to_restarts(seconds: float, rate: float) -> float:
    """Expected seconds until a job of this length is through without an interruption, where they come at a rate and
    each sends it back to its start: by conditioning on the first of them."""
    return seconds if rate == 0 else math.expm1(rate * seconds) / rate


@pytest.fixture
def sizes() -> Sizes:
    return Sizes(
        classes=10,
        train=100,
        most_real=10,
        validation=50,
        test=200,
        generator=300,
        shape=(8, 8, 1),
        origin="read",
    )


@pytest.fixture
def small() -> Experiment:
    return Experiment.model_validate(
        {
            "name": "small",
            "generator": {"steps": 50},
            "generate": {"images_per_class": 160},
            "classifier": {"updates": 100},
            "sweep": {"num_trials": 6},
            "evaluate": {"repeats": 1},
        }
    )
