"""The closed form against a numeric argmin, the probe against refitting, the verdict on known generators."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from ray_synth.bound import probe
from ray_synth.bound.estimator import estimate_ratio, ratio_grid
from ray_synth.bound.theorem import closed_form, optimal_strength, risk_bound
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError

positive = st.floats(1e-3, 1e3)


@given(positive, positive, st.integers(2, 10**5), st.floats(0.3, 5))
def test_closed_form_is_the_argmin_of_the_bound(d: float, sigma2: float, n: int, r: float) -> None:
    terms = {"discrepancy": d, "noise_variance": sigma2, "num_real": n, "decay": r}
    best = optimal_strength(**terms)
    found = minimize_scalar(lambda t: math.log(risk_bound(math.exp(t), **terms)), bounds=(-30, 30), method="bounded")
    assert math.log(best) == pytest.approx(found.x, abs=1e-3)


@given(positive, positive, st.integers(2, 10**5), st.floats(0.3, 5), st.floats(1.01, 10))
def test_the_optimum_moves_as_it_must(d: float, sigma2: float, n: int, r: float, factor: float) -> None:
    def best(**changed: float) -> float:
        return optimal_strength(**{"discrepancy": d, "noise_variance": sigma2, "num_real": n, "decay": r, **changed})

    assert best(discrepancy=d * factor) < best()
    assert best(num_real=math.ceil(n * factor)) < best()
    assert best(noise_variance=sigma2 * factor) > best()


def test_a_perfect_generator_is_used_without_limit(splits: Splits) -> None:
    assert optimal_strength(discrepancy=0, noise_variance=1, num_real=10, decay=1) == math.inf
    same = closed_form(splits.train.images, splits.train.images, num_real=100, max_ratio=16.0)
    assert same.ratio == 16.0
    blurred = (splits.train.images + np.roll(splits.train.images.astype(float), 1, axis=1)) / 2
    assert closed_form(splits.train.images, blurred.astype(np.uint8), num_real=100, max_ratio=16.0).ratio < 16.0
    # Its proxies see marginal spectra alone: a negative looks perfect to it. The probe is there for that.
    assert closed_form(splits.train.images, 255 - splits.train.images, num_real=100, max_ratio=16.0).ratio == 16.0


def test_wrong_terms_are_refused() -> None:
    with pytest.raises(InputError):
        optimal_strength(discrepancy=-1, noise_variance=1, num_real=10, decay=1)
    with pytest.raises(InputError):
        optimal_strength(discrepancy=1, noise_variance=1, num_real=10, decay=0.125)


def test_leave_one_out_equals_refitting_without_the_image() -> None:
    rng = np.random.default_rng(0)
    n, m, d, classes = 12, 20, 6, 3
    real, synthetic = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    y, z = rng.integers(0, classes, n), np.sort(rng.integers(0, classes, m))
    targets = np.eye(classes) - 1 / classes
    counts = np.array([[0, 0, 0], [2, 1, 3], [4, 4, 40]])  # the last asks for more of class 2 than there are
    right = probe.leave_one_out(real, y, synthetic, [np.flatnonzero(z == c) for c in range(classes)], targets, counts)
    scale = (real**2).mean()
    expected = np.zeros((n, len(counts)))
    for i, wanted in enumerate(counts):
        rows = [np.flatnonzero(z == c)[: wanted[c]] for c in range(classes)]
        weights = np.concatenate([np.full(len(r), w / max(len(r), 1)) for r, w in zip(rows, wanted, strict=True)])
        x, t = synthetic[np.concatenate(rows)], targets[z[np.concatenate(rows)]]
        for penalty in probe.PENALTIES:
            ridge = penalty * (n + wanted.sum()) * scale * np.eye(d)
            for k in range(n):
                keep = np.arange(n) != k
                gram = real[keep].T @ real[keep] + (x * weights[:, None]).T @ x + ridge
                moment = real[keep].T @ targets[y[keep]] + (x * weights[:, None]).T @ t
                expected[k, i] += (real[k] @ np.linalg.solve(gram, moment)).argmax() == y[k]
    assert (right == expected).all()


def generators(splits: Splits) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Known worth: other real digits help; wrong labels, and noise, do not."""
    images, labels = splits.generator.images, splits.generator.labels
    rng = np.random.default_rng(0)
    return {
        "real": (images, labels),
        "wrong labels": (images, (labels + 1 + rng.integers(0, 9, len(labels))) % 10),
        "noise": (rng.integers(0, 256, images.shape, dtype=np.uint8), labels),
    }


