"""Classifiers that are trained at once are those that are trained one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_synth.classifier import together
from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.models import build_model
from ray_synth.classifier.predict import logits_of
from ray_synth.classifier.together import Stacked, fit_each, goes_together
from ray_synth.classifier.train import fit
from ray_synth.config import Classifier
from ray_synth.data.splits import Splits

QUICK = Classifier(updates=6, evaluations=2, batch_size=16)
RECIPES = {
    "plain": {},
    "smoothed, augmented, averaged": {
        "targets": {"label_smoothing": 0.1},
        "augment": {"flip": 0.5, "resized_crop": [0.5, 1.0]},
        "ema_decay": 0.9,
        "keep": "last",
    },
    "sgd, fixed weights": {"optimizer": "sgd", "learning_rate": 0.02, "weighting": "fixed", "real_weight": 2.0},
    "one after the other": {"targets": {"mixup": 0.2}},
}


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_at_once_is_one_after_the_other(splits: Splits, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts, the second one smaller; sets of different sizes."""
    monkeypatch.setattr(together, "AT_ONCE", 2)
    settings = Classifier.model_validate({**QUICK.model_dump(), **RECIPES[recipe]})
    sets = [splits.train.take(np.arange(start, start + size)) for start, size in ((0, 40), (30, 25), (50, 50))]
    assert goes_together(settings, sets) == (recipe != "one after the other")
    found = list(fit_each(sets, splits.validation, settings, seeds=[5, 6, 7]))
    for model, images, seed in zip(found, sets, (5, 6, 7), strict=True):
        alone = fit(TrainingData.of_real(images), splits.validation, settings, seed=seed).model
        torch.testing.assert_close(logits_of(model, splits.test), logits_of(alone, splits.test), atol=2e-4, rtol=2e-4)
        assert not model.training
    first, second = (logits_of(model, splits.test) for model in found[:2])
    assert (first - second).abs().max() > 0.1


def test_what_cannot_be_kept_apart_is_trained_alone(splits: Splits) -> None:
    sets = [splits.train.take(slice(0, 40)), splits.train.take(slice(40, 100))]
    assert goes_together(QUICK, sets)
    for changed in ({"model": "resnet18"}, {"optimizer": "lamb"}, {"targets": {"binary": True}}):
        assert not goes_together(Classifier.model_validate({**QUICK.model_dump(), **changed}), sets)
    by_epochs = QUICK.model_copy(update={"budget": "epochs", "batch_size": 50, "epochs": 3})
    assert not goes_together(by_epochs, sets)  # 3 and 6 updates
    assert goes_together(by_epochs, [sets[0], sets[0]])


@pytest.mark.parametrize("model", ["small_cnn", "compact_cnn"])
def test_a_stack_says_what_each_of_its_models_says(splits: Splits, model: str) -> None:
    settings = Classifier(model=model, image_size=12)  # behind a change of size, which has buffers
    models = [build_model(settings, splits.train.shape, splits.train.class_names, seed=s).eval() for s in (1, 2)]
    stacked = Stacked(models).eval()
    images = torch.rand(2, 3, 1, 8, 8) * 2 - 1
    own, shared = stacked(images), stacked(images[0])
    for place, each in enumerate(models):
        torch.testing.assert_close(own[place], each(images[place]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(shared[place], each(images[0]), atol=1e-5, rtol=1e-5)
