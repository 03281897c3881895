"""Settings in, the optimizer, its learning rate at every step and an average of the weights out; all can be saved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ray_synth.config import Classifier
from ray_synth.torch_ops import import_torchvision


def make_optimizer(model: nn.Module, settings: Classifier) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov momentum .9, or LAMB over what is trained; the papers decay all of it, biases too."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(trained, momentum=0.9, nesterov=True, **common)
    if settings.optimizer == "lamb":
        import_torchvision()
        from timm.optim import Lamb

        return Lamb(trained, **common)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    return torch.optim.AdamW(trained, fused=fused, **common)


def learning_rate(settings: Classifier, step: int, updates: int) -> float:
    """The rate of update `step` of `updates`, counted from 0: the schedule's, times a linear warm-up."""
    schedule = settings.schedule
    factor = 1.0
    if schedule.name == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / updates))
    elif schedule.name == "multistep":
        factor = schedule.gamma ** sum(step >= round(milestone * updates) for milestone in schedule.milestones)
    warm = round(schedule.warmup * updates)
    return settings.learning_rate * factor * (min(1.0, (step + 1) / warm) if warm else 1.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All that the optimizer remembers, flat: `state/PARAMETER/NAME` and `group/GROUP/NAME`; copies on the CPU."""
    saved = optimizer.state_dict()
    places = [(f"state/{i}", state) for i, state in saved["state"].items()]
    places += [(f"group/{i}", group) for i, group in enumerate(saved["param_groups"])]  # LAMB counts steps there
    return {
        f"{place}/{name}": value.detach().to("cpu", copy=True).contiguous()
        for place, values in places
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, into an optimizer made with the same settings for the same model."""
    saved = optimizer.state_dict()
    saved["state"] = {}
    for key, value in tensors.items():
        where, index, name = key.split("/", 2)
        place = saved["state"].setdefault(int(index), {}) if where == "state" else saved["param_groups"][int(index)]
        place[name] = value.clone()
    optimizer.load_state_dict(saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                # The fused step walks memory, not indices: a channels_last weight needs channels_last moments.
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class Ema:
    """The running average of the trained weights; buffers, such as batch statistics, are those of the last update."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in _trained(model).items()}
        self.buffers = {name: b.detach().clone() for name, b in _buffers(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After optimizer update `step`, counted from 0."""
        # A short run needs a short memory, else the average still holds the random start.
        decay = min(self.decay, (1 + step) / (10 + step))
        trained = _trained(model)
        torch._foreach_lerp_(list(self.average.values()), [trained[name] for name in self.average], 1 - decay)
        for name, buffer in _buffers(model).items():
            self.buffers[name].copy_(buffer)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put the average in place of the model's weights."""
        own = {**_trained(model), **_buffers(model)}
        for name, value in {**self.average, **self.buffers}.items():
            own[name].copy_(value)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with the average for its weights; afterwards, bit for bit what it was."""
        before = Ema(model, self.decay)
        self.copy_to(model)
        try:
            yield model
        finally:
            before.copy_to(model)

    def tensors(self) -> dict[str, torch.Tensor]:
        """`average/NAME` and `buffer/NAME`, copies on the CPU."""
        named = {f"average/{name}": value for name, value in self.average.items()}
        named |= {f"buffer/{name}": value for name, value in self.buffers.items()}
        return {name: value.to("cpu", copy=True).contiguous() for name, value in named.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, value in self.average.items():
            value.copy_(tensors[f"average/{name}"])
        for name, value in self.buffers.items():
            value.copy_(tensors[f"buffer/{name}"])


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Those that belong to the model's state; none of a frozen network, whose buffers do not change."""
    if any(not parameter.requires_grad for parameter in model.parameters()):
        return {}
    state = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name in state}
