"""A scheduler's name in, the diffusers scheduler out, with the noise schedule that a model was trained with."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from ray_synth.errors import InputError


def check_steps(scheduler: Any, steps: int) -> None:
    """One step of so many, on next to nothing: whatever it raises, sampling would raise."""
    import torch

    scheduler.set_timesteps(steps)
    time, latent = scheduler.timesteps[0], torch.zeros(1, 4, 2, 2)
    scheduler.step(torch.zeros_like(latent), time, scheduler.scale_model_input(latent, time))


def scheduler_like(given: Any, name: str) -> Any:
    """The diffusers scheduler `name` with the noise schedule of the given one.

    Raises:
        InputError: no such scheduler, one of another family (flow matching for a noise predictor, say), or one that
            needs a package that is not here.
    """
    import diffusers

    kind = getattr(diffusers, name, None)
    usual = sorted(one.__name__ for one in given.compatibles)
    if kind is None or not name.endswith("Scheduler"):
        close = difflib.get_close_matches(name, usual, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(usual)}"
        raise InputError(f"generate.scheduler={name} is no scheduler of diffusers; {hint}")
    try:
        fits = name in usual or {"beta_start", "beta_end", "beta_schedule"} <= set(inspect.signature(kind).parameters)
        if fits:
            return kind.from_config(given.config)
    except ImportError as error:
        raise InputError(f"generate.scheduler={name} needs another package: {' '.join(str(error).split())}") from None
    raise InputError(f"generate.scheduler={name} does not fit this model; choose one of {', '.join(usual)}")
