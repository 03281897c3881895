"""A small network, a recipe, and steps of its training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.training.average import Ema
from ray_synth.training.recipe import Recipe

OPTIMIZERS = ["adamw", "sgd", "lamb"]


def recipe_of(optimizer: Any = "adamw", **more: Any) -> Recipe:
    return Recipe(**{"updates": 12, "optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 0.05, **more})


def network(seed: int = 0) -> nn.Module:
    """Convolutions, batch statistics, biases: whatever an optimizer may treat differently."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
        )


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(step)
    x, y = torch.randn(6, 3, 9, 9, generator=random), torch.randint(0, 4, (6,), generator=random)
    return F.cross_entropy(model(x), y)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, ema: Ema | None = None) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = recipe_of().rate(step)
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        if ema is not None:
            ema.update(model, step)
