"""How faithful synthetic images are: known shares of wrong labels are found; of very many images the first are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.evaluators import context, fidelity, seen
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.metrics.fidelity import frechet_distance
from ray_synth.metrics.spectrum import rapsd, rapsd_distance


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
    assert sum(name.startswith("label_fidelity/class/") for name in found) == 10


def test_of_classes_without_images_no_fidelity_is_said(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    real = splits.test.take(splits.test.labels == 3)
    monkeypatch.setattr(fidelity, "_network_judge", lambda *_: (np.where(np.arange(len(real)) % 2, 3, 1), 1.0))
    found = dict(fidelity.judged_fidelity(splits.generator, splits.test, real, seed=0))
    assert [name for name in found if "/class/" in name] == ["label_fidelity/class/3"]
    assert found["label_fidelity"] == found["label_fidelity/class/3"] == pytest.approx(0.5, abs=0.02)
    assert len(context.first_of(real, 20)) == 20


@pytest.mark.slow
def test_a_linear_judge_finds_wrong_labels_and_distances_know_the_same_images(splits: Splits) -> None:
    """Through the packaged network. 20 real digits a class are enough for it."""
    rows = np.concatenate([np.flatnonzero(splits.generator.labels == label)[:20] for label in range(10)])
    train, real = splits.generator.take(rows), splits.test.take(slice(100))
    wrong = np.arange(len(real)) % 3 == 0
    labels = np.where(wrong, (real.labels + 1) % 10, real.labels)
    generated = ImageSet(pixels=real.images(), labels=labels, class_names=real.class_names)
    word = "timm:tf_efficientnet_lite0"
    found = dict(fidelity.judged_fidelity(train, real, generated, seed=0, features=word))
    assert found["label_fidelity/judge_accuracy"] > 0.85
    assert found["label_fidelity"] == pytest.approx(2 / 3, abs=0.15)
    same, other = (
        dict(seen.feature_distance(replace(context_of(train, images), features=word))) for images in (train, generated)
    )
    far = other["feature_distance/frechet_shrunk"]
    assert same["feature_distance/frechet_shrunk"] == pytest.approx(0, abs=1e-3 * far)
    assert same["feature_distance/precision"] == same["feature_distance/recall"] == 1
    assert 0 < other["feature_distance/recall"] < 1
    assert "feature_distance/frechet_shrunk" in other  # 1,280 features of 200 images


def test_spectra_of_the_same_images_are_no_distance_apart(splits: Splits) -> None:
    assert dict(fidelity.spectral_distance(context_of(splits.test, splits.test)))["rapsd_distance"] == 0


def test_of_very_many_images_the_first_of_each_class_are_looked_at(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = context_of(splits.train, splits.test).synthetic
    assert whole is splits.test
    monkeypatch.setattr(context, "MOST_LOOKED_AT", 50)
    few = context_of(splits.train, splits.test).synthetic
    assert np.bincount(few.labels).tolist() == [5] * 10
    for label in range(10):
        first = splits.test.images()[splits.test.labels == label][:5]
        np.testing.assert_array_equal(few.images()[few.labels == label], first)


def test_a_judge_that_guesses_more_than_it_knows_is_not_repeated(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows a share k of the images and guesses the others: right on k + (1 - k) / classes."""
    for known in (0.0, 0.3, 1.0):
        assert fidelity.known_share(known + (1 - known) / 10, 10) == pytest.approx(known)
    for accuracy, said in ((0.54, False), (0.56, True)):  # a half is .55 of ten classes
        judged = [("label_fidelity", 0.9), ("label_fidelity/judge_accuracy", accuracy), ("label_fidelity/class/0", 0.9)]
        monkeypatch.setattr(fidelity, "judged_fidelity", lambda *sets, judged=judged, **how: iter(judged))
        context = context_of(splits.train, splits.test)
        found = dict(fidelity.label_fidelity(context))
        assert ("label_fidelity" in found, "label_fidelity/class/0" in found) == (said, said)
        assert found["label_fidelity/judge_accuracy"] == accuracy
        assert ("withheld" in context.details["label_fidelity"]) is not said


def test_distances_through_thumbnails_say_what_they_are(splits: Splits) -> None:
    """64 features: of 1,000 images the plain covariance, of the 48 of a class a shrunk one."""
    context = context_of(splits.generator, splits.test)
    found = dict(seen.feature_distance(context))
    real, other = (images.images().reshape(len(images), -1) / 255 for images in (splits.generator, splits.test))
    assert found["feature_distance/frechet"] == pytest.approx(frechet_distance(real, other))
    assert "feature_distance/frechet_shrunk" not in found
    assert {"frechet_shrunk", "kernel", "precision", "recall", "wasserstein"} == {
        name.rpartition("/")[2] for name in found if name.startswith("feature_distance/class/3/")
    }
    details = context.details["feature_distance"]
    assert details["encoder"] == "thumbnails of at most 16 pixels a side"
    assert "Ledoit & Wolf" in details["notes"][0]
    assert details["notes"][1:] == ["so it is with 9 more"]


def test_spectra_of_a_class_are_its_own(splits: Splits) -> None:
    found = dict(fidelity.spectral_distance(context_of(splits.train, splits.test)))
    sets = [images.images()[images.labels == 3] / 255 for images in (splits.train, splits.test)]
    assert found["rapsd_distance/class/3"] == pytest.approx(rapsd_distance(*map(rapsd, sets)))
