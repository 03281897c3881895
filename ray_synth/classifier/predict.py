"""What a classifier says of images, batch by batch in evaluation mode; its accuracy over images or over classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ray_synth.data.source import BATCH, ImageSource
from ray_synth.data.transforms import to_model_range


@torch.inference_mode()
def logits_of(model: nn.Module, images: ImageSource | np.ndarray, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """Images, or uint8 [N,H,W,C] -> logits [N,K] on the CPU, in evaluation mode and where the model is."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    array = images.images if isinstance(images, ImageSource) else images.__getitem__
    parts = [
        model(to_model_range(torch.from_numpy(array(slice(start, start + BATCH))).to(device))).to("cpu", kind)
        for start in range(0, len(images), BATCH)
    ]
    model.train(was_training)
    return torch.cat(parts)


def balanced_accuracy(logits: torch.Tensor, labels: np.ndarray) -> float:
    """Mean over the classes of the share of a class that is classified right: [N,K], [N]."""
    right = (logits.argmax(1).numpy() == labels).astype(np.float64)
    counts = np.bincount(labels)
    return float((np.bincount(labels, weights=right)[counts > 0] / counts[counts > 0]).mean())


def accuracy_of(model: nn.Module, images: ImageSource) -> float:
    """Top-1."""
    return float((logits_of(model, images).argmax(1).numpy() == images.labels).mean())
