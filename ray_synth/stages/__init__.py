"""The stages of a run in their order. A stage is one file and its place in this list."""

from __future__ import annotations

from ray_synth.config import Experiment
from ray_synth.errors import InputError
from ray_synth.stages.distill import Distill
from ray_synth.stages.estimate import Estimate
from ray_synth.stages.evaluate import Evaluate
from ray_synth.stages.finetune import Finetune
from ray_synth.stages.generate import Generate
from ray_synth.stages.report import Report
from ray_synth.stages.stage import Stage
from ray_synth.stages.sweep import Sweep
from ray_synth.stages.train import Train

__all__ = [
    "STAGES",
    "Distill",
    "Estimate",
    "Evaluate",
    "Finetune",
    "Generate",
    "Report",
    "Stage",
    "Sweep",
    "Train",
    "stages_until",
]

STAGES: list[type[Stage]] = [Finetune, Generate, Estimate, Sweep, Train, Evaluate, Distill, Report]


def stages_until(name: str | None, *, said: str = "until") -> list[type[Stage]]:
    """The stages up to one, in their order; all of them without a name.

    Raises:
        InputError: no stage of that name. said: what the message calls the argument.
    """
    names = [stage.name for stage in STAGES]
    if name is None:
        return list(STAGES)
    if name not in names:
        raise InputError(f"{said} must be one of {', '.join(names)}, got {name!r}")
    return STAGES[: names.index(name) + 1]


def stages_asked(experiment: Experiment, until: str | None = None) -> list[type[Stage]]:
    """The stages that a file asks for, up to one, in their order.

    Raises:
        InputError: no stage of that name, or one that the file does not ask for.
    """
    asked = [stage for stage in stages_until(until) if stage.asked(experiment)]
    if until is not None and until not in [stage.name for stage in asked]:
        there = experiment.distill is not None
        why = "has a distill section, and so asks for nothing else" if there else "has no distill section"
        cure = "null" if there else "{}"
        raise InputError(f"{experiment.name} {why}: it has no stage {until}; type --set distill={cure}")
    return asked
