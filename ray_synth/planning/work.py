"""A run in, what its stages say is left of it out. Reads its folder and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_synth.pipeline import Run
from ray_synth.tasks import Alternative, InPool, Tasks


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """One stage: what it says it will do, its tasks, and what a worker takes of a GPU's memory, where that is known."""

    name: str
    plan: str
    groups: Sequence[Tasks]
    gpu_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left of a run, stage by stage. complete: names of stages that are left out."""

    name: str
    stages: tuple[StageWork, ...]
    complete: tuple[str, ...] = ()
    alternative: Alternative | None = None
    notes: tuple[str, ...] = ()

    @property
    def units(self) -> frozenset[str]:
        """Of all tasks."""
        groups = [group for stage in self.stages for group in stage.groups]
        return frozenset(
            unit for group in groups for takes in (group.starts, *(t.takes for t in group.tasks)) for unit in takes
        )

    @property
    def pools(self) -> list[tuple[Tasks, InPool]]:
        """The groups that are written as files."""
        groups = [group for stage in self.stages for group in stage.groups]
        return [(group, group.way) for group in groups if isinstance(group.way, InPool)]


def work_of(run: Run, until: str | None = None) -> Work:
    """What is left of a run, up to a stage."""
    stages = run.until(until)
    complete = [stage.name for stage in stages if stage.complete]
    left = [stage for stage in stages if stage.name not in complete]
    works = tuple(
        StageWork(name=stage.name, plan=stage.plan, groups=tuple(stage.tasks()), gpu_bytes=stage.gpu_bytes)
        for stage in left
    )
    alternatives = [found for stage in stages if (found := stage.alternative()) is not None]
    notes = [note for stage in stages for note in stage.caveats]
    return Work(
        name=run.experiment.name,
        stages=works,
        complete=tuple(complete),
        alternative=alternatives[0] if alternatives else None,
        notes=(*(run.inputs.splits.notes if run.inputs.described else ()), *notes),
    )