def test_more_real_digits_help_and_wrong_labels_hurt(splits: Splits) -> None:
    real = splits.train
    found = {
        name: estimate_ratio(real.images, real.labels, *synthetic, max_ratio=5.0)
        for name, synthetic in generators(splits).items()
    }
    assert found["real"].verdict == "helps"
    assert found["real"].ratio > 2
    assert found["wrong labels"].verdict == "hurts"
    assert found["wrong labels"].ratio == 0
    assert found["noise"].verdict != "helps"
    error = {name: np.asarray(estimate.curve.error) for name, estimate in found.items()}
    assert error["wrong labels"][-1] > error["real"][-1] + 0.1


def test_same_input_and_seed_same_output_bit_for_bit(splits: Splits) -> None:
    arguments = (splits.train.images, splits.train.labels, splits.generator.images, splits.generator.labels)
    once, twice = (json.dumps(estimate_ratio(*arguments).to_dict(), allow_nan=False) for _ in range(2))
    assert once == twice


def test_the_grid_holds_zero_and_the_largest_ratio() -> None:
    assert ratio_grid(16.0).tolist() == [0, 0.25, 0.5, 1, 2, 4, 8, 16]
    assert ratio_grid(5.0).tolist() == [0, 0.25, 0.5, 1, 2, 4, 5]
    assert ratio_grid(0.1).tolist() == [0, 0.1]


def test_odd_inputs_give_an_answer_or_a_clear_error(splits: Splits) -> None:
    rng = np.random.default_rng(0)
    real, y = splits.train.images[::10], splits.train.labels[::10]  # one image per class
    synthetic, z = splits.generator.images[::5], splits.generator.labels[::5]
    assert 0 <= estimate_ratio(real, y, synthetic, z).ratio <= 16
    constant = np.zeros((20, 8, 8), dtype=np.uint8)
    assert 0 <= estimate_ratio(constant, np.arange(20) % 2, constant, np.arange(20) % 2).ratio <= 16
    pixels = rng.integers(0, 256, (20, 1, 1, 1), dtype=np.uint8)
    assert 0 <= estimate_ratio(pixels, np.arange(20) % 2, pixels, np.arange(20) % 2).ratio <= 16
    alone = estimate_ratio(real, y, synthetic[z == 7], z[z == 7])
    assert 0 <= alone.ratio <= 16
    for wrong, expected in (
        ((real.astype(float), y, real, y), "uint8"),
        ((real, y[:-1], real, y), r"integers \[10\]"),
        ((real, y.astype(float), real, y), "float64"),
        ((real, y - 1, real, y), ">= 0"),
        ((real, np.zeros_like(y), real, y), "2 classes"),
        ((real, y, real[:, :4], y), "one size"),
        ((real, y, real[:0], y[:0]), "N >= 1"),
    ):
        with pytest.raises(InputError, match=expected):
            estimate_ratio(*wrong)
    gaps = estimate_ratio(real, y * 10**6, synthetic, z * 10**6)
    assert gaps.ratio == estimate_ratio(real, y, synthetic, z).ratio
    assert estimate_ratio(real, y, synthetic, z, max_ratio=8 / 3).interval[1] <= 8 / 3
    with pytest.raises(InputError, match="seed"):
        estimate_ratio(real, y, synthetic, z, seed=-1)
    with pytest.raises(InputError, match="max_ratio"):
        estimate_ratio(real, y, real, y, max_ratio=0)
