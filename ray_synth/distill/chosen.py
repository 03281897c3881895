"""Images of a class and what the teacher sees in them in, those that stand for the class out: the baselines."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ray_synth.config import Method
from ray_synth.data.source import ImageSource
from ray_synth.distill import coresets
from ray_synth.distill.patches import patchwork
from ray_synth.distill.squeeze import ClassSummary

CORESETS = {"random": coresets.random, "herding": coresets.herding, "k_center": coresets.k_center}
FACTOR, CROPS = 2, 5  # RDED's: crops a side of an image, and crops of each real one
MOST_LOOKED_AT = 300  # real images of a class that crops are taken of, at least as many as are needed


def chosen_images(
    method: Method, images: ImageSource, number: int, summary: ClassSummary, teacher: nn.Module, *, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 [number,H,W,C], and the places [number] of those that are real ones as they are; None for stitched ones.

    images: of one class, at least as many as are asked for.
    """
    if method != "rded":
        rows = CORESETS[method](summary.features, number, seed)
        return images.images(rows), rows
    device = next(teacher.parameters()).device
    most = max(MOST_LOOKED_AT, number * FACTOR**2)
    looked_at = images.take(np.sort(np.random.default_rng(seed).permutation(len(images))[:most]))

    def said(crops: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = teacher(crops.to(device))
        return logits

    crops = max(CROPS, -(-number * FACTOR**2 // len(looked_at)))
    made = patchwork(looked_at.images(), looked_at.labels, said, number, factor=FACTOR, crops=crops, seed=seed)
    return made.images, None
