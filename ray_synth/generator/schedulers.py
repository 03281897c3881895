"""A scheduler's name in, the diffusers scheduler out, with the noise schedule that a model was trained with."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from ray_synth.errors import InputError

BETAS = {"beta_start", "beta_end", "beta_schedule"}  # of a schedule of noise
OTHER_TASKS = ("Helios", "FlowMatchLCM", "DPMSolverMultistepInverse")  # of videos, of inversion, of distilled models


def check_steps(scheduler: Any, steps: int, *, gives_sigmas: bool = False) -> None:
    """One step of so many, on next to nothing: whatever it raises, sampling would raise.

    gives_sigmas: as for pipelines that hand the scheduler its sigmas and their shift.
    """
    import numpy as np
    import torch

    given: dict[str, Any] = {}
    if gives_sigmas:
        given = {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": 1.0}
    elif scheduler.config.get("use_dynamic_shifting"):
        given = {"mu": 1.0}
    scheduler.set_timesteps(**given) if gives_sigmas else scheduler.set_timesteps(steps, **given)
    time, latent = scheduler.timesteps[0], torch.zeros(1, 4, 2, 2)
    scaled = scheduler.scale_model_input(latent, time) if hasattr(scheduler, "scale_model_input") else latent
    scheduler.step(torch.zeros_like(latent), time, scaled)


def scheduler_like(given: Any, name: str, *, flow: bool = False) -> Any:
    """The diffusers scheduler `name` with the noise schedule of the given one. flow: for a model of flow matching.

    Raises:
        InputError: no such scheduler, one of another family (flow matching for a noise predictor, say), or one that
            needs a package that is not here.
    """
    import diffusers

    kind = getattr(diffusers, name, None)
    usual = _flow_schedulers() if flow else sorted(one.__name__ for one in given.compatibles)
    if kind is None or not name.endswith("Scheduler"):
        close = difflib.get_close_matches(name, usual, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(usual)}"
        raise InputError(f"generate.scheduler={name} is no scheduler of diffusers; {hint}")
    try:
        if flow and name in usual:
            return kind.from_config(given.config, **_as_flow(given.config, kind))
        if not flow and (name in usual or set(inspect.signature(kind).parameters) >= BETAS):
            return kind.from_config(given.config)
    except ImportError as error:
        raise InputError(f"generate.scheduler={name} needs another package: {' '.join(str(error).split())}") from None
    raise InputError(f"generate.scheduler={name} does not fit this model; choose one of {', '.join(usual)}")


def _flow_schedulers() -> list[str]:
    """Schedulers of diffusers that step along a flow, or can be told to."""
    import diffusers

    found = []
    for name in dir(diffusers):
        if not name.endswith("Scheduler") or name.startswith(OTHER_TASKS):
            continue
        kind = getattr(diffusers, name)
        if name.startswith("FlowMatch") or "use_flow_sigmas" in inspect.signature(kind).parameters:
            found.append(name)
    return sorted(found)


def _as_flow(config: Any, kind: Any) -> dict[str, Any]:
    """What a scheduler must be told to step along a flow, with the shift of the one that the model came with."""
    takes = set(inspect.signature(kind).parameters)
    shift = config.get("flow_shift") or config.get("shift") or 1.0
    told = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift, "shift": shift}
    return {name: value for name, value in told.items() if name in takes}
