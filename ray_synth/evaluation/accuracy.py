"""Classifiers by name in, their test accuracy out: mean and standard deviation over repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from ray_synth.classifier.predict import logits_of, top_accuracy
from ray_synth.data.images import ImageSet


def final_accuracy(models: Mapping[str, Sequence[nn.Module]], test: ImageSet) -> Iterator[tuple[str, float]]:
    """Yields `accuracy/NAME` and `accuracy/NAME/std` (ddof=1; 0 for one repeat); top-5 as `accuracy_top5/NAME`, where
    there are more than five classes."""
    for name, repeats in models.items():
        logits = [logits_of(model, test.images) for model in repeats]
        values = [top_accuracy(found, test.labels) for found in logits]
        yield f"accuracy/{name}", float(np.mean(values))
        yield f"accuracy/{name}/std", float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        if test.num_classes > 5:
            yield f"accuracy_top5/{name}", float(np.mean([top_accuracy(found, test.labels, 5) for found in logits]))
