"""Real images and a teacher in; of each class the exact BatchNorm statistics and the features of its images out."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ray_synth.data.source import ImageSource
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import InputError, WorkError

BATCH = 128  # images of a class at once: `released` statistics are of such batches


class Seen(NamedTuple):
    """What a teacher sees in B images. features: what goes into its last linear layer, [B,F]. means, variances: of what
    goes into each BatchNorm layer, of each image's own pixels, [B,c] a layer."""

    logits: torch.Tensor
    features: torch.Tensor
    means: list[torch.Tensor]
    variances: list[torch.Tensor]


class Tapped:
    """A frozen classifier in evaluation mode that also gives its features and the moments before its BatchNorm layers.

    exact: moments in float64.

    Raises:
        InputError: a model without BatchNorm, or without a linear layer.
    """

    def __init__(self, model: nn.Module, *, exact: bool = False):
        self.model, self.exact = model.eval().requires_grad_(False), exact
        self.norms = norm_layers(model)
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise InputError(
                "the teacher has no linear layer to take features before; type --set distill.teacher.model=resnet18"
            )
        self.last = linear[-1]

    def _moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Variance and mean of each image's own pixels."""
        x = x.double() if self.exact else x
        pixels = tuple(range(2, x.ndim))
        return torch.var_mean(x, pixels, correction=0) if pixels else (torch.zeros_like(x), x)

    def __call__(self, images: torch.Tensor) -> Seen:
        """images: float [B,C,H,W] in [-1, 1]."""
        moments, features = list[tuple[torch.Tensor, torch.Tensor]](), list[torch.Tensor]()
        # For this pass alone: others ask the same model too, and nothing is kept of what it says to them.
        with ExitStack() as hooks:
            for norm in self.norms:
                looked = norm.register_forward_pre_hook(lambda _, inputs: moments.append(self._moments(inputs[0])))
                hooks.callback(looked.remove)
            looked = self.last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].flatten(1)))
            hooks.callback(looked.remove)
            logits = self.model(images)
        variances, means = zip(*moments, strict=True)
        return Seen(logits, features[-1], list(means), list(variances))

    @functools.cached_property
    def global_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The running statistics of all layers, one after the other: those of all classes together. [D], [D]"""
        means = [norm.running_mean for norm in self.norms if norm.running_mean is not None]
        variances = [norm.running_var for norm in self.norms if norm.running_var is not None]
        return torch.cat(means), torch.cat(variances)


def norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a model, in its own order. Raises InputError where it has none."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not norms:
        raise InputError(
            "distill.teacher.model must have BatchNorm layers, whose statistics the images are to have, and this one "
            "has none; type --set distill.teacher.model=resnet18 (or resnet20 for small images)"
        )
    return norms


class Moments:
    """Mean and variance of channels over images that come batch by batch, each image as its own mean and variance.

    In one pass and in float64: the variance of all is the mean of the variances within and the variance of the means
    (law of total variance; Chan et al., 1983).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray = np.zeros(0)
        self.squares: np.ndarray = np.zeros(0)  # sum of squared distances to the mean, a pixel's share of each image
        self.within: np.ndarray = np.zeros(0)  # sum of the variances of batches, times their images

    def add(self, means: np.ndarray, variances: np.ndarray) -> None:
        """means, variances: float64 [b,D], of as many pixels in each image."""
        number, mean = len(means), means.mean(axis=0)
        squares = variances.sum(axis=0) + ((means - mean) ** 2).sum(axis=0)
        if not self.count:
            self.mean, self.squares, self.within = np.zeros_like(mean), np.zeros_like(mean), np.zeros_like(mean)
        total, step = self.count + number, mean - self.mean
        self.squares += squares + step**2 * (self.count * number / total)
        self.within += squares
        self.mean += step * (number / total)
        self.count = total

    def variance(self, variant: str = "paper") -> np.ndarray:
        """[D]. released: the mean of the batches' variances, without the variance of their means."""
        return (self.squares if variant == "paper" else self.within) / self.count


class ClassSummary(NamedTuple):
    """What the teacher sees in a class: BatchNorm statistics of all layers one after the other, float32 [D], and the
    features of its images, float32 [n,F], and its logits, [n,K]."""

    mean: torch.Tensor
    variance: torch.Tensor
    features: np.ndarray
    logits: np.ndarray


@torch.no_grad()
def summary_of_class(tapped: Tapped, images: ImageSource, variant: str = "paper") -> ClassSummary:
    """images: of one class, in their order, which fixes the batches of `released`.

    Raises:
        WorkError: features that are not finite.
    """
    moments, features, logits = Moments(), list[torch.Tensor](), list[torch.Tensor]()
    for seen in _batches(tapped, images):
        moments.add(*(torch.cat(parts, dim=1).double().cpu().numpy() for parts in (seen.means, seen.variances)))
        features.append(seen.features.float().cpu())
        logits.append(seen.logits.float().cpu())
    found = torch.cat(features).numpy()
    if not np.isfinite(found).all():
        raise WorkError(
            f"{int((~np.isfinite(found)).any(axis=1).sum()):,} of {len(found):,} images have features that are not "
            "finite: the teacher is broken; lower distill.teacher.learning_rate"
        )
    mean, variance = (torch.from_numpy(part).float() for part in (moments.mean, moments.variance(variant)))
    return ClassSummary(mean, variance, found, torch.cat(logits).numpy())


def _batches(tapped: Tapped, images: ImageSource) -> Iterable[Seen]:
    device = next(tapped.model.parameters()).device
    for batch in images.batches(BATCH):
        yield tapped(to_model_range(torch.from_numpy(batch).to(device)))
