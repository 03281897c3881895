"""A classifier and its data in, the terms of its bound and its accuracy out (Nguyen et al., 2025, Figure 2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.bound.prediction_space import Side, prediction_space_bound
from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.predict import logits_of
from ray_synth.data.source import ImageSource

SAMPLE = 2048  # images a side, at most: the terms are means


def images_read(num_real: int, num_synthetic: int, validation: int) -> int:
    """Images that one diagnosis puts through the network."""
    sides = min(num_real, SAMPLE) + min(num_synthetic, SAMPLE) if num_real and num_synthetic else 0
    return validation + sides


def diagnose(model: nn.Module, data: TrainingData, validation: ImageSource) -> dict[str, float]:
    """Named numbers: `accuracy`, `accuracy/class/NAME`, and, with both sides, Theorem 3.3's terms as `bound/NAME`.

    What needs the real distribution stays out: the term of real robustness, and with it the total.
    """
    right = logits_of(model, validation).argmax(1).numpy() == validation.labels
    found = {"accuracy": float(right.mean())}
    for label, name in enumerate(validation.class_names):
        members = right[validation.labels == label]
        if len(members):
            found[f"accuracy/class/{name}"] = float(members.mean())
    if not len(data.real) or not len(data.synthetic):
        return found
    sides = []
    for images, regions in ((data.real, data.real_regions), (data.synthetic, data.synthetic_regions)):
        rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(np.int64))
        some = images.take(rows)
        logits = logits_of(model, some)
        losses = F.cross_entropy(logits, torch.from_numpy(some.labels), reduction="none")
        sides.append(
            Side(
                outputs=logits.softmax(1).numpy(),
                losses=losses.numpy(),
                regions=regions[rows],
                share=len(rows) / len(images),
            )
        )
    terms = prediction_space_bound(*sides, num_regions=data.num_regions)
    known = {name: value for name, value in terms.to_dict().items() if name not in ("real_robustness", "total")}
    return found | {f"bound/{name}": value for name, value in known.items()}
