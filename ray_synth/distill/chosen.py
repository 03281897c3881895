"""Images of a class and what the teacher sees in them in, those that stand for the class out: the baselines."""

from __future__ import annotations

import numpy as np
from torch import nn

from ray_synth.config import Method
from ray_synth.data.source import ImageSource
from ray_synth.distill import coresets
from ray_synth.distill.squeeze import ClassSummary


def chosen_images(
    method: Method, images: ImageSource, number: int, summary: ClassSummary, teacher: nn.Module, *, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 [number,H,W,C], and the places [number] of those that are real ones as they are; None for cut ones.

    images: of one class, at least as many as are asked for.
    """
    choose = {"random": coresets.random, "herding": coresets.herding, "k_center": coresets.k_center}[method]
    rows = choose(summary.features, number, seed)
    return images.images(rows), rows
