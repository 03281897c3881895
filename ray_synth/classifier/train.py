"""Training data in, a trained classifier out: one `fit` for a Ray Train worker and a Tune trial alike."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.classifier.diagnostics import diagnose
from ray_synth.classifier.losses import region_terms, regularized_loss
from ray_synth.classifier.memory_bank import MemoryBank, kept_as
from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.models import build_model, load_trainable
from ray_synth.classifier.predict import accuracy_of, logits_of
from ray_synth.classifier.sides import Batch, Side
from ray_synth.config import Classifier
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError, WorkError
from ray_synth.seeding import derive_seed
from ray_synth.training.augment import Augmentation, mix_images, soft_targets
from ray_synth.training.checkpoint import Checkpoints, Stateful, trainable_state
from ray_synth.training.loop import Loop, autocast
from ray_synth.training.recipe import Recipe, Schedule
from ray_synth.training.team import Team

MOST_DIAGNOSES = 100  # a small real set has an epoch every other update


class Fitted(NamedTuple):
    """`accuracy` on the validation set; `history` has a row of named numbers per diagnosis, with its `update`
    (`waiting`: the share of the time that images were waited for, where they are read while training); `data` is what
    was trained on, in the regions as they ended."""

    model: nn.Module
    accuracy: float
    history: list[dict[str, float]]
    data: TrainingData


def fit(
    data: TrainingData,
    validation: ImageSource,
    settings: Classifier,
    *,
    seed: int,
    team: Team | None = None,
    report: Callable[[float], None] = lambda accuracy: None,
    checkpoints: Checkpoints | None = None,
    diagnosed: bool = False,
) -> Fitted:
    """Train a classifier with Eq. 7.

    Every update takes half a batch of real and half a batch of synthetic images (a whole one where a side is empty);
    with `weighting: uniform` the sides weigh n/(n+m) and m/(n+m), so in expectation each image weighs the same and the
    loss has one size at every ratio. What step t
    draws follows from the seed and t alone, so a training that was killed and goes on from its checkpoint ends in the
    same weights.

    Args:
        team: each worker takes every size-th image of each batch.
        report: called with the validation accuracy, `settings.evaluations` times: of the weights kept so far.
        checkpoints: written at each of those.
        diagnosed: also take the bound's terms and the accuracy of each class, twice per epoch or a hundred times.

    Raises:
        WorkError: a loss that is not finite.
    """
    team = team or Team()
    with torch.random.fork_rng(devices=[]):
        training = _Training(data, validation, settings, seed=seed, team=team)
        loop = training.loop
        updates = loop.recipe.updates
        evaluate_at = evaluated_at(settings, updates)
        every = diagnosed_every(settings.batch_size, len(data.real), len(data.synthetic), updates)
        loop.resume(checkpoints)
        for done in loop.run(training.loss, kept_at=evaluate_at, checkpoints=checkpoints):
            team.shown(done, updates, training.waited)
            if diagnosed and team.rank == 0 and (done % every == 0 or done == updates):
                training.diagnose(done)
            if done in evaluate_at:
                report(training.evaluate())
        return training.finished()


def evaluated_at(settings: Classifier, updates: int) -> set[int]:
    """Numbers of updates after which the validation set is looked at."""
    return {math.ceil(updates * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}


def updates_per_epoch(batch_size: int, num_real: int, num_synthetic: int) -> int:
    """Updates in which the larger side is seen once."""
    side = batch_size // 2 if num_real and num_synthetic else batch_size
    return math.ceil(max(num_real, num_synthetic) / side)


def diagnosed_every(batch_size: int, num_real: int, num_synthetic: int, updates: int) -> int:
    """Updates between two diagnoses: half an epoch, or a hundredth of the training where that is longer."""
    epoch = updates_per_epoch(batch_size, num_real, num_synthetic)
    return max(1, epoch // 2, math.ceil(updates / MOST_DIAGNOSES))


def num_diagnoses(batch_size: int, num_real: int, num_synthetic: int, updates: int) -> int:
    """How often a training is diagnosed, its last update included."""
    return math.ceil(updates / diagnosed_every(batch_size, num_real, num_synthetic, updates))


def num_updates(settings: Classifier, num_real: int, num_synthetic: int) -> int:
    """Optimizer updates: the same at every ratio, or passes over the larger side (`budget: epochs`).

    At least one update for each evaluation.
    """
    if settings.budget == "updates":
        return settings.updates
    return max(settings.evaluations, settings.epochs * updates_per_epoch(settings.batch_size, num_real, num_synthetic))


def recipe_of(settings: Classifier, updates: int) -> Recipe:
    """The classifier section's optimizer, schedule and average, over so many updates."""
    schedule = settings.schedule
    return Recipe(
        updates=updates,
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        schedule=Schedule(
            name=schedule.name,
            warmup=round(schedule.warmup * updates),
            milestones=tuple(round(milestone * updates) for milestone in schedule.milestones),
            gamma=schedule.gamma,
        ),
        ema_decay=settings.ema_decay,
    )


