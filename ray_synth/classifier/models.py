"""An image shape and a number of classes in, a torch module out: one row per model in `MODELS`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def small_cnn(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Three 3x3 convolutions, the second of stride 2, and a linear head: for small images. shape: [H,W,C]."""
    return nn.Sequential(
        nn.Conv2d(shape[2], 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4, num_classes),
    )


MODELS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {"small_cnn": small_cnn}


def build_model(name: str, shape: tuple[int, int, int], num_classes: int, *, seed: int) -> nn.Module:
    """A model with seeded weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](shape, num_classes)
