"""Training data in, a trained classifier out: one `fit` for a Ray Train worker and a Tune trial alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import torch as safetensors
from torch import nn

from ray_synth.classifier.augment import augment, mix_images, soft_targets
from ray_synth.classifier.diagnostics import diagnose
from ray_synth.classifier.losses import region_terms, regularized_loss
from ray_synth.classifier.memory import Memory
from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.models import build_model, load_trainable, trainable_state
from ray_synth.classifier.predict import accuracy_of, logits_of
from ray_synth.classifier.recipe import Ema, learning_rate, make_optimizer, optimizer_tensors, restore_optimizer
from ray_synth.config import Augment, Classifier
from ray_synth.data.images import ImageSet
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import InputError, WorkError
from ray_synth.seeding import derive_seed
from ray_synth.torch_ops import keep_freed_memory

MOST_DIAGNOSES = 100  # a small real set has an epoch every other update


class Checkpoints(Protocol):
    """Where a training keeps what it needs to go on after a kill."""

    def load(self) -> bytes | None: ...
    def save(self, data: bytes) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Team:
    """The workers of one training, and this one's device. `prepare` wraps the model (Ray Train's prepare_model)."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    prepare: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)


class Fitted(NamedTuple):
    """`accuracy` on the validation set; `history` has a row of named numbers per diagnosis, with its `update`; `data`
    is what was trained on, in the regions as they ended."""

    model: nn.Module
    accuracy: float
    history: list[dict[str, float]]
    data: TrainingData


