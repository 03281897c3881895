"""Sets of images in, a classifier of each out: small ones of one architecture at once, their weights in one module."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.models import PLAIN, build_model
from ray_synth.classifier.sides import Side
from ray_synth.classifier.train import evaluated_at, fit, num_updates, recipe_of
from ray_synth.config import Classifier
from ray_synth.data.source import ImageSource
from ray_synth.data.transforms import to_model_range
from ray_synth.seeding import derive_seed
from ray_synth.training.augment import Augmentation, soft_targets
from ray_synth.training.loop import Loop, autocast
from ray_synth.training.team import Team

AT_ONCE = 16  # models: what they take of memory grows with them, what they gain no longer does


def fit_each(
    sets: Sequence[ImageSource], validation: ImageSource, settings: Classifier, *, seeds: Sequence[int]
) -> Iterator[nn.Module]:
    """A classifier of each set of images, in evaluation mode on the CPU: what `fit` gives for that set alone.

    Networks without batch statistics are trained AT_ONCE together, all others one after the other.

    Raises:
        WorkError: a loss that is not finite.
    """
    if not goes_together(settings, sets):
        for images, seed in zip(sets, seeds, strict=True):
            yield fit(TrainingData.of_real(images), validation, settings, seed=seed).model
        return
    for start in range(0, len(sets), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        yield from _fitted_together(sets[part], validation, settings, seeds[part])


def goes_together(settings: Classifier, sets: Sequence[ImageSource]) -> bool:
    """Whether such trainings can be one: a network and an optimizer that keep the models apart, hard or smoothed
    labels, and as many updates for each set."""
    targets = settings.targets
    apart = settings.model in PLAIN and settings.optimizer != "lamb"  # which looks at the norm of a whole layer
    plain = not (targets.mixup or targets.cutmix or targets.binary)
    return apart and plain and len({num_updates(settings, len(images), 0) for images in sets}) == 1


class Stacked(nn.Module):
    """Models of one architecture as one: float [S,B,C,H,W], each model's own images, or [B,C,H,W] for all -> [S,B,K].

    A training of the sum of their losses trains each as it would be trained alone.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        weights, buffers = stack_module_state(list(models))
        self.names, self.buffer_names = list(weights), list(buffers)
        for place, name in enumerate(self.names):
            self.register_parameter(_plain(place), nn.Parameter(weights[name].detach().clone()))
        for place, name in enumerate(self.buffer_names):
            self.register_buffer(f"buffer_{place}", buffers[name], persistent=False)
        self._like = [copy.deepcopy(models[0]).to("meta")]  # in a list: it is no part of this module

    def train(self, mode: bool = True) -> Stacked:
        self._like[0].train(mode)
        super().train(mode)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        def one(weights: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor) -> Any:
            return functional_call(self._like[0], ({**weights, **buffers},), (x,))

        weights = {name: self.get_parameter(_plain(place)) for place, name in enumerate(self.names)}
        buffers = {name: self.get_buffer(f"buffer_{place}") for place, name in enumerate(self.buffer_names)}
        own = 0 if images.ndim == 5 else None
        logits: torch.Tensor = vmap(one, in_dims=(0, 0, own), randomness="different")(weights, buffers, images)
        return logits

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of every model's, [S,...] each, by their own names."""
        return {name: self.get_parameter(_plain(place)).detach().clone() for place, name in enumerate(self.names)}


def _plain(place: int) -> str:
    return f"weight_{place}"  # a parameter's own name may hold no dot


class _Best:
    """Each model's weights of its best validation pass so far, or of the last one."""

    def __init__(self, models: int, *, last: bool):
        self.accuracy, self.last = np.full(models, -np.inf), last
        self.weights: dict[str, torch.Tensor] = {}

    def see(self, accuracy: np.ndarray, weights: dict[str, torch.Tensor]) -> None:
        better = np.ones(len(accuracy), dtype=bool) if self.last else accuracy >= self.accuracy
        self.accuracy = np.where(better, accuracy, self.accuracy)
        for name, new in weights.items():
            rows = torch.from_numpy(better).to(new.device)
            self.weights[name] = new if better.all() else self.weights[name].clone().index_put((rows,), new[rows])

    def load(self, models: Sequence[nn.Module]) -> None:
        for place, model in enumerate(models):
            own = {name: stacked[place].cpu() for name, stacked in self.weights.items()}
            model.load_state_dict({**model.state_dict(), **own})
            model.eval()


def _fitted_together(
    sets: Sequence[ImageSource], validation: ImageSource, settings: Classifier, seeds: Sequence[int]
) -> list[nn.Module]:
    """As `fit` does it for each: the same seeds draw the same weights and batches."""
    team, first = Team(), sets[0]
    updates = num_updates(settings, len(first), 0)
    sides = [
        Side(
            images,
            np.zeros(len(images), dtype=np.int64),
            settings.batch_size,
            updates,
            derive_seed("real batches", seed),
            team.device,
        )
        for images, seed in zip(sets, seeds, strict=True)
    ]
    models = [
        build_model(settings, first.shape, first.class_names, seed=derive_seed("weights", seed)) for seed in seeds
    ]
    stacked = Stacked(models).to(team.device)
    changes, weight = Augmentation(**settings.augment.model_dump()), _weight(settings)

    def loss(step: int) -> torch.Tensor:
        torch.manual_seed(derive_seed("dropout", *seeds, step))
        batches = [side.batch(step, team, changes) for side in sides]
        labels = torch.cat([batch.labels for batch in batches])
        targets = soft_targets(labels, first.num_classes, settings.targets.label_smoothing)
        with autocast(team.device, settings.precision):
            logits = stacked(torch.stack([batch.images for batch in batches])).flatten(0, 1)
        entropy = nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
        return weight * entropy / settings.batch_size

    best = _Best(len(models), last=settings.keep == "last")
    with torch.random.fork_rng(devices=[]):
        loop = Loop(
            stacked,
            recipe_of(settings, updates),
            team=team,
            diverged="the loss of models trained together is {loss} at update {done}; lower classifier.learning_rate",
        )
        evaluate_at = evaluated_at(settings, updates)
        for done in loop.run(loss, kept_at=evaluate_at):
            if done in evaluate_at:
                with loop.averaged():
                    best.see(_accuracies(stacked, validation), stacked.weights())
    best.load(models)
    return models


def _weight(settings: Classifier) -> float:
    """Of real images' cross-entropy where there are no others."""
    return 1.0 if settings.weighting == "uniform" else settings.real_weight


@torch.inference_mode()
def _accuracies(stacked: Stacked, images: ImageSource) -> np.ndarray:
    """Each model's, [S]."""
    device, seen = next(stacked.parameters()).device, 0
    right = torch.zeros((), dtype=torch.float64, device=device)
    stacked.eval()
    for batch in images.batches():
        labels = torch.from_numpy(images.labels[seen : seen + len(batch)]).to(device)
        logits = stacked(to_model_range(torch.from_numpy(batch).to(device)))
        right, seen = right + (logits.argmax(-1) == labels).double().sum(1), seen + len(batch)
    stacked.train()
    accuracies: np.ndarray = (right / seen).cpu().numpy()
    return accuracies
