"""The benchmark of time steps: what its generator is, and claims and a picture of a law that is put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tests.benchmarks import timesteps
from tests.benchmarks.timesteps import CLASSES, RATIOS, REAL, STEPS, Measured


def test_sets_are_disjoint_and_their_prefixes_balanced() -> None:
    sets, _ = timesteps.drawn(0)
    assert [len(y) for _, y in sets.values()] == [100, 800, 800]
    images = {tuple(image) for x, _ in sets.values() for image in x}
    assert len(images) == 1700
    for name in ("real", "pool"):
        for end in (10, 50, 100):
            assert (np.bincount(sets[name][1][:end], minlength=CLASSES) == end // CLASSES).all()


def test_the_noise_of_a_step_is_that_of_the_linear_schedule() -> None:
    grey = np.full((200, 64), 0.1)
    found = [timesteps.noised(grey, step, np.random.default_rng(0)) for step in STEPS]
    assert (found[0] == grey).all()
    kept = np.array([1, 0.954, 0.678, 0.219])  # ᾱ at 0, 50, 150 and 300 of 600 steps from 1e-4 to .02
    assert [each.mean() for each in found[:3]] == pytest.approx(0.1 * np.sqrt(kept[:3]), abs=0.01)
    assert found[1].var() == pytest.approx(1 - kept[1], rel=0.05)


def test_a_law_that_is_put_in_comes_out_as_claims_and_a_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ratios, steps = np.log2(1 + np.asarray(RATIOS)), np.arange(len(STEPS))
    of_class = np.linspace(0.1, 0.4, CLASSES)  # how far each class is
    fidelity = 0.05 - steps[:, None] * of_class[None, :] * 0.1
    recall = (
        0.8
        + fidelity[None, :, None, :] * ratios[None, None, :, None] * 0.5
        + rng.normal(scale=0.01, size=(40, len(STEPS), len(RATIOS), CLASSES))
    )
    found = Measured(
        recall=recall,
        distances={name: np.tile(steps + 1.0, (40, 1)) for name in ("RAPSD", "FID", "W2", "MMD")},
        of_class=np.tile((0.5 + steps[:, None]) * of_class, (40, 1, 1)),
    )
    assert all(claim.holds for claim in timesteps.claims(found))
    timesteps.draw(found, tmp_path / "steps.png")
    assert imread(tmp_path / "steps.png")[..., :3].std() > 0.05
    assert REAL * max(RATIOS) == 800
