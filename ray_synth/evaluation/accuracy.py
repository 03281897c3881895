"""Classifiers by name in, their test accuracy out: mean and standard deviation over repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import nn

from ray_synth.classifier.predict import logits_of, top_accuracy
from ray_synth.data.images import ImageSet


def final_accuracy(
    models: Iterable[tuple[str, Callable[[], tuple[nn.Module, float]]]], test: ImageSet
) -> Iterator[tuple[str, float]]:
    """models: (name, what loads the classifier and its validation accuracy), repeats under the same name; one at a
    time is in memory.

    Yields `accuracy/NAME` and `accuracy/NAME/std` (ddof=1; 0 for one repeat); top-5 as `accuracy_top5/NAME`, where
    there are more than five classes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, list[torch.Tensor]] = {}
    for name, load in models:
        found.setdefault(name, []).append(logits_of(load()[0].to(device), test.images))
    for name, repeats in found.items():
        values = [top_accuracy(logits, test.labels) for logits in repeats]
        yield f"accuracy/{name}", float(np.mean(values))
        yield f"accuracy/{name}/std", float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        if test.num_classes > 5:
            yield f"accuracy_top5/{name}", float(np.mean([top_accuracy(logits, test.labels, 5) for logits in repeats]))
