"""Networks of the probe against what is known: stripes that no linear reading tells apart, labels by chance."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.bound.networks import network_scores
from ray_synth.bound.pilot import Pilot
from ray_synth.bound.probe import HeldOut, ridge_scores


def stripes(count: int, rng: np.random.Generator, side: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Lying (0) and standing (1) stripes of any phase: both classes have one mean. [count,side,side,1], [count]"""
    labels = np.arange(count) % 2
    phase = rng.uniform(0, 2 * np.pi, count)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * np.arange(side)[None] * 3 / side + phase[:, None])
    lying = np.repeat(wave[:, :, None], side, axis=2)
    images = np.where(labels[:, None, None] == 0, lying, lying.transpose(0, 2, 1))
    return images[..., None] + rng.normal(0, 0.05, (count, side, side, 1)), labels


def scores(
    real: np.ndarray, labels: np.ndarray, synthetic: np.ndarray, made: np.ndarray, counts: list[int]
) -> np.ndarray:
    """Mean over the real images at each number of synthetic ones a class."""
    pilot = Pilot(made, np.array([[count, count] for count in counts]))
    held = HeldOut(labels, rows=np.arange(len(labels)))
    found = network_scores(real, labels, synthetic, pilot, held, real_weight=np.ones(len(counts)), seeds=1, seed=0)
    assert found.shape == (len(real), len(counts))
    return found.mean(axis=0)


def test_convolutions_learn_what_pixels_alone_do_not_tell() -> None:
    real, labels = stripes(40, np.random.default_rng(0))
    more, made = stripes(200, np.random.default_rng(1))
    of_images = scores(real, labels, more, made, [0, 80])
    flat, more_flat = real.reshape(40, -1), more.reshape(200, -1)
    pilot = Pilot(made, np.array([[0, 0], [80, 80]]))
    linear = ridge_scores(
        flat, labels, more_flat, pilot, HeldOut(labels, rows=np.arange(40)), real_weight=np.ones(2), penalties=(0.1,)
    ).mean(axis=0)
    assert of_images[1] > 0.9
    assert of_images[1] > linear[1] + 0.2


@pytest.mark.parametrize("flat", [False, True])
def test_an_image_is_judged_by_networks_that_never_saw_it(flat: bool) -> None:
    """Labels by chance: learnt by heart they would score 1."""
    rng = np.random.default_rng(5)
    real, labels = rng.uniform(size=(60, 8, 8, 3)), rng.permutation(np.arange(60) % 2)
    made = np.arange(60) % 2
    if flat:
        real = real.reshape(60, -1)
    found = scores(real, labels, real[::-1].copy() * 0, made, [0, 10])
    assert (abs(found - 0.5) < 0.25).all()


def test_the_same_seed_gives_the_same_scores() -> None:
    real, labels = stripes(20, np.random.default_rng(6))
    once, again = (scores(real, labels, real, labels, [0, 5]) for _ in range(2))
    assert (once == again).all()
