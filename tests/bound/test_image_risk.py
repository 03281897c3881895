"""The theories on images: exact risk without bias, by oracles of large samples and by its own closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.bound.image_risk import ExactRiskTerms, LabelGap, exact_risk_on_images, stability_on_images
from ray_synth.bound.kernel_ridge import exact_risk, shifted_bias

D, CLASSES = 40, 5
OURS, OTHER = (np.random.default_rng(seed).normal(size=(D, CLASSES)) for seed in (99, 98))


def drawn(n: int, seed: int, turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a law; `turn` it away from ours, in radians."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) / np.sqrt(1 + np.arange(D))
    logits = 2 * x @ (OURS * np.cos(turn) + OTHER * np.sin(turn))
    return x, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def terms(*sets: tuple[np.ndarray, np.ndarray], num_real: int) -> ExactRiskTerms:
    features, labels = zip(*sets, strict=True)
    return exact_risk_on_images(features, labels, num_classes=CLASSES, num_real=num_real, max_ratio=16.0)


@pytest.mark.parametrize("turn", [0.0, 0.5, 1.2])
def test_what_labels_differ_by_is_that_of_large_samples(turn: float) -> None:
    """Clipped mode by mode, 200 images of one law would differ by ten times what 20,000 do."""
    n = 200
    found = [terms(drawn(n, seed), drawn(1000, 100 + seed, turn), num_real=n) for seed in range(16)]
    truth = [terms(drawn(20_000, 50 + seed), drawn(1000, 100 + seed, turn), num_real=n) for seed in range(4)]
    mean, expected = np.mean([t.residual for t in found]), np.mean([t.residual for t in truth])
    assert mean == pytest.approx(expected, abs=0.02 + 0.1 * expected)


@pytest.mark.parametrize("n", [50, 400])
def test_images_of_the_same_law_are_used_without_limit(n: int) -> None:
    ratios = [terms(drawn(n, seed), drawn(1000, 100 + seed), num_real=n).ratio for seed in range(9)]
    assert np.median(ratios) == 16.0
    assert terms(drawn(n, 0), drawn(1000, 100, 1.2), num_real=n).ratio < 0.2


def test_for_another_domain_labels_of_that_are_wanted() -> None:
    """Synthetic images label as the target does, the real ones do not: useless at home, all one wants there."""
    real, there = drawn(200, 0), drawn(1000, 100, 1.2)
    home, away = terms(real, there, num_real=200), terms(real, there, drawn(400, 7, 1.2), num_real=200)
    assert home.ratio < 0.2
    assert away.ratio == 16.0
    assert (home.shift, away.shift) == (0.0, pytest.approx(home.residual, rel=0.2))
    same = terms(real, there, drawn(400, 8), num_real=200)
    assert same.ratio < 0.2
    assert same.shift < 0.05


def test_the_risk_is_the_closed_forms() -> None:
    rng = np.random.default_rng(0)
    mu = (1.0 + np.arange(30)) ** -2.0
    ours, theirs, meant = rng.normal(size=(3, 30)) * np.sqrt(mu)
    gap = LabelGap(
        mu=mu,
        squares=(ours - theirs) ** 2,
        shift=(meant - ours) ** 2,
        across=(meant - theirs) * (meant - ours),
        away=(meant - theirs) ** 2,
        noise=0.3,
    )
    home = LabelGap(mu=mu, squares=gap.squares, shift=0 * mu, across=0 * mu, away=gap.squares, noise=0.3)
    for strength in (0.01, 0.3, 4.0):
        expected = exact_risk(mu, ours - theirs, noise_variance=0.3, num_real=80, strength=strength)
        assert home.risk(80, strength) == pytest.approx(expected)
        # So many images that neither the noise nor the effective ridge differ from the population's.
        assert gap.risk(10**9, strength) == pytest.approx(
            shifted_bias(ours, meant, theirs, mu, strength=strength), rel=1e-4
        )


def test_the_stability_bound_knows_neither_scale_nor_origin() -> None:
    """The same images through an encoder of another norm are the same distance apart."""
    real, synthetic, target = drawn(80, 0)[0], drawn(400, 1)[0] + 0.3, drawn(200, 2)[0] - 0.1
    plain = stability_on_images(real, synthetic, num_real=80, max_ratio=16.0, target=target)
    moved = [7.0 * each - 100.0 for each in (real, synthetic, target)]
    scaled = stability_on_images(*moved[:2], num_real=80, max_ratio=16.0, target=moved[2])
    for name in ("ratio", "distance", "dimension", "shift"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-6)
