"""A batch's outputs in, two terms of Eq. 7 over all training data out (Nguyen et al., 2025, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from ray_synth.classifier.losses import Live, region_terms
from ray_synth.classifier.mixture import TrainingData
from ray_synth.partition import OnlineKMeans

EXACT = 2**28  # remembered numbers up to which they are float32; of more each is a float16
COPIES = 4  # of what is remembered that a worker holds while it keeps a checkpoint
AT_ONCE = 2**25  # numbers that a step takes from memory at once


class MemoryBank:
    """The last logits of every training sample, and regions that mini-batch k-means finds while training.

    A step's terms are those of all data: its own outputs live, the others as they were when last seen; pairs of two
    others have no gradient and are left out. Live outputs weigh n / B in the gradient, so that in expectation it is
    that of all outputs live.
    """

    def __init__(self, data: TrainingData, logits: torch.Tensor, *, variant: Literal["paper", "released"], seed: int):
        """logits: [n+m,C] of all samples before training, the real ones first, in the type in which they are kept
        (`kept_as`)."""
        self.num_real, self.variant, self.num_regions = len(data.real), variant, data.num_regions
        self.features: np.ndarray = np.asarray(data.features)
        rows = np.random.default_rng(seed).permutation(len(self.features))[: data.num_regions]
        self.kmeans = OnlineKMeans(self.features[rows])
        self.logits = logits.detach()
        self.regions = torch.from_numpy(self.kmeans.assign(self.features)).to(logits.device)

    def terms(self, logits: torch.Tensor, rows: torch.Tensor, num_real: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Discrepancy and robustness over all data, after the batch has moved the centroids.

        logits: [B,C], live, the first `num_real` of real samples; rows: [B], each sample's place among all.
        """
        self._move(rows, num_real)
        live = torch.zeros_like(self.regions, dtype=torch.bool)
        live[rows] = True
        sizes = [part.bincount(minlength=self.num_regions) for part in self.regions.tensor_split((self.num_real,))]
        own, found = logits.detach().float().requires_grad_(), torch.zeros(2, device=logits.device)
        slopes = [torch.zeros_like(own), torch.zeros_like(own)]
        for mine in self._parts(rows, sizes[0] + sizes[1]):
            here = mine[self.regions[rows]].nonzero()[:, 0]
            members = mine[self.regions].nonzero()[:, 0]
            real = int((members < self.num_real).sum())
            with torch.enable_grad():
                outputs = self.logits[members].float()
                outputs = outputs.index_put((torch.searchsorted(members, rows[here]),), own[here])
                sides = [part.tensor_split((real,)) for part in (outputs, self.regions[members], live[members])]
                terms = region_terms(*sides[0], *sides[1], variant=self.variant, live=Live(*sides[2], *sizes))
            found += torch.stack(terms).detach()
            for slope, term in zip(slopes, terms, strict=True):
                slope += torch.autograd.grad(term, own, retain_graph=True)[0]
        self.logits[rows] = logits.detach().to(self.logits.dtype)
        ours, theirs = self.num_real / max(num_real, 1), (len(live) - self.num_real) / max(len(rows) - num_real, 1)
        weights = torch.where(rows < self.num_real, ours, theirs)[:, None]
        discrepancy, robustness = (
            _Known.apply(logits, value, slope * weights)  # type: ignore[no-untyped-call]
            for value, slope in zip(found, slopes, strict=True)
        )
        return discrepancy, robustness

    def _move(self, rows: torch.Tensor, num_real: int) -> None:
        """Only synthetic samples move the centroids (line 13)."""
        moved = rows.cpu().numpy()
        real, synthetic = (self.features[part] for part in (moved[:num_real], moved[num_real:]))
        found = [self.kmeans.assign(real), *([self.kmeans.update(synthetic)] if len(synthetic) else [])]
        self.regions[rows] = torch.from_numpy(np.concatenate(found)).to(rows)

    def _parts(self, rows: torch.Tensor, sizes: torch.Tensor) -> Iterator[torch.Tensor]:
        """The regions of these rows, as many together as have AT_ONCE logits: bool [K] each. sizes: [K]."""
        touched = self.regions[rows].unique()
        parts = (sizes[touched].cumsum(0) - 1) * self.logits.shape[1] // AT_ONCE
        for part in parts.unique():
            mine = torch.zeros(self.num_regions, dtype=torch.bool, device=rows.device)
            mine[touched[parts == part]] = True
            yield mine

    def regions_of(self, data: TrainingData) -> TrainingData:
        """The same data in the regions as they stand."""
        real, synthetic = np.split(self.regions.cpu().numpy(), [self.num_real])
        return replace(data, real_regions=real, synthetic_regions=synthetic)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that it remembers."""
        return {
            "logits": self.logits.cpu().contiguous(),
            "regions": self.regions.cpu().contiguous(),
            "centroids": torch.from_numpy(self.kmeans.centroids.copy()),
            "counts": torch.from_numpy(self.kmeans.counts.copy()),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.logits = tensors["logits"].to(self.logits.device)
        self.regions = tensors["regions"].to(self.regions.device)
        self.kmeans = OnlineKMeans(tensors["centroids"].numpy(), tensors["counts"].numpy())


class _Known(torch.autograd.Function):
    """A value of which the gradient is known."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None, None


def kept_as(samples: int, classes: int) -> torch.dtype:
    """In which type so many logits are remembered."""
    return torch.float32 if samples * classes <= EXACT else torch.float16


def bytes_kept(samples: int, classes: int) -> int:
    """What so many logits take, once."""
    return samples * classes * kept_as(samples, classes).itemsize
