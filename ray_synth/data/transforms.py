"""The range of pixels in which every model here takes its images."""

from __future__ import annotations

import torch


def to_model_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N,H,W,C] -> float [N,C,H,W] in [-1, 1], on the same device; rows stay in memory as they lie."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
