"""The optimizer of a training, and its learning rate at every update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ray_synth.torch_ops import import_torchvision


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over the updates; times are numbers of updates.

    warmup: updates with a linearly rising rate. milestones, gamma: of multistep, where the rate is multiplied by gamma
    at each milestone.
    """

    name: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, over `updates` updates.

    clip_norm: the largest l2 norm of all gradients together. ema_decay: of the average of the weights; 0: none.
    betas: of AdamW. fused: AdamW in one kernel, which rounds differently. most_skipped: updates in a row that may be
    left out because their gradients are not finite; 0: nobody looks.
    """

    updates: int
    learning_rate: float
    optimizer: Literal["adamw", "sgd", "lamb"] = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = Schedule()
    clip_norm: float = math.inf
    ema_decay: float = 0.0
    fused: bool = True
    most_skipped: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0: the schedule's, times the warm-up."""
        schedule, factor = self.schedule, 1.0
        if schedule.name == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * step / self.updates))
        elif schedule.name == "multistep":
            factor = schedule.gamma ** sum(step >= milestone for milestone in schedule.milestones)
        return self.learning_rate * factor * min(1.0, (step + 1) / max(schedule.warmup, 1))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov momentum .9, or LAMB over what is trained; the papers decay all of it, biases too."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(trained, momentum=0.9, nesterov=True, **common)
    if recipe.optimizer == "lamb":
        import_torchvision()
        from timm.optim.lamb import Lamb

        return Lamb(trained, **common)
    if recipe.fused:
        common["fused"] = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    return torch.optim.AdamW(trained, betas=recipe.betas, **common)
