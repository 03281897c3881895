"""The running average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


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
