"""What the probe measures on all features of an encoder: a third kind that counts as the others do."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.bound import evidence as room
from ray_synth.bound.evidence import Families, Mix, gather
from ray_synth.bound.networks import network_scores
from ray_synth.bound.pilot import Pilot
from ray_synth.bound.probe import HeldOut
from ray_synth.bound.samples import numbered_samples
from ray_synth.data.images import ImageSet
from ray_synth.features.encoders import encoder_of
from ray_synth.features.families import families_of, whole_features
from ray_synth.features.reading import read_set

GRID = np.array([0.0, 0.5, 1.0])  # no further than the synthetic images reach


def seen(digits: ImageSet, width: int) -> Families:
    """60 real digits and 240 others through a random layer of so many units."""
    rng = np.random.default_rng(0)
    kernel, rows = rng.normal(size=(64, width)), rng.permutation(len(digits))
    encoder = encoder_of(lambda images: np.maximum(images.reshape(len(images), -1) / 255.0 @ kernel, 0))
    sets = [digits.take(rows[:60]), digits.take(rows[60:300])]
    read = [read_set(source, encoder) for source in sets]
    samples = numbered_samples(*((each.stats, source.labels) for each, source in zip(read, sets, strict=True)), None)
    taken = [each.taken for each in read]
    return Families(samples, families_of(taken, seed=0), 0, whole_features(taken))


def whole(digits: ImageSet, width: int) -> list[np.ndarray]:
    found = seen(digits, width).whole
    assert found is not None
    return list(found)


def test_ridge_regression_perceptrons_and_linear_layers_count_alike(digits: ImageSet) -> None:
    families = seen(digits, 200)
    found = gather(families, GRID, Mix("fill", None), balanced=False)
    plain, whitened, perceptron, linear = found.probes
    kinds = [(plain + whitened) / 2, perceptron, linear]
    assert found.importance @ found.scores == pytest.approx(np.mean(kinds, axis=0), abs=1e-9)
    samples = families.samples
    pilot, held = Pilot(samples.synthetic_labels, samples.asked(GRID, "fill")), HeldOut(found.labels, np.arange(60))
    asked = "linear", whole(digits, 200), samples.real_labels, pilot, held
    alone = network_scores(*asked, real_weight=np.ones(3), seeds=2, seed=0)
    assert found.importance @ alone == pytest.approx(linear)


def test_few_features_are_no_third_kind(digits: ImageSet) -> None:
    """Components are all that there is of them, and a linear layer would only tell less apart than the others."""
    assert seen(digits, 64).whole is None
    assert len(gather(seen(digits, 64), GRID, Mix("fill", None), balanced=False).probes) == 3


def test_a_layer_of_many_classes_gets_fewer_projections_that_keep_distances(
    digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_WEIGHTS", 3000)  # of ten classes, so 300 features
    fits, narrowed = whole(digits, 300)[0], whole(digits, 900)[0]
    assert fits.shape == narrowed.shape == (60, 300)
    monkeypatch.setattr(room, "MOST_WEIGHTS", 10_000)
    apart, kept = (np.linalg.norm(x[:30] - x[30:], axis=1) for x in (whole(digits, 900)[0], narrowed))
    assert kept * np.sqrt(3) == pytest.approx(apart, rel=0.25)  # a third of the numbers, of one mean square
    monkeypatch.setattr(room, "MOST_WEIGHTS", 1270)
    assert seen(digits, 900).whole is None  # as many as there are components would say less than these
