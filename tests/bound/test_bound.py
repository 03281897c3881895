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
from ray_synth.bound.curve import SLOPE, Posterior, ratio_grid
from ray_synth.bound.pilot import Pilot
from ray_synth.bound.theorem import closed_form, optimal_strength, risk_bound
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError
from ray_synth.estimate import estimate_ratio
from ray_synth.metrics.spectrum import pixel_stats

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
    real = pixel_stats(splits.train.images())
    same = closed_form(real, real, num_real=100, max_ratio=16.0)
    assert same.ratio == 16.0
    blurred = (splits.train.images() + np.roll(splits.train.images().astype(float), 1, axis=1)) / 2
    assert closed_form(real, pixel_stats(blurred.astype(np.uint8)), num_real=100, max_ratio=16.0).ratio < 16.0
    # Its proxies see marginal spectra alone: a negative looks perfect to it. The probe is there for that.
    assert closed_form(real, pixel_stats(255 - splits.train.images()), num_real=100, max_ratio=16.0).ratio == 16.0


def test_wrong_terms_are_refused() -> None:
    with pytest.raises(InputError):
        optimal_strength(discrepancy=-1, noise_variance=1, num_real=10, decay=1)
    with pytest.raises(InputError):
        optimal_strength(discrepancy=1, noise_variance=1, num_real=10, decay=0.125)


@pytest.mark.parametrize("real_weight", [1.0, 3.0])
def test_leave_one_out_equals_refitting_with_the_image_s_weight_on_the_others_of_its_class(real_weight: float) -> None:
    rng = np.random.default_rng(0)
    n, m, d, classes = 12, 20, 6, 3
    real, synthetic = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    y, z = np.repeat([0, 1, 2], [8, 3, 1]), np.sort(rng.integers(0, classes, m))
    targets = np.eye(classes) - 1 / classes
    counts = np.array([[0, 0, 0], [2, 1, 3], [4, 4, 40]])  # the last asks for more of class 2 than there are
    scale = (real**2).mean()

    def refitted(members: list[np.ndarray]) -> np.ndarray:
        right = np.zeros((n, len(counts)))
        for i, wanted in enumerate(counts):
            rows = [members[c][: wanted[c]] for c in range(classes)]
            weights = np.concatenate([np.full(len(r), w / max(len(r), 1)) for r, w in zip(rows, wanted, strict=True)])
            x, t = synthetic[np.concatenate(rows)], targets[z[np.concatenate(rows)]]
            for penalty in probe.PENALTIES:
                ridge = penalty * (real_weight * n + weights.sum()) * scale * np.eye(d)
                for k in range(n):
                    own = real_weight * np.where(y == y[k], len(y[y == y[k]]) / max(len(y[y == y[k]]) - 1, 1), 1.0)
                    own[k] = 0
                    gram = (real * own[:, None]).T @ real + (x * weights[:, None]).T @ x + ridge
                    moment = (real * own[:, None]).T @ targets[y] + (x * weights[:, None]).T @ t
                    right[k, i] += (real[k] @ np.linalg.solve(gram, moment)).argmax() == y[k]
        return right / len(probe.PENALTIES)

    pilot = Pilot(z, counts)
    whole = refitted(pilot.members)
    quarters = np.mean([refitted([rows[part::4] for rows in pilot.members]) for part in range(4)], axis=0)
    share = pilot.share_there
    assert (share == [1, 1, np.minimum(counts[2], np.bincount(z, minlength=3)).sum() / 48]).all()
    expected = whole + (1 - np.sqrt(share)) * (whole - quarters)
    held = probe.HeldOut(y, rows=np.arange(n))
    found = probe.Ridge(real, y, synthetic, classes).scores(pilot, held, real_weight=np.full(3, real_weight))
    assert found == pytest.approx(expected, abs=1e-12)
    # Where classes are large the weights no longer move, and what is scored may be a part.
    many = np.tile(real, (50, 1)) + 0.1 * rng.normal(size=(50 * n, d))
    rows = np.arange(0, len(many), 7)
    every = probe.HeldOut(np.tile(y, 50)[rows], rows=rows)
    few = Pilot(z, counts[:1])
    kept = np.arange(len(many))[:, None] != rows
    ridge = probe.Ridge(many, np.tile(y, 50), synthetic, classes)
    found = ridge.scores(few, every, real_weight=np.ones(1), penalties=(0.1,), correct=False)
    for place, row in enumerate(rows[:20]):
        x, t = many[kept[:, place]], targets[np.tile(y, 50)[kept[:, place]]]
        fit = np.linalg.solve(x.T @ x + 0.1 * len(many) * (many**2).mean() * np.eye(d), x.T @ t)
        assert found[place, 0] == ((many[row] @ fit).argmax() == np.tile(y, 50)[row])
    target = rng.normal(size=(7, d))
    held = probe.HeldOut(rng.integers(0, classes, 7), target=target)
    gram = real_weight * real.T @ real + 0.1 * real_weight * n * scale * np.eye(d)
    plain = target @ np.linalg.solve(gram, real_weight * real.T @ targets[y])
    found = probe.Ridge(real, y, synthetic, classes).scores(
        pilot, held, real_weight=np.full(3, real_weight), penalties=(0.1,)
    )
    assert (found[:, 0] == (plain.argmax(axis=1) == held.labels)).all()


