"""Networks of the probe against what is known: labels by chance, wrong labels that ridge regression forgives, stripes
that no linear reading tells apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ray_synth.bound import networks
from ray_synth.bound.networks import Kind, network_scores
from ray_synth.bound.pilot import Pilot
from ray_synth.bound.probe import HeldOut, Ridge
from ray_synth.data.images import ImageSet
from ray_synth.features.families import families_of, whole_features


def clouds(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian clouds that are 3 standard deviations apart, in 20 dimensions. [count,20], [count]"""
    labels = np.arange(count) % 2
    return rng.normal(size=(count, 20)) + 3 * labels[:, None] * np.eye(20)[0] - 1.5 * np.eye(20)[0], labels


def scores(
    real: np.ndarray, labels: np.ndarray, synthetic: np.ndarray, made: np.ndarray, counts: list[int]
) -> np.ndarray:
    """Mean over the real images at each number of synthetic ones a class."""
    pilot = Pilot(made, np.array([[count, count] for count in counts]))
    held = HeldOut(labels, rows=np.arange(len(labels)))
    kind: Kind = "convolutional" if real.ndim == 4 else "perceptron"
    weight = np.ones(len(counts))
    found = network_scores(kind, [real, synthetic], labels, pilot, held, real_weight=weight, seeds=1, seed=0)
    assert found.shape == (len(real), len(counts))
    means: np.ndarray = found.mean(axis=0)
    return means


def test_wrong_labels_are_learnt_by_heart_where_ridge_regression_averages_them_away() -> None:
    lost = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        (real, labels), (synthetic, made) = clouds(60, rng), clouds(240, rng)
        wrong = np.where(rng.uniform(size=240) < 0.4, 1 - made, made)
        count = int(np.bincount(wrong).min())
        pilot, held = Pilot(wrong, np.array([[count, count]])), HeldOut(labels, rows=np.arange(60))
        ridge = Ridge(real, labels, synthetic, 2).scores(pilot, held, real_weight=np.ones(1), penalties=(0.1,)).mean()
        lost.append(ridge - scores(real, labels, synthetic, wrong, [count])[0])
    assert np.mean(lost) > 3 * np.std(lost) / np.sqrt(5)
    assert np.mean(lost) > 0.05


def test_a_linear_layer_on_all_features_learns_by_heart_what_a_few_components_average_away(digits: ImageSet) -> None:
    """A thousand features of digits, 100 real ones, and 500 of which every other has a wrong label: logistic regression
    loses a quarter of the accuracy, which leading components do not tell."""
    rng = np.random.default_rng(0)
    pixels = digits.images().reshape(len(digits), -1) / 255.0
    features = np.maximum((pixels - 0.3) @ rng.normal(size=(64, 1000)) + rng.normal(size=1000), 0)
    rows = rng.permutation(len(digits))
    real, made, test = rows[:100], rows[100:600], rows[600:]
    labels, wrong = digits.labels[real], (digits.labels[made] + rng.integers(0, 10, 500) * (np.arange(500) % 2)) % 10
    sets = [features[real], features[made]]
    families, whole = families_of(sets, seed=0), whole_features(sets)
    assert whole is not None
    counts = np.bincount(wrong, minlength=10)
    pilot, held = Pilot(wrong, counts[None]), HeldOut(labels, rows=np.arange(100))

    def said(kind: Kind, seen: Sequence[np.ndarray]) -> float:
        return float(network_scores(kind, seen, labels, pilot, held, real_weight=np.ones(1), seeds=1, seed=0).mean())

    oracle = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    oracle.fit(features[np.concatenate([real, made])], np.concatenate([labels, wrong]))
    truth = oracle.score(features[test], digits.labels[test])
    assert truth < 0.7
    linear, perceptron = said("linear", whole), said("perceptron", families["features"])
    assert abs(linear - truth) < 0.12
    assert perceptron > max(truth, linear) + 0.05


def stripes(count: int, rng: np.random.Generator, side: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Lying (0) and standing (1) stripes of any phase: both classes have one mean. [count,side,side,1], [count]"""
    labels = np.arange(count) % 2
    phase = rng.uniform(0, 2 * np.pi, count)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * np.arange(side)[None] * 3 / side + phase[:, None])
    lying = np.repeat(wave[:, :, None], side, axis=2)
    images = np.where(labels[:, None, None] == 0, lying, lying.transpose(0, 2, 1))
    return images[..., None] + rng.normal(0, 0.05, (count, side, side, 1)), labels


def test_convolutions_learn_what_pixels_alone_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "CONVOLVED_UPDATES", 600)
    (real, labels), (more, made) = stripes(40, np.random.default_rng(0)), stripes(200, np.random.default_rng(1))
    of_images = scores(real, labels, more, made, [0, 80])
    pilot, held = Pilot(made, np.array([[0, 0], [80, 80]])), HeldOut(labels, rows=np.arange(40))
    ridge = Ridge(real.reshape(40, -1), labels, more.reshape(200, -1), 2)
    linear = ridge.scores(pilot, held, real_weight=np.ones(2), penalties=(0.1,)).mean(axis=0)
    assert of_images[1] > 0.9
    assert of_images[1] > linear[1] + 0.2


@pytest.mark.parametrize("shape", [(20,), (5, 4, 1)], ids=["features", "images"])
def test_an_image_is_judged_by_networks_that_never_saw_it(shape: tuple[int, ...]) -> None:
    """Labels by chance: learnt by heart they would score 1."""
    rng = np.random.default_rng(5)
    real, labels, made = rng.normal(size=(60, *shape)), rng.permutation(np.arange(60) % 2), np.arange(60) % 2
    assert (abs(scores(real, labels, np.zeros((60, *shape)), made, [0, 10]) - 0.5) < 0.25).all()


@pytest.mark.parametrize("draw", [clouds, stripes])
def test_the_same_seed_gives_the_same_scores(draw: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    real, labels = draw(20, np.random.default_rng(6))
    once, again = (scores(real, labels, real, labels, [0, 5]) for _ in range(2))
    assert (once == again).all()
