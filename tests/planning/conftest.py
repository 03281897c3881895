"""Plans are made of tasks and rates; these are small ones that every test can change."""

from __future__ import annotations

import math
from dataclasses import fields

from ray_synth.hardware.gpus import table
from ray_synth.hardware.measure import NOTHING, Measure
from ray_synth.planning.rates import Rates
from ray_synth.planning.work import StageWork, Work
from ray_synth.tasks import Alternative, ByTeam, InPool, InSlots, OnHead, Task, Tasks

UNITS = (
    "generator_start", "generator_step", "pool_start", "chunk", "image", "read_image", "estimate", "tune_start",
    "trial", "trial_image", "update", "update_one_side", "train_start", "training", "training_image",
    "training_update", "training_update_one_side", "diagnosis_image", "evaluate", "test_image", "judged_image",
    "report",
)  # fmt: skip
POOL = InPool(most_actors=None, gpus_per_actor=1.0, in_flight=1, image_bytes=50.0, file_bytes=5000.0)
SLOTS = InSlots(workers=1, gpus=1.0, most=None, window=2, segments=5)
TEAM = ByTeam(workers=1, segments=1, deaths=3)


def exactly(value: float) -> Measure:
    return Measure(value=value, sigma=0.0, origin="given")


def rates_of(slots: int = 2, **values: float) -> Rates:
    """No seconds for anything but what is named, and no uncertainty."""
    own = [one.name for one in fields(Rates) if one.type == "Measure"]
    given = {name: exactly(values.pop(name)) if name in values else NOTHING for name in own}
    given |= {"data_parallel": exactly(1.0)}
    seconds = {unit: exactly(values.pop(unit)) if unit in values else NOTHING for unit in UNITS}
    limits = dict.fromkeys(table()["limits"], exactly(1e12))
    assert not values
    return Rates(hardware="a machine", kind="cpu", slots=slots, seconds=seconds, limits=limits, **given)


def images_work(*, images: int = 1000, chunks: int = 100, **pool: object) -> Tasks:
    """Equal chunks over a pool."""
    each = {"chunk": 1, "image": images / chunks}
    tasks = tuple(Task(name=f"chunk {k}", takes=each) for k in range(chunks))
    way = InPool(**{**vars(POOL), **pool})  # type: ignore[arg-type]
    return Tasks(tasks=tasks, starts={"pool_start": 1}, way=way)


def trials_work(takes: dict[str, float], count: int, **slots: object) -> Tasks:
    """Equal trials in slots."""
    tasks = tuple(Task(name=f"t{k:05d}", takes=takes) for k in range(count))
    return Tasks(tasks=tasks, starts={"tune_start": 1}, way=InSlots(**{**vars(SLOTS), **slots}))  # type: ignore[arg-type]


def final_work(takes: dict[str, float], count: int = 1, **team: object) -> Tasks:
    """Equal trainings one after the other."""
    tasks = tuple(Task(name=f"best-{k}", takes=takes) for k in range(count))
    return Tasks(tasks=tasks, starts={"train_start": 1}, way=ByTeam(**{**vars(TEAM), **team}))  # type: ignore[arg-type]


def head_work(**takes: float) -> Tasks:
    return Tasks(tasks=(Task(name="at once", takes=takes),), way=OnHead())


def work(alternative: Alternative | None = None, **stages: Tasks | tuple[Tasks, ...]) -> Work:
    """Stages by name, and the groups of each."""
    groups = {name: given if isinstance(given, tuple) else (given,) for name, given in stages.items()}
    made = tuple(StageWork(name=name, plan=f"to {name}", groups=each) for name, each in groups.items())
    return Work(name="made up", stages=made, alternative=alternative)


def lost_to_restarts(seconds: float, rate: float) -> float:
    """Expected seconds until a job of this length is through without an interruption, where they come at a rate and
    each sends it back to its start: by conditioning on the first of them."""
    return seconds if rate == 0 else math.expm1(rate * seconds) / rate
