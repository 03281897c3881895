"""The benchmark of Shidani et al., 2025 at few seeds: what holds of its curves and maps, whatever the lost scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ray_synth.bound.kernel_ridge import discrepancy, shifted_bias
from tests.benchmarks import beyond_real_data
from tests.benchmarks.beyond_real_data import EIGENVALUES, NOISE, Curves

STRENGTHS = np.logspace(-9, 2, 23)


@pytest.fixture(scope="module")
def curves() -> list[Curves]:
    settings = [setting for reading in NOISE for setting in beyond_real_data.table_1(reading)]
    return [beyond_real_data.experiment(setting, STRENGTHS, seeds=4) for setting in settings]


def test_a_perfect_generator_is_followed_without_limit(curves: list[Curves]) -> None:
    perfect = [one for one in curves if one.setting.generator_exponent == one.setting.target_exponent]
    assert len(perfect) == 2
    for one in perfect:
        assert one.discrepancy == 0
        assert one.optimum("full") == one.bound_optimum == one.exact_optimum == STRENGTHS[-1]
        assert (np.diff(one.form("full")) < 0).all()


def test_a_mismatched_generator_gives_a_u_shape(curves: list[Curves]) -> None:
    mismatched = [one for one in curves if one.discrepancy > 0]
    assert len(mismatched) == 4
    for one in mismatched:
        for form in ("full", "span"):
            error = one.form(form)
            assert min(error[0], error[-1]) > 1.5 * error.min()
            assert STRENGTHS[0] < one.optimum(form) < STRENGTHS[-1]


def test_without_the_data_a_mismatched_generator_errs_by_its_own_distance(curves: list[Curves]) -> None:
    for one in curves:
        gap = float(((one.setting.target - one.setting.generator) ** 2).sum())  # squared L2 norm, by Parseval
        assert one.form("full")[-1] == pytest.approx(gap, rel=0.03, abs=1e-6)


def test_the_exact_risk_finds_the_empirical_optimum(curves: list[Curves]) -> None:
    for one in [one for one in curves if one.discrepancy > 0]:
        assert 1 / 10 <= one.exact_optimum / one.optimum("full") <= 10
        assert one.excess("full", one.exact_optimum) <= 0.1 * one.form("full").min()


def test_the_bound_overestimates_the_strength(curves: list[Curves]) -> None:
    for one in [one for one in curves if one.discrepancy > 0]:
        assert one.bound_optimum > one.optimum("full")
        assert one.excess("full", one.bound_optimum) > one.excess("full", one.exact_optimum)


@pytest.mark.parametrize("shift", beyond_real_data.SHIFTS.values())
@pytest.mark.parametrize("decay", beyond_real_data.DECAYS)
def test_the_kernel_map_rises_with_distance_noise_and_shift(shift: float, decay: float) -> None:
    low = beyond_real_data.kernel_map(noise_variance=0.1, decay=decay, shift=shift)
    assert (np.diff(low, axis=0) > 0).all()
    assert (beyond_real_data.kernel_map(noise_variance=1.0, decay=decay, shift=shift) > low).all()
    assert (beyond_real_data.kernel_map(noise_variance=0.1, decay=decay, shift=shift + 0.1) > low).all()


@pytest.mark.parametrize("shift", beyond_real_data.WASSERSTEIN_SHIFTS.values())
def test_the_stability_map_rises_with_distance_and_shift(shift: float) -> None:
    low = beyond_real_data.wasserstein_map(shift=shift)
    assert (np.diff(low, axis=0) > 0).all()
    assert (beyond_real_data.wasserstein_map(shift=shift + 0.1) > low).all()


@pytest.mark.parametrize("noise_variance", beyond_real_data.NOISES)
def test_the_best_ratio_falls_with_distance(noise_variance: float) -> None:
    best = beyond_real_data.kernel_map(noise_variance=noise_variance).argmin(axis=1)
    assert (np.diff(best) <= 0).all()
    assert best[-1] < best[0]


def test_our_shift_term_bounds_the_exact_bias_and_is_reached_in_the_first_mode() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=len(EIGENVALUES)) * EIGENVALUES
    everywhere = target + rng.normal(size=len(EIGENVALUES)) * EIGENVALUES
    first = target + np.eye(len(EIGENVALUES))[0]
    for strength in (0.01, 0.3, 1.0, 16.0):
        for source in (everywhere, first):
            limit = discrepancy(target, source, EIGENVALUES) / (1 + strength) ** 2
            bias = shifted_bias(source, target, target, EIGENVALUES, strength=strength)
            assert bias <= limit * (1 + 1e-12)
        assert bias == pytest.approx(limit)


def test_the_window_of_ratio_two_is_where_the_map_says() -> None:
    low, high = beyond_real_data.window_of_two()
    inside = beyond_real_data.regret_of_two(beyond_real_data.kernel_map(noise_variance=1.0)) <= 2
    quotient = 1.0 / beyond_real_data.DISTANCES
    assert inside[(quotient > 1.1 * low) & (quotient < high / 1.1)].all()
    assert not inside[quotient < low / 1.1].any()


@pytest.mark.parametrize("ratio", [0.25, 1.0, 16.0])
@pytest.mark.parametrize("distance", [0.0, 0.02, 0.09, 0.11, 1.0])
def test_the_best_weight_of_appendix_d_is_the_argmin(ratio: float, distance: float) -> None:
    alphas = np.linspace(0, 1, 100_001)
    found = alphas[beyond_real_data.weighted_bound(alphas, ratio, distance).argmin()]
    assert beyond_real_data.best_weight(ratio, distance) == pytest.approx(found, abs=2e-5)
    mixed = beyond_real_data.concatenated_bound(np.array([ratio]), distance)
    assert mixed == pytest.approx(beyond_real_data.weighted_bound(ratio / (1 + ratio), ratio, distance))


def test_every_claim_of_appendix_d_is_confirmed() -> None:
    claims = beyond_real_data.threshold_claims()
    assert [claim.text for claim in claims if not claim.holds] == []


def test_the_pictures_are_drawn(curves: list[Curves], tmp_path: Path) -> None:
    beyond_real_data.draw_experiment(curves[:3], tmp_path / "experiment.png")
    beyond_real_data.draw_maps(
        "bound", "distance", beyond_real_data.DISTANCES, beyond_real_data.figure_4(), tmp_path / "map.png"
    )
    beyond_real_data.draw_threshold(tmp_path / "threshold.png")
    for name in ("experiment.png", "map.png", "threshold.png"):
        assert imread(tmp_path / name)[..., :3].std() > 0.05  # more than an empty page
