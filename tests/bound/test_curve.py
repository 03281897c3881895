"""Curves, intervals and verdicts against worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from ray_synth.bound.curve import (
    Posterior,
    discrepancy_covariance,
    fine_ratios,
    near_best_interval,
    ratio_grid,
    verdict_of,
)
from ray_synth.errors import InputError

from ..estimates import curve_of, estimate_of

RATIOS = fine_ratios(16.0)


def test_the_interval_is_the_shortest_that_holds_a_near_best_ratio_often_enough() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(200, 12)).cumsum(axis=1) * 0.004
    pick = int(draws.mean(axis=0).argmax())
    near = draws >= draws.max(axis=1, keepdims=True) - 0.003
    held = {(i, j): near[:, i : j + 1].any(axis=1).mean() for i in range(pick + 1) for j in range(pick, draws.shape[1])}
    first, last = near_best_interval(draws, pick, 0.8)
    assert held[first, last] >= 0.8
    assert last - first == min(j - i for (i, j), share in held.items() if share >= 0.8)


def test_a_flat_curve_has_a_short_interval_and_a_noisy_one_a_long_one() -> None:
    rng = np.random.default_rng(0)
    flat = np.zeros((100, 65)) + rng.normal(size=(100, 1))
    assert near_best_interval(flat, 30, 0.9) == (30, 30)
    rough = rng.normal(size=(100, 65))
    first, last = near_best_interval(rough, 30, 0.9)
    assert last - first > 40


def test_a_verdict_follows_the_curve() -> None:
    u = np.log2(1 + RATIOS)
    noise = np.random.default_rng(0).normal(size=(300, 1)) * 0.01  # of the level: it moves no verdict

    def verdict(curve: np.ndarray) -> str:
        return verdict_of(RATIOS, curve, curve + noise, 100)[0]

    assert verdict(0.8 + 0.02 * u) == "helps"
    assert verdict(0.8 - 0.02 * u) == "hurts"
    assert verdict(np.full(65, 0.8)) == "no effect"
    assert verdict(0.8 - 0.002 * u) == "no effect"  # .002 at ratio 1, .003 at 2: nobody would notice
    split = np.concatenate([0.8 + 0.02 * u + noise[:150], 0.8 - 0.02 * u + noise[150:]])
    said, reason, share = verdict_of(RATIOS, split.mean(axis=0), split, 100)
    assert said == "uncertain"
    assert "cannot tell" in reason
    assert share["helps"] == pytest.approx(0.5, abs=0.05)
    up = 0.8 + 0.02 * u
    assert verdict_of(RATIOS, up, up + noise, 9)[0] == "uncertain"


@pytest.mark.parametrize("num_images", [20, 200])
def test_the_posterior_is_calibrated_in_a_world_of_its_own(num_images: int) -> None:
    """Curves drawn as it assumes, scores of images that are hard or easy at every ratio: 80 % bands hold about 80 %."""
    grid = ratio_grid(16.0)
    u = np.log2(1 + grid)
    inside = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        amplitude = (0.02, 0.05, 0.1)[seed % 3]
        covariance = amplitude**2 * np.exp(-0.5 * ((u[:, None] - u) / 2.5) ** 2) + 1e-9 * np.eye(len(u))
        truth = (0.65 + np.linalg.cholesky(covariance) @ rng.normal(size=len(u))).clip(0.02, 0.98)
        own = rng.uniform(size=(num_images, len(u))) < 0.15
        hardness = np.where(own, rng.uniform(size=own.shape), rng.uniform(size=(num_images, 1)))
        posterior = Posterior(u, (hardness < truth).astype(float), np.log2(1 + RATIOS))
        gain = np.subtract(*posterior.draw(400, seed)[:, [-1, 0]].T)
        low, high = np.quantile(gain, [0.1, 0.9])
        inside.append(low <= truth[-1] - truth[0] <= high)
    assert 0.7 <= np.mean(inside) <= 0.9


def test_the_band_widens_beyond_the_pilot_and_where_probes_disagree() -> None:
    grid = ratio_grid(16.0)
    there = np.where(grid > 4, 4 / np.maximum(grid, 1), 1.0)
    agreed = np.tile(0.8 + 0.01 * grid, (5, 1))
    spread = np.sqrt(np.diag(discrepancy_covariance(RATIOS, grid, agreed, there)))
    assert (np.diff(spread) >= -1e-12).all()
    assert spread[-1] > 2 * spread[0]
    apart = agreed + np.linspace(-0.02, 0.02, 5)[:, None] * np.log2(1 + grid)  # probes that disagree on the slope
    wider = np.sqrt(np.diag(discrepancy_covariance(RATIOS, grid, apart, there)))
    assert wider[0] > spread[0]
    assert wider[32] == pytest.approx(spread[32], rel=0.3)


def test_the_cheapest_ratio_near_the_best() -> None:
    error = 0.3 - 0.1 * np.log2(1 + RATIOS) / np.log2(17)
    estimate = estimate_of(curve_of(RATIOS, error, error, error))
    found = estimate.cheapest(tolerance=0.02, cost_per_image=0.01)
    assert found["best_ratio"] == 16
    assert found["best_cost"] == pytest.approx(16.0)
    assert found["ratio"] == pytest.approx(2 ** (0.8 * np.log2(17)) - 1, rel=0.08)  # where the error is .02 above
    assert found["cost"] == pytest.approx(0.01 * 100 * found["ratio"], rel=0.01)
    assert estimate.cheapest(tolerance=0.0, cost_per_image=0.01)["ratio"] == 16
    by_epochs = estimate.cheapest(tolerance=1.0, cost_per_update=2.0, updates=10, budget="epochs")
    assert by_epochs["ratio"] == 0
    assert by_epochs["cost"] == 20
    assert by_epochs["best_cost"] == 20 * 17
    with pytest.raises(InputError, match=">= 0"):
        estimate.cheapest(tolerance=-1.0)
    with pytest.raises(InputError, match="budget"):
        estimate.cheapest(budget="steps")  # type: ignore[arg-type]
