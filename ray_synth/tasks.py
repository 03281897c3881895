"""What is left of a stage, in countable pieces, and what a piece takes: one word for a resume, a bar and a price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Task:
    """A piece of work that is done whole or not at all.

    name: what a resume goes by, such as a chunk's file, a trial's id or a training's name. takes: unit -> how many of
    it, such as {"chunk": 1, "image": 80}; rates price a unit.
    """

    name: str
    takes: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class OnHead:
    """One after the other in one process, or on one machine with a GPU."""


@dataclass(frozen=True, kw_only=True)
class InPool:
    """By an elastic pool of actors, each task written as one file, and done again from its start after a death.

    in_flight: tasks that an actor is handed at most. file_bytes: of a file beside its images. files_there: of the run
    folder already, which each actor lists again and again.
    """

    most_actors: int | None
    gpus_per_actor: float
    in_flight: int
    image_bytes: float
    file_bytes: float
    images_there: int = 0
    files_there: float = 0.0


@dataclass(frozen=True, kw_only=True)
class InSlots:
    """Several at once, each when a slot is free, from its last checkpoint after a death.

    workers: of one task; gpus: that one worker holds. most: at once. window: task k waits for those up to k - window x
    slots. segments: parts of a task between which it may be stopped early or kept. rungs: shares of a task of which
    each lets a share of `kept` (least, most) go on; `free` tasks, less the window's, never are stopped.
    """

    workers: int
    gpus: float
    most: int | None
    window: int
    segments: int
    name: str = "a trial"
    workers_key: str = "sweep.workers_per_trial"
    rungs: tuple[float, ...] = ()
    kept: tuple[float, float] = (1.0, 1.0)
    done: int = 0

    def free(self, slots: int) -> int:
        """Tasks that are begun before there is anything to stop them by."""
        return max(0, self.window * slots - self.done)


@dataclass(frozen=True, kw_only=True)
class ByTeam:
    """One after the other by workers together, from the last checkpoint after a death. deaths: that the run survives
    before the same command must be typed again."""

    workers: int
    segments: int
    deaths: int
    name: str = "a final training"
    workers_key: str = "classifier.num_workers"
    cause: str = "training"  # that is named where more nodes do not help


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Like tasks of a stage, and the one way in which they are carried out.

    starts: unit -> once, before the first. once: what several stages would do again, such as reading all images back,
    is done by the first of them; another stage does it again only if there is more of it.
    """

    tasks: Sequence[Task]
    way: OnHead | InPool | InSlots | ByTeam = OnHead()
    starts: Mapping[str, float] = field(default_factory=dict)
    once: str = ""

    def total(self, unit: str) -> float:
        return sum(task.takes.get(unit, 0.0) for task in self.tasks)


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """What could be done in place of a stage's tasks: one of them, with so many images instead of all."""

    tasks: Tasks  # of the whole stage, done or not
    instead: Task
    images: int
    images_instead: int
    pool: InPool


ON_DEVICE = ("image", "generator_step", "update", "update_one_side", "training_update", "training_update_one_side")
"""Units that a GPU works on: a shared GPU is slower at them, and several workers share them."""


def in_slots(seconds: np.ndarray, slots: int, *, window: int | None = None) -> np.ndarray:
    """When the last of some jobs ends that are begun in their order, each when one of the slots is free.

    seconds: [R,k], a row a repetition. window: job k waits for all jobs up to k - window, as the trials of a sweep do,
    which are proposed from the results of those before. Returns [R].
    """
    repetitions, jobs = seconds.shape
    free, ends = np.zeros((repetitions, slots)), np.zeros((repetitions, jobs))
    known = np.zeros(repetitions)  # when the results that the next job needs are there
    rows = np.arange(repetitions)
    for k in range(jobs):
        if window is not None and k - window >= 0:
            known = np.maximum(known, ends[:, k - window])
        slot = free.argmin(axis=1)
        free[rows, slot] = ends[:, k] = np.maximum(free[rows, slot], known) + seconds[:, k]
    return ends.max(axis=1) if jobs else np.zeros(repetitions)