class _Kept:
    """The weights that are kept so far with their accuracy, and what was measured on the way."""

    def __init__(self) -> None:
        self.best: dict[str, torch.Tensor] = {}
        self.accuracy = float("nan")
        self.history: list[dict[str, float]] = []

    def tensors(self) -> dict[str, torch.Tensor]:
        history = bytearray(json.dumps(self.history).encode())  # text, for its exact numbers in their order
        return {
            "accuracy": torch.tensor(self.accuracy, dtype=torch.float64),
            "history": torch.frombuffer(history, dtype=torch.uint8),
            **{f"best/{name}": tensor for name, tensor in self.best.items()},
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.accuracy, self.history = float(tensors["accuracy"]), json.loads(tensors["history"].numpy().tobytes())
        self.best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}


class _Training:
    """A classifier's training: its loop, the loss of an update, and what is kept of it."""

    def __init__(self, data: TrainingData, validation: ImageSource, settings: Classifier, *, seed: int, team: Team):
        self.data, self.validation, self.settings, self.seed, self.team = data, validation, settings, seed, team
        model = build_model(settings, data.real.shape, data.real.class_names, seed=derive_seed("weights", seed))
        self.model: nn.Module = model.to(team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        both = len(data.real) > 0 and len(data.synthetic) > 0
        self.weights = (settings.real_weight, 1.0)  # of the two sides' cross-entropies
        if settings.weighting == "uniform":
            images = len(data.real) + len(data.synthetic)
            self.weights = (len(data.real) / images, len(data.synthetic) / images)
        self.regularized = both and (settings.lambda_1 > 0 or settings.lambda_2 > 0)
        self.kept = _Kept()
        also: dict[str, Stateful] = {"kept": self.kept}
        self.bank: MemoryBank | None = None
        if settings.algorithm == "lightweight" and self.regularized:
            kind = kept_as(len(data.real) + len(data.synthetic), data.real.num_classes)
            logits = torch.cat([logits_of(self.model, images, kind) for images in (data.real, data.synthetic)])
            place = derive_seed("centroids", seed)
            self.bank = also["bank"] = MemoryBank(data, logits.to(team.device), variant=settings.variant, seed=place)
        self.gathers = team.size > 1 and settings.gather
        updates = num_updates(settings, len(data.real), len(data.synthetic))
        self.loop = Loop(
            self.model,
            recipe_of(settings, updates),
            team=team,
            also=also,
            gathers=self.gathers,
            diverged="the loss is {loss} at update {done}; lower classifier.learning_rate",
        )
        batch = settings.batch_size // 2 if both else settings.batch_size
        self.began = time.perf_counter()
        self.changes = Augmentation(**settings.augment.model_dump())
        self.sides = [
            Side(images, regions, batch, updates, derive_seed(f"{name} batches", seed), team.device)
            for name, images, regions in (
                ("real", data.real, data.real_regions),
                ("synthetic", data.synthetic, data.synthetic_regions),
            )
        ]

    def loss(self, step: int) -> torch.Tensor:
        """Eq. 7 of update `step`'s batches. Raises WorkError for logits that are not finite."""
        torch.manual_seed(derive_seed("dropout", self.seed, step, self.team.rank))
        batches = [side.batch(step, self.team, self.changes) for side in self.sides]
        try:
            return self._loss(step, *batches)
        except InputError as error:
            raise WorkError(f"update {step + 1}: {error}; lower classifier.learning_rate") from None

    def _loss(self, step: int, real: Batch, synthetic: Batch) -> torch.Tensor:
        targets, classes = self.settings.targets, self.data.real.num_classes
        clean = torch.cat([real.images, synthetic.images])
        if targets.mixup or targets.cutmix:
            # A mixed image belongs to no region: the two terms look at the clean ones, in the same pass.
            mixed, soft = zip(
                *(self._mixed(step, place, batch) for place, batch in enumerate((real, synthetic))), strict=True
            )
            inputs = torch.cat([*mixed, clean]) if self.regularized else torch.cat(mixed)
            logits = self._logits(inputs)
            mixed_logits, logits = logits[: len(clean)], logits[len(inputs) - len(clean) :]
            return self._total(real, synthetic, mixed_logits, logits, list(soft), apart=True)
        logits = self._logits(clean)
        labels = [real.labels, synthetic.labels]
        if targets.label_smoothing or targets.binary:
            labels = [soft_targets(y, classes, targets.label_smoothing) for y in labels]
        return self._total(real, synthetic, logits, logits, labels, apart=targets.binary or self.bank is not None)

    def _mixed(self, step: int, place: int, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        targets = self.settings.targets
        soft = soft_targets(batch.labels, self.data.real.num_classes, targets.label_smoothing)
        seed = derive_seed("mix", self.seed, step, place, self.team.rank)
        return mix_images(batch.images, soft, mixup=targets.mixup, cutmix=targets.cutmix, seed=seed)

    def _logits(self, inputs: torch.Tensor) -> torch.Tensor:
        with autocast(self.team.device, self.settings.precision):
            logits: torch.Tensor = self.loop.trained(inputs)
        return logits.float()

    def _total(
        self,
        real: Batch,
        synthetic: Batch,
        logits: torch.Tensor,
        clean: torch.Tensor,
        labels: list[torch.Tensor],
        *,
        apart: bool,
    ) -> torch.Tensor:
        """Eq. 7. apart: cross-entropy and the two terms do not look at the same outputs, or not in the same way."""
        first = (len(real.labels),)
        rows = [real.rows, synthetic.rows + len(self.data.real)]
        regions = [real.regions, synthetic.regions]
        outputs, clean_outputs = list(logits.tensor_split(first)), list(clean.tensor_split(first))
        if self.gathers:
            same = logits is clean
            gathered = self.team.gathered
            outputs = [gathered(part) for part in outputs]
            clean_outputs = outputs if same else [gathered(part) for part in clean_outputs]
            labels, regions, rows = ([gathered(part) for part in parts] for parts in (labels, regions, rows))
        s = self.settings
        if not apart and self.regularized:
            loss = regularized_loss(*outputs, *labels, *regions, variant=s.variant)
            return self._weighted(loss.real, loss.synthetic, loss.discrepancy, loss.robustness)
        discrepancy = robustness = logits.new_zeros(())
        if self.bank is not None:
            discrepancy, robustness = self.bank.terms(torch.cat(clean_outputs), torch.cat(rows), len(rows[0]))
        elif self.regularized:
            discrepancy, robustness = region_terms(*clean_outputs, *regions, variant=s.variant)
        ours, theirs = (_cross_entropy(z, y, binary=s.targets.binary) for z, y in zip(outputs, labels, strict=True))
        return self._weighted(ours, theirs, discrepancy, robustness)

    def _weighted(
        self, real: torch.Tensor, synthetic: torch.Tensor, discrepancy: torch.Tensor, robustness: torch.Tensor
    ) -> torch.Tensor:
        """Eq. 7; with uniform weights over 1 + λ, which makes its cross-entropies the mean over all images: neither the
        learning rate nor λ₁ and λ₂ then mean something else at another ratio."""
        ours, theirs = self.weights
        regularizers = self.settings.lambda_1 * discrepancy + self.settings.lambda_2 * robustness
        return ours * real + theirs * synthetic + regularizers

    def evaluate(self) -> float:
        """Validation accuracy; the weights are kept if they are to be. Gives the accuracy of what is kept."""
        kept = self.kept
        with self.loop.averaged():
            accuracy = accuracy_of(self.model, self.validation)
            if self.settings.keep == "last" or not kept.best or accuracy >= kept.accuracy:
                kept.best, kept.accuracy = trainable_state(self.model), accuracy
        return kept.accuracy

    def diagnose(self, done: int) -> None:
        with self.loop.averaged():
            row = diagnose(self.model, self._data(), self.validation)
        if (share := self.waited) is not None:
            row["waiting"] = share
        self.kept.history.append({"update": float(done), **row})

    @property
    def waited(self) -> float | None:
        """The share of the time so far that images were waited for; None where they are in memory."""
        if all(side.pixels is not None for side in self.sides):
            return None
        return sum(side.waited for side in self.sides) / max(time.perf_counter() - self.began, 1e-9)

    def _data(self) -> TrainingData:
        return self.bank.regions_of(self.data) if self.bank is not None else self.data

    def finished(self) -> Fitted:
        load_trainable(self.model, self.kept.best)
        return Fitted(
            self.model.eval().to("cpu", memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            self.kept.accuracy,
            self.kept.history,
            self._data(),
        )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, *, binary: bool) -> torch.Tensor:
    """Mean over one side, 0 where it is empty."""
    if not len(logits):
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, targets) if binary else F.cross_entropy(logits, targets)
