"""What is left of a stage, in countable pieces, and what a piece takes: one word for a resume, a bar and a price."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, the standard deviation of its logarithm, and where it is from."""

    value: float
    sigma: float
    origin: str

    def times(self, factor: float, *, sigma: float = 0.0, note: str = "") -> Measure:
        origin = f"{self.origin}; {note}" if note else self.origin
        return Measure(value=self.value * factor, sigma=math.hypot(self.sigma, sigma), origin=origin)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A piece of work that is done whole or not at all.

    name: what a resume goes by, such as a chunk's file, a trial's id or a training's name. takes: unit -> how many of
    it, such as {"chunk": 1, "image": 80}; rates price a unit.
    """

    name: str
    takes: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Like tasks of a stage, and the one way in which they are carried out. starts: unit -> once, before the first."""

    tasks: Sequence[Task]
    starts: Mapping[str, float] = field(default_factory=dict)

    def total(self, unit: str) -> float:
        return sum(task.takes.get(unit, 0.0) for task in self.tasks)
