"""How faithful synthetic images are: known shares of wrong labels are found; of very many images the first are read."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.evaluators import context, fidelity
from ray_synth.evaluators.context import EvaluationContext


def context_of(train: ImageSet, synthetic: ImageSet) -> EvaluationContext:
    return EvaluationContext(
        classifiers=(),
        train=train,
        test=train,
        read_all_but_test=lambda: train,
        read_synthetic=lambda: synthetic,
        seed=0,
    )


def test_the_share_of_wrong_labels_is_found(splits: Splits) -> None:
    """Real digits as a generator's, of which every third bears the next digit's label."""
    real = splits.validation
    wrong = np.arange(len(real)) % 3 == 0
    labels = np.where(wrong, (real.labels + 1) % 10, real.labels)
    generated = ImageSet(pixels=real.images(), labels=labels, class_names=real.class_names)
    found = dict(fidelity.judged_fidelity(splits.generator, splits.test, generated, seed=0))
    assert found["label_fidelity"] == pytest.approx(2 / 3, abs=0.05)
    assert found["label_fidelity/judge_accuracy"] > 0.9


def test_spectra_of_the_same_images_are_no_distance_apart(splits: Splits) -> None:
    assert dict(fidelity.spectral_distance(context_of(splits.test, splits.test)))["rapsd_distance"] == 0


def test_of_very_many_images_the_first_of_each_class_are_looked_at(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert context.looked_at(splits.test) is splits.test
    monkeypatch.setattr(context, "MOST_LOOKED_AT", 50)
    few = context.looked_at(splits.test)
    assert np.bincount(few.labels).tolist() == [5] * 10
    for label in range(10):
        first = splits.test.images()[splits.test.labels == label][:5]
        np.testing.assert_array_equal(few.images()[few.labels == label], first)