def fit(
    data: TrainingData,
    validation: ImageSet,
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
    with `weighting: uniform` the real side's weight is n/m, so in expectation each image weighs the same. What step t
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
    keep_freed_memory()
    team = team or Team()
    with torch.random.fork_rng(devices=[]):
        training = _Training(data, validation, settings, seed=seed, team=team)
        start = training.restore(checkpoints.load()) if checkpoints is not None else 0
        updates = training.updates
        evaluate_at = {math.ceil(updates * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
        every = diagnosed_every(settings.batch_size, len(data.real), len(data.synthetic), updates)
        training.trained.train()
        for step in range(start, updates):
            done = step + 1
            try:
                loss = training.update(step)
            except InputError as error:  # logits that are not finite
                raise WorkError(f"update {done}: {error}; lower classifier.learning_rate") from None
            if diagnosed and team.rank == 0 and (done % every == 0 or done == updates):
                training.diagnose(done)
            if done in evaluate_at:
                if not math.isfinite(loss):
                    raise WorkError(f"the loss is {float(loss)} at update {done}; lower classifier.learning_rate")
                report(training.evaluate())
                if checkpoints is not None and team.rank == 0 and done < updates:
                    checkpoints.save(training.saved(done))
        return training.finished()


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


class _Training:
    """A training between two updates: all of its state, and the next update."""

    def __init__(self, data: TrainingData, validation: ImageSet, settings: Classifier, *, seed: int, team: Team):
        self.data, self.validation, self.settings, self.seed, self.team = data, validation, settings, seed, team
        self.device = team.device
        shape: tuple[int, int, int] = data.real.images.shape[1:]
        model = build_model(settings, shape, data.real.class_names, seed=derive_seed("weights", seed))
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained = team.prepare(self.model)
        self.optimizer = make_optimizer(self.model, settings)
        self.updates = num_updates(settings, len(data.real), len(data.synthetic))
        both = len(data.real) > 0 and len(data.synthetic) > 0
        batch = settings.batch_size // 2 if both else settings.batch_size
        self.sides = [
            _Side(images, regions, batch, self.updates, derive_seed(f"{name} batches", seed), self.device)
            for name, images, regions in (
                ("real", data.real, data.real_regions),
                ("synthetic", data.synthetic, data.synthetic_regions),
            )
        ]
        self.real_weight = settings.real_weight
        if settings.weighting == "uniform":
            self.real_weight = len(data.real) / len(data.synthetic) if both else 1.0
        self.regularized = both and (settings.lambda_1 > 0 or settings.lambda_2 > 0)
        self.ema = Ema(self.model, settings.ema_decay) if settings.ema_decay else None
        self.memory: Memory | None = None
        if settings.algorithm == "lightweight" and self.regularized:
            logits = torch.cat([logits_of(self.model, images.images) for images in (data.real, data.synthetic)])
            self.memory = Memory(
                data, logits.to(self.device), variant=settings.variant, seed=derive_seed("centroids", seed)
            )
        self.best: dict[str, torch.Tensor] = {}
        self.accuracy = float("nan")
        self.history: list[dict[str, float]] = []

    def update(self, step: int) -> float | torch.Tensor:
        """One update; gives its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step, self.updates)
        torch.manual_seed(derive_seed("dropout", self.seed, step, self.team.rank))
        batches = [side.batch(step, self.team, self.settings.augment) for side in self.sides]
        loss = self._loss(step, *batches)
        self.optimizer.zero_grad(set_to_none=True)
        # Each worker holds its own outputs alive in a loss over all workers' outputs, and DDP averages.
        (loss * self.team.size if self._gathers else loss).backward()
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model, step)
        return loss.detach()

    @property
    def _gathers(self) -> bool:
        return self.team.size > 1 and self.settings.gather

    def _loss(self, step: int, real: _Batch, synthetic: _Batch) -> torch.Tensor:
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
        return self._total(real, synthetic, logits, logits, labels, apart=targets.binary or self.memory is not None)

    def _mixed(self, step: int, place: int, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        targets = self.settings.targets
        soft = soft_targets(batch.labels, self.data.real.num_classes, targets.label_smoothing)
        return mix_images(batch.images, soft, targets, derive_seed("mix", self.seed, step, place, self.team.rank))

    def _logits(self, inputs: torch.Tensor) -> torch.Tensor:
        half = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if half else nullcontext():
            logits: torch.Tensor = self.trained(inputs)
        return logits.float()

    def _total(
        self,
        real: _Batch,
        synthetic: _Batch,
        logits: torch.Tensor,
        clean: torch.Tensor,
        labels: list[torch.Tensor],
        *,
        apart: bool,
    ) -> torch.Tensor:
        """Eq. 7. apart: cross-entropy and the two terms do not look at the same outputs, or not in the same way."""
        sizes = [len(real.labels), len(synthetic.labels)]
        rows = [real.rows, synthetic.rows + len(self.data.real)]
        regions = [real.regions, synthetic.regions]
        outputs, clean_outputs = list(logits.split(sizes)), list(clean.split(sizes))
        if self._gathers:
            same = logits is clean
            outputs = [_gathered(part, self.team) for part in outputs]
            clean_outputs = outputs if same else [_gathered(part, self.team) for part in clean_outputs]
            labels, regions, rows = (
                [_gathered(part, self.team) for part in parts] for parts in (labels, regions, rows)
            )
        s = self.settings
        weights: dict[str, Any] = {"real_weight": self.real_weight, "lambda_1": s.lambda_1, "lambda_2": s.lambda_2}
        if not apart and self.regularized:
            return regularized_loss(*outputs, *labels, *regions, variant=s.variant, **weights).total
        discrepancy = robustness = logits.new_zeros(())
        if self.memory is not None:
            discrepancy, robustness = self.memory.terms(torch.cat(clean_outputs), torch.cat(rows), len(rows[0]))
        elif self.regularized:
            discrepancy, robustness = region_terms(*clean_outputs, *regions, variant=s.variant)
        entropies = [_cross_entropy(z, y, binary=s.targets.binary) for z, y in zip(outputs, labels, strict=True)]
        return self.real_weight * entropies[0] + entropies[1] + s.lambda_1 * discrepancy + s.lambda_2 * robustness

    def evaluate(self) -> float:
        """Validation accuracy; the weights are kept if they are to be. Gives the accuracy of what is kept."""
        with self.ema.applied(self.model) if self.ema is not None else nullcontext():
            accuracy = accuracy_of(self.model, self.validation)
            if self.settings.keep == "last" or not self.best or accuracy >= self.accuracy:
                self.best, self.accuracy = trainable_state(self.model), accuracy
        return self.accuracy

    def diagnose(self, done: int) -> None:
        with self.ema.applied(self.model) if self.ema is not None else nullcontext():
            self.history.append({"update": float(done), **diagnose(self.model, self._data(), self.validation)})

    def _data(self) -> TrainingData:
        return self.memory.regions_of(self.data) if self.memory is not None else self.data

    def saved(self, done: int) -> bytes:
        """Everything that the next update depends on."""
        tensors = {"progress": torch.tensor([done, self.accuracy], dtype=torch.float64)}
        for part, values in self._parts().items():
            tensors |= {f"{part}/{name}": tensor for name, tensor in values.items()}
        if self.history:
            names = list(self.history[0])
            tensors |= {f"history/{name}": torch.tensor([row[name] for row in self.history]).double() for name in names}
        return safetensors.save(tensors)

    def _parts(self) -> dict[str, Mapping[str, torch.Tensor]]:
        return {
            "model": trainable_state(self.model),
            "optimizer": optimizer_tensors(self.optimizer),
            "best": self.best,
            "ema": self.ema.tensors() if self.ema is not None else {},
            "memory": self.memory.tensors() if self.memory is not None else {},
        }

    def restore(self, data: bytes | None) -> int:
        """Go on from a checkpoint; gives the number of updates it holds."""
        if data is None:
            return 0
        parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in (*self._parts(), "history")}
        tensors = safetensors.load(data)
        done, self.accuracy = tensors.pop("progress").tolist()
        for key, tensor in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = tensor
        load_trainable(self.model, parts["model"])
        restore_optimizer(self.optimizer, parts["optimizer"])
        self.best = parts["best"]
        if self.ema is not None:
            self.ema.restore(parts["ema"])
        if self.memory is not None:
            self.memory.restore(parts["memory"])
        columns = parts["history"]
        rows = len(columns["update"]) if columns else 0
        self.history = [{name: float(column[i]) for name, column in columns.items()} for i in range(rows)]
        return int(done)

    def finished(self) -> Fitted:
        load_trainable(self.model, self.best)
        return Fitted(
            self.model.eval().to("cpu", memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            self.accuracy,
            self.history,
            self._data(),
        )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, *, binary: bool) -> torch.Tensor:
    """Mean over one side, 0 where it is empty."""
    if not len(logits):
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, targets) if binary else F.cross_entropy(logits, targets)


def _gathered(part: torch.Tensor, team: Team) -> torch.Tensor:
    """Every worker's part, one after the other: the own one alive, the others as constants."""
    import torch.distributed as dist

    parts = [torch.empty_like(part) for _ in range(team.size)]
    dist.all_gather(parts, part.detach().contiguous())
    parts[team.rank] = part
    return torch.cat(parts)


class _Batch(NamedTuple):
    images: torch.Tensor  # float [B,C,H,W] in [-1, 1]
    labels: torch.Tensor
    regions: torch.Tensor
    rows: torch.Tensor  # places in the side


class _Side:
    """One side's images and the order in which they come: shuffled passes, one after the other, fixed by the seed."""

    def __init__(
        self, images: ImageSet, regions: np.ndarray, batch_size: int, updates: int, seed: int, device: torch.device
    ):
        self.images = torch.from_numpy(np.ascontiguousarray(images.images)).to(device)  # bytes, a quarter of floats
        self.labels = torch.from_numpy(images.labels).to(device)
        self.regions = torch.from_numpy(regions).to(device)
        self.seed = seed
        self.batch_size = batch_size if len(images) else 0
        passes = math.ceil(updates * self.batch_size / max(len(images), 1))
        rng = np.random.default_rng(seed)
        order = [rng.permutation(len(images)) for _ in range(passes)] or [np.zeros(0, dtype=np.int64)]
        self.order = np.concatenate(order).astype(np.int64)

    def batch(self, step: int, team: Team, changes: Augment) -> _Batch:
        """This worker's share of a batch. A change of an image follows from its place in the order."""
        start = step * self.batch_size
        places = np.arange(start + team.rank, start + self.batch_size, team.size)
        rows = torch.from_numpy(self.order[places]).to(self.images.device)
        images = augment(to_model_range(self.images[rows]), changes, places + self.seed % 2**62)
        return _Batch(images, self.labels[rows], self.regions[rows], rows)
