"""Classifiers by name in, their test accuracy out: mean and standard deviation over repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from ray_synth.classifier.train import logits_of
from ray_synth.data.images import ImageSet
from ray_synth.data.transforms import to_model_range


def final_accuracy(models: Mapping[str, Sequence[nn.Module]], test: ImageSet) -> Iterator[tuple[str, float]]:
    """Yields `accuracy/NAME` and `accuracy/NAME/std` (ddof=1; 0 for one repeat)."""
    inputs = to_model_range(test.images)
    for name, repeats in models.items():
        values = [float((logits_of(model, inputs).argmax(1).numpy() == test.labels).mean()) for model in repeats]
        yield f"accuracy/{name}", float(np.mean(values))
        yield f"accuracy/{name}/std", float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
