"""What the probe measures on all features of a pretrained network: a third kind that counts as the others do."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.bound import evidence as room
from ray_synth.bound.evidence import Families, Mix, gather
from ray_synth.bound.samples import numbered_samples
from ray_synth.data.images import ImageSet
from ray_synth.features import families as features_room
from ray_synth.features.encoders import encoder_of
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
    return Families(samples, features_room.families_of([each.taken for each in read], seed=0), 0)


def whole(digits: ImageSet, width: int) -> list[np.ndarray]:
    found = seen(digits, width).whole
    assert found is not None
    return list(found)


def test_ridge_regression_perceptrons_and_linear_layers_count_alike(digits: ImageSet) -> None:
    found = gather(seen(digits, 200), GRID, Mix("fill", None), balanced=False)
    plain, whitened, perceptron, linear = found.probes
    kinds = [(plain + whitened) / 2, perceptron, linear]
    assert found.importance @ found.scores == pytest.approx(np.mean(kinds, axis=0), abs=1e-9)
    assert (linear != perceptron).any()


def test_a_layer_of_many_classes_gets_fewer_projections_that_keep_distances(
    digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_WEIGHTS", 3000)  # of ten classes, so 300 features
    fits, narrowed = whole(digits, 300)[0], whole(digits, 900)[0]
    assert fits.shape == narrowed.shape == (60, 300)
    monkeypatch.setattr(room, "MOST_WEIGHTS", 10_000)
    apart, kept = (np.linalg.norm(x[:30] - x[30:], axis=1) for x in (whole(digits, 900)[0], narrowed))
    assert kept * np.sqrt(3) == pytest.approx(apart, rel=0.25)  # a third of the numbers, of one mean square


def test_both_rooms_name_the_family_alike() -> None:
    assert room.WHOLE == features_room.WHOLE
