"""Test accuracy of the trained classifiers: mean and standard deviation over repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from ray_synth.classifier.predict import logits_of, top_accuracy
from ray_synth.data.source import ImageSource
from ray_synth.evaluators.context import EvaluationContext, Loader
from ray_synth.nodes import on_gpu_node


def final_accuracy(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """`accuracy/NAME` and `accuracy/NAME/std` (ddof=1; 0 for one repeat); top-5 as `accuracy_top5/NAME`, where there
    are more than five classes."""
    yield from on_gpu_node(_accuracies, context.classifiers, context.test)


def _accuracies(models: Iterable[tuple[str, Loader]], test: ImageSource) -> Iterator[tuple[str, float]]:
    """One classifier at a time is in memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, list[torch.Tensor]] = {}
    for name, load in models:
        found.setdefault(name, []).append(logits_of(load()[0].to(device), test))
    for name, repeats in found.items():
        values = [top_accuracy(logits, test.labels) for logits in repeats]
        yield f"accuracy/{name}", float(np.mean(values))
        yield f"accuracy/{name}/std", float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        if test.num_classes > 5:
            yield f"accuracy_top5/{name}", float(np.mean([top_accuracy(logits, test.labels, 5) for logits in repeats]))