def test_the_posterior_equals_a_gaussian_process_of_another_library() -> None:
    """With one amplitude the curve is scikit-learn's, for a noise that is the covariance of the mean."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

    rng = np.random.default_rng(0)
    u, fine = np.log2(1 + ratio_grid(16.0)), np.linspace(0, np.log2(17), 9)
    scores = (rng.uniform(size=(400, len(u))) < 0.6 + 0.05 * u).astype(float)
    posterior = Posterior(u, scores, fine)
    noise = np.cov(scores, rowvar=False) / len(scores)
    means = []
    for amplitude in (0.01, 0.2):
        shape = RBF(2.5, "fixed") + ConstantKernel(SLOPE**2, "fixed") * DotProduct(0.0, "fixed")
        kernel = ConstantKernel(amplitude**2, "fixed") * shape + ConstantKernel(1.0, "fixed")
        other = GaussianProcessRegressor(kernel, alpha=np.diag(noise), optimizer=None)
        means.append(other.fit(u[:, None], scores.mean(axis=0) - scores.mean()).predict(fine[:, None]) + scores.mean())
    low, high = np.minimum(*means) - 0.01, np.maximum(*means) + 0.01  # amplitudes are averaged
    assert ((low < posterior.mean) & (posterior.mean < high)).all()
    draws = posterior.draw(4000, seed=0)
    assert draws.mean(axis=0) == pytest.approx(posterior.mean, abs=0.005)
    assert draws.std(axis=0) == pytest.approx(np.sqrt(np.diag(posterior.covariance)), rel=0.1)


def generators(splits: Splits) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Known worth: other real digits help; wrong labels, and noise, do not."""
    images, labels = splits.generator.images(), splits.generator.labels
    rng = np.random.default_rng(0)
    return {
        "real": (images, labels),
        "wrong labels": (images, (labels + 1 + rng.integers(0, 9, len(labels))) % 10),
        "noise": (rng.integers(0, 256, images.shape, dtype=np.uint8), labels),
    }


def test_more_real_digits_help_and_wrong_labels_hurt(splits: Splits) -> None:
    real = splits.train
    found = {
        name: estimate_ratio(real.images(), real.labels, *synthetic, max_ratio=5.0)
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
    arguments = (splits.train.images(), splits.train.labels, splits.generator.images(), splits.generator.labels)
    once, twice = (json.dumps(estimate_ratio(*arguments).to_dict(), allow_nan=False) for _ in range(2))
    assert once == twice


def test_the_grid_holds_zero_and_the_largest_ratio() -> None:
    assert ratio_grid(16.0).tolist() == [0, 0.25, 0.5, 1, 2, 4, 8, 16]
    assert ratio_grid(5.0).tolist() == [0, 0.25, 0.5, 1, 2, 4, 5]
    assert ratio_grid(0.1).tolist() == [0, 0.1]


def test_odd_inputs_give_an_answer_or_a_clear_error(splits: Splits) -> None:
    rng = np.random.default_rng(0)
    real, y = splits.train.images()[::10], splits.train.labels[::10]  # one image per class
    synthetic, z = splits.generator.images()[::5], splits.generator.labels[::5]
    assert 0 <= estimate_ratio(real, y, synthetic, z, max_ratio=1).ratio <= 1
    constant = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[:, None, None], (20, 8, 8))
    assert 0 <= estimate_ratio(constant, np.arange(20) % 2, constant, np.arange(20) % 2, max_ratio=1).ratio <= 1
    pixels = rng.permutation(256)[:20].astype(np.uint8).reshape(20, 1, 1, 1)
    assert 0 <= estimate_ratio(pixels, np.arange(20) % 2, pixels, np.arange(20) % 2, max_ratio=1).ratio <= 1
    alone = estimate_ratio(real, y, synthetic[z == 7], z[z == 7], max_ratio=1)
    assert 0 <= alone.ratio <= 1
    for wrong, expected in (
        ((real.astype(float), y, real, y), "uint8"),
        ((real, y[:-1], real, y), r"integers or names \[10\]"),
        ((real, y + 0.5, real, y), r"whole numbers or names, got 0\.5"),
        ((real, y - 1, real, y), ">= 0"),
        ((real, np.zeros_like(y), real, y), "2 classes"),
        ((real, y, real[:, :4], y), "one size"),
        ((real, y, real[:0], y[:0]), "N >= 1"),
    ):
        with pytest.raises(InputError, match=expected):
            estimate_ratio(*wrong)
    odd_end = estimate_ratio(real, y, synthetic, z, max_ratio=8 / 3)
    assert odd_end.interval[1] <= 8 / 3
    assert estimate_ratio(real, y * 10**6, synthetic, z * 10**6, max_ratio=8 / 3).ratio == odd_end.ratio
    with pytest.raises(InputError, match="seed"):
        estimate_ratio(real, y, synthetic, z, seed=-1)
    with pytest.raises(InputError, match="max_ratio"):
        estimate_ratio(real, y, real, y, max_ratio=0)
