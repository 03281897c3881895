"""Views of distilled images and their labels in, a classifier that was trained on nothing else out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.classifier.models import build_model
from ray_synth.config import Classifier, PostTrain
from ray_synth.distill.relabel import Labels, View, Views
from ray_synth.seeding import derive_seed
from ray_synth.training.checkpoint import Checkpoints
from ray_synth.training.loop import Loop, autocast
from ray_synth.training.recipe import Recipe
from ray_synth.training.team import Team

KEPT = 10  # checkpoints of a training


def soft_loss(logits: torch.Tensor, said: torch.Tensor, weights: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over a batch of an image's weight times KL(teacher || student), both at a temperature: [b,K], [b,K], [b].

    Without the factor T² (Hinton et al., 2015), as SRe2L and WMDD train.
    """
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(said / temperature, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)
    return (weights * divergence).mean()


def hard_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with labels that were mixed and weighted: [b,K], [b,K]."""
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def train_student(
    views: Views,
    network: Classifier,
    settings: PostTrain,
    *,
    shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    seed: int,
    labels: Labels | None = None,
    checkpoints: Checkpoints | None = None,
) -> nn.Module:
    """A network from nothing, in evaluation mode. labels: what soft labels are told by; None for hard ones. seed: of
    its weights; what it is shown is the same for all.

    Raises:
        WorkError: a loss that is not finite.
    """
    device = views.images.device
    updates = settings.epochs * views.per_epoch
    recipe = Recipe(
        updates=updates,
        learning_rate=settings.learning_rate,
        optimizer=settings.optimizer,
        weight_decay=settings.weight_decay,
    )
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = build_model(network, shape, class_names, seed=derive_seed("student", seed)).to(
            device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        loop = Loop(
            model,
            recipe,
            team=Team(device=device),
            diverged="the loss of a student is {loss} at update {done}; lower distill.posttrain.learning_rate",
        )

        def loss(step: int) -> torch.Tensor:
            torch.manual_seed(derive_seed("student dropout", seed, step))
            epoch, number = divmod(step, views.per_epoch)
            view = views.batch(epoch, number)
            with autocast(device, settings.precision):
                logits: torch.Tensor = loop.trained(view.images)
            return _loss(logits.float(), view, labels, epoch, number, views.settings.temperature)

        loop.resume(checkpoints)
        for _ in loop.run(loss, kept_at=_kept_at(updates), checkpoints=checkpoints):
            pass
    return model.eval()


def _loss(
    logits: torch.Tensor, view: View, labels: Labels | None, epoch: int, number: int, temperature: float
) -> torch.Tensor:
    if labels is None:
        return hard_loss(logits, view.targets)
    return soft_loss(logits, labels(view, epoch, number), view.weights, temperature)


def _kept_at(updates: int) -> set[int]:
    return {max(1, updates * (place + 1) // KEPT) for place in range(KEPT)}
