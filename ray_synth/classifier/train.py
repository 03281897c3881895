"""Mixed training data in, a trained classifier out: one `fit` for a Ray Train worker and a Tune trial alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ray_synth.classifier.losses import regularized_loss
from ray_synth.classifier.models import build_model
from ray_synth.config import Classifier
from ray_synth.data.images import ImageSet, first_per_class, synthetic_counts
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import InputError, WorkError
from ray_synth.partition import kmeans_partition
from ray_synth.seeding import derive_seed
from ray_synth.torch_ops import keep_freed_memory


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Real and synthetic images with the region of each: regions int64 [n] and [m]."""

    real: ImageSet
    synthetic: ImageSet
    real_regions: np.ndarray
    synthetic_regions: np.ndarray


def mix(
    real: ImageSet, synthetic: ImageSet, *, synthetic_ratio: float, num_clusters: int, iterations: int, seed: int
) -> TrainingData:
    """The training data at a ratio: all real images, the first round(ratio * n_c) synthetic ones of each class c, and
    k-means regions over both in pixel space.

    Raises:
        InputError: a ratio that asks for more synthetic images than there are.
    """
    counts = synthetic_counts(np.bincount(real.labels, minlength=real.num_classes), synthetic_ratio)
    available = np.bincount(synthetic.labels, minlength=real.num_classes)
    missing = int(np.maximum(counts - available, 0).sum())
    if missing:
        raise InputError(
            f"synthetic_ratio {synthetic_ratio:g} needs {missing} more synthetic image(s) than exist; "
            f"type --set generate.images_per_class={int(counts.max())}"
        )
    chosen = synthetic.take(first_per_class(synthetic.labels, counts))
    pixels = np.concatenate([real.images, chosen.images]).reshape(len(real) + len(chosen), -1)
    regions = kmeans_partition(
        pixels.astype(np.float32) / 255.0, min(num_clusters, len(pixels)), iterations=iterations, seed=seed
    ).regions
    return TrainingData(
        real=real, synthetic=chosen, real_regions=regions[: len(real)], synthetic_regions=regions[len(real) :]
    )


def fit(
    data: TrainingData,
    validation: ImageSet,
    settings: Classifier,
    *,
    seed: int,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    rank: int = 0,
    world_size: int = 1,
    report: Callable[[float], None] = lambda accuracy: None,
) -> tuple[nn.Module, float]:
    """Train a classifier with Eq. 7 and return it with its final validation accuracy.

    Every update takes half a batch of real and half a batch of synthetic images (a whole one where a side is empty);
    with `weighting: uniform` the real side's weight is n/m, so in expectation each image weighs the same.

    Args:
        prepare: wraps the model for distributed training (Ray Train's prepare_model).
        rank, world_size: this worker takes every world_size-th image of each batch.
        report: called with the validation accuracy, `settings.evaluations` times.
    """
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = data.real.images.shape[1:]
    model = build_model(settings.model, shape, data.real.num_classes, seed=derive_seed("weights", seed))
    model = model.to(device, memory_format=torch.channels_last)
    trained = prepare(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    updates = num_updates(settings, len(data.real), len(data.synthetic))
    both = len(data.real) > 0 and len(data.synthetic) > 0
    side = settings.batch_size // 2 if both else settings.batch_size
    real = _Side(data.real, data.real_regions, side, updates, derive_seed("real batches", seed), device)
    synthetic = _Side(
        data.synthetic, data.synthetic_regions, side, updates, derive_seed("synthetic batches", seed), device
    )
    real_weight = settings.real_weight
    if settings.weighting == "uniform":
        real_weight = len(data.real) / len(data.synthetic) if both else 1.0
    inputs = to_model_range(validation.images).to(device)
    accuracy = float("nan")
    evaluate_at = {math.ceil(updates * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
    trained.train()
    for step in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / updates))
        x_real, y_real, regions_real = real.batch(step, rank, world_size)
        x_synthetic, y_synthetic, regions_synthetic = synthetic.batch(step, rank, world_size)
        logits = trained(torch.cat([x_real, x_synthetic]))
        loss = regularized_loss(
            logits[: len(x_real)],
            logits[len(x_real) :],
            y_real,
            y_synthetic,
            regions_real,
            regions_synthetic,
            real_weight=real_weight,
            lambda_1=settings.lambda_1,
            lambda_2=settings.lambda_2,
            variant=settings.variant,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        optimizer.step()
        if step + 1 in evaluate_at:
            if not math.isfinite(loss.total.item()):
                raise WorkError(f"the loss is {loss.total.item()} at update {step + 1}; lower classifier.learning_rate")
            accuracy = float((logits_of(model, inputs).argmax(1).cpu().numpy() == validation.labels).mean())
            report(accuracy)
    return model.eval().to("cpu", memory_format=torch.contiguous_format), accuracy


def num_updates(settings: Classifier, num_real: int, num_synthetic: int) -> int:
    """Optimizer updates: the same at every ratio, or passes over the larger side (`budget: epochs`).

    At least one update for each evaluation.
    """
    if settings.budget == "updates":
        return settings.updates
    side = settings.batch_size // 2 if num_real and num_synthetic else settings.batch_size
    return max(settings.evaluations, settings.epochs * math.ceil(max(num_real, num_synthetic) / side))


@torch.inference_mode()
def logits_of(model: nn.Module, inputs: torch.Tensor, batch_size: int = 1024) -> torch.Tensor:
    """Logits [N,C] of model inputs [N,C,H,W], in evaluation mode."""
    was_training = model.training
    model.eval()
    logits = torch.cat([model(inputs[i : i + batch_size]) for i in range(0, len(inputs), batch_size)])
    model.train(was_training)
    return logits


class _Side:
    """One side's images and the order in which they come: shuffled passes, one after the other, fixed by the seed."""

    def __init__(self, images: ImageSet, regions: np.ndarray, batch_size: int, updates: int, seed: int, device: str):
        self.inputs = to_model_range(images.images).to(device, memory_format=torch.channels_last)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.regions = torch.from_numpy(regions).to(device)
        self.batch_size = batch_size if len(images) else 0
        passes = math.ceil(updates * self.batch_size / max(len(images), 1))
        rng = np.random.default_rng(seed)
        order = [rng.permutation(len(images)) for _ in range(passes)] or [np.zeros(0, dtype=np.int64)]
        self.order = torch.from_numpy(np.concatenate(order).astype(np.int64)).to(device)

    def batch(self, step: int, rank: int, world_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        start = step * self.batch_size
        rows = self.order[start + rank : start + self.batch_size : world_size]
        return self.inputs[rows], self.labels[rows], self.regions[rows]
