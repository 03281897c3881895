"""A batch's outputs in, two terms of Eq. 7 over all training data out (Nguyen et al., 2025, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from ray_synth.classifier.losses import region_terms
from ray_synth.classifier.mixture import TrainingData
from ray_synth.partition import OnlineKMeans


class MemoryBank:
    """The last logits of every training sample, and regions that mini-batch k-means finds while training.

    A step's terms are those of all data: its own outputs live, the others as they were when last seen; pairs of two
    others have no gradient and are left out. Live outputs weigh n / B in the gradient, so that in expectation it is
    that of all outputs live.
    """

    def __init__(self, data: TrainingData, logits: torch.Tensor, *, variant: Literal["paper", "released"], seed: int):
        """logits: [n+m,C] of all samples before training, the real ones first."""
        self.num_real, self.variant = len(data.real), variant
        self.features: np.ndarray = np.asarray(data.features)
        rows = np.random.default_rng(seed).permutation(len(self.features))[: data.num_regions]
        self.kmeans = OnlineKMeans(self.features[rows])
        self.logits = logits.detach().float()
        self.regions = torch.from_numpy(self.kmeans.assign(self.features)).to(logits.device)

    def terms(self, logits: torch.Tensor, rows: torch.Tensor, num_real: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Discrepancy and robustness over all data, after the batch has moved the centroids.

        logits: [B,C], live, the first `num_real` of real samples; rows: [B], each sample's place among all.
        """
        moved = rows.cpu().numpy()
        self.regions[rows[:num_real]] = torch.from_numpy(self.kmeans.assign(self.features[moved[:num_real]])).to(rows)
        if len(moved) > num_real:  # only synthetic samples move the centroids (line 13)
            self.regions[rows[num_real:]] = torch.from_numpy(self.kmeans.update(self.features[moved[num_real:]])).to(
                rows
            )
        sizes = (self.num_real, len(self.logits) - self.num_real)
        live = [
            _weighing(part, size / max(len(part), 1))
            for part, size in zip(logits.float().tensor_split((num_real,)), sizes, strict=True)
        ]
        everything = self.logits.index_put((rows,), torch.cat(live))
        self.logits[rows] = logits.detach().float()
        touched = torch.zeros_like(self.regions, dtype=torch.bool)
        touched[rows] = True
        sides = [part.tensor_split((self.num_real,)) for part in (everything, self.regions, touched)]
        return region_terms(*sides[0], *sides[1], variant=self.variant, live=sides[2])

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


def _weighing(outputs: torch.Tensor, factor: float) -> torch.Tensor:
    """The same values, whose gradient is multiplied by `factor`."""
    return outputs * factor + outputs.detach() * (1 - factor)
