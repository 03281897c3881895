"""What is counted of diagnoses against those that a training makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ray_synth.classifier import diagnostics
from ray_synth.classifier.diagnostics import images_read
from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.train import fit, num_diagnoses
from ray_synth.config import Classifier
from ray_synth.data.images import ImageSet


@pytest.mark.parametrize(("real", "synthetic", "updates"), [(40, 90, 23), (40, 0, 23), (10, 10, 130)])
def test_a_training_reads_as_many_images_as_are_counted(
    real: int, synthetic: int, updates: int, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def logits_of(model: nn.Module, images: np.ndarray) -> torch.Tensor:
        seen.append(len(images))
        return torch.zeros(len(images), 10)

    monkeypatch.setattr(diagnostics, "SAMPLE", 50)  # of the larger side only a part is read
    monkeypatch.setattr(diagnostics, "logits_of", logits_of)
    data = TrainingData(
        real=digits.take(slice(0, real)),
        synthetic=digits.take(slice(100, 100 + synthetic)),
        real_regions=np.zeros(real, dtype=np.int64),
        synthetic_regions=np.zeros(synthetic, dtype=np.int64),
    )
    settings = Classifier(updates=updates, evaluations=1, batch_size=16, lambda_1=0.0, lambda_2=0.0)
    fitted = fit(data, digits.take(slice(200, 230)), settings, seed=0, diagnosed=True)
    assert len(fitted.history) == num_diagnoses(16, real, synthetic, updates) <= 100
    assert sum(seen) == len(fitted.history) * images_read(real, synthetic, 30)
