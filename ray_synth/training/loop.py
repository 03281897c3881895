"""A model, a recipe and a loss in, the trained model out: one update after the other, exact to resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from ray_synth.errors import WorkError
from ray_synth.torch_ops import keep_freed_memory
from ray_synth.training.average import Ema
from ray_synth.training.checkpoint import (
    DONE,
    Checkpoints,
    Stateful,
    optimizer_tensors,
    pack,
    restore_optimizer,
    trainable_state,
    unpack,
)
from ray_synth.training.recipe import Recipe, make_optimizer
from ray_synth.training.team import Team

Loss = Callable[[int], torch.Tensor]  # of update `step`, counted from 0


class Loop:
    """A training between two updates.

    A loss that draws from seeds of its step alone makes a training that was killed, and goes on from its checkpoint,
    end in the same weights.

    Args:
        model: on the team's device. What requires a gradient is trained, and `trained` is what to call: the model as
            the team prepared it.
        also: whatever else the next update depends on, by name; kept in the checkpoint too.
        gathers: the loss is one over all workers' outputs (`Team.gathered`).
        in_parts: the loss calls parts of the model, not `trained`: gradients are averaged after the backward pass.
        diverged: what to say of a loss that is not finite, with {loss} and {done}.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        team: Team | None = None,
        also: Mapping[str, Stateful] | None = None,
        gathers: bool = False,
        in_parts: bool = False,
        diverged: str = "the loss is {loss} at update {done}; lower the learning rate",
    ):
        keep_freed_memory()
        self.model, self.recipe, self.team, self.also = model, recipe, team or Team(), also or {}
        self.diverged = diverged
        self.trained, self.in_parts = model if in_parts else self.team.prepare(model), in_parts
        self.optimizer = make_optimizer(model, recipe)
        self.average = Ema(model, recipe.ema_decay) if recipe.ema_decay else None
        # Each worker holds its own outputs alive in a loss over all workers' outputs, and DDP averages.
        self.scale = self.team.size if gathers else 1
        self.done = self.skipped = 0  # updates; those left out since the last one that was made

    def run(self, loss: Loss, *, kept_at: Container[int] = (), checkpoints: Checkpoints | None = None) -> Iterator[int]:
        """Make the updates that are left; yields the number of those done, after each.

        kept_at: numbers of updates after which the loss must be finite (unless such updates are left out), and, when
        the caller has had its turn, the first worker writes a checkpoint.

        Raises:
            WorkError: a loss that is not finite.
        """
        self.trained.train()
        while self.done < self.recipe.updates:
            found = self.update(loss)
            due = self.done in kept_at
            if due and not self.recipe.most_skipped and not math.isfinite(found):
                self._refuse(found)
            yield self.done
            if due and checkpoints is not None and self.team.rank == 0 and self.done < self.recipe.updates:
                checkpoints.save(self.saved())

    def update(self, loss: Loss) -> torch.Tensor:
        """One update; gives its loss."""
        step = self.done
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(step)
        found = loss(step)
        self.optimizer.zero_grad(set_to_none=True)
        (found * self.scale).backward()
        if self.in_parts:
            self.team.average([p.grad for p in self.model.parameters() if p.grad is not None])
        self.done += 1
        if self._clipped(found.detach()):
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model, step)
        return found.detach()

    def _clipped(self, loss: torch.Tensor) -> bool:
        """Cut the gradients to the norm that is allowed; False where they are not finite, which all workers see."""
        recipe = self.recipe
        if recipe.clip_norm == math.inf and not recipe.most_skipped:
            return True
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
        if not recipe.most_skipped:
            return True
        self.skipped = 0 if norm.isfinite() else self.skipped + 1
        if self.skipped > recipe.most_skipped:
            self._refuse(loss)
        return not self.skipped

    def _refuse(self, loss: torch.Tensor) -> None:
        raise WorkError(self.diverged.format(loss=float(loss), done=self.done))

    def averaged(self) -> AbstractContextManager[object]:
        """Inside, the model has the average for its weights, where there is one."""
        return self.average.applied(self.model) if self.average is not None else nullcontext()

    def saved(self) -> bytes:
        """Everything that the next update depends on."""
        part, name = DONE.split("/")
        parts: dict[str, Mapping[str, torch.Tensor]] = {
            part: {name: torch.tensor(self.done), "skipped": torch.tensor(self.skipped)},
            "model": trainable_state(self.model),
            "optimizer": optimizer_tensors(self.optimizer),
            **{name: value.tensors() for name, value in self._stateful().items()},
        }
        return pack(parts)

    def resume(self, checkpoints: Checkpoints | None) -> int:
        """Go on from what was kept, if something was; gives the number of updates done."""
        data = checkpoints.load() if checkpoints is not None else None
        parts = unpack(data) if data is not None else None
        if parts is None:
            return 0
        if parts["model"].keys() != trainable_state(self.model).keys():
            raise WorkError("the checkpoint of this training belongs to another model; remove it")
        self.model.load_state_dict(parts["model"], strict=False)
        restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        for name, value in self._stateful().items():
            value.restore(parts.get(name, {}))
        self.done, self.skipped = int(parts["loop"]["done"]), int(parts["loop"]["skipped"])
        return self.done

    def _stateful(self) -> dict[str, Stateful]:
        return {**({"average": self.average} if self.average is not None else {}), **self.also}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Around a forward pass: `bfloat16` where it is safe, or `float32`."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()
