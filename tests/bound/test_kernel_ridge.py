"""Ridge towards a generator and the bounds: against other solvers, simulation, and the theory's limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge

import ray_synth as rs
from ray_synth.bound.kernel_ridge import SyntheticRidge, discrepancy, effective_regularization, exact_risk, shifted_bias
from ray_synth.bound.prediction_space import Side, asymptotic_complexity, macro_bound, prediction_space_bound
from ray_synth.bound.stability import StabilityConstants, stability_bound, stability_ratio
from ray_synth.errors import InputError


def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((x[:, None] - y[None]) ** 2).sum(-1))


def data(n: int = 25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (n, 2))
    return x, np.sin(x[:, 0]) + 0.1 * rng.normal(size=n), np.cos(x[:, 1])


def test_without_a_generator_it_is_plain_kernel_ridge() -> None:
    x, y, _ = data()
    q = np.random.default_rng(1).uniform(-2, 2, (7, 2))
    ours = SyntheticRidge(gaussian, 0.3).fit(x, y, np.zeros(len(x)))
    theirs = KernelRidge(alpha=0.3 * len(x), kernel="rbf", gamma=0.5).fit(x, y)
    np.testing.assert_allclose(ours.predict(q), theirs.predict(q), rtol=1e-8)
    np.testing.assert_allclose(ours.predict(q, np.zeros(7)), theirs.predict(q), rtol=1e-8)


def test_the_exact_form_is_the_generator_plus_ridge_on_what_it_misses() -> None:
    x, y, g = data()
    q = np.random.default_rng(1).uniform(-2, 2, (7, 2))
    g_q = np.cos(q[:, 1])
    ours = rs.SyntheticRidge(gaussian, 0.05).fit(x, y, g).predict(q, g_q)
    residual = KernelRidge(alpha=0.05 * len(x), kernel="rbf", gamma=0.5).fit(x, y - g)
    np.testing.assert_allclose(ours, g_q + residual.predict(q), rtol=1e-8)


def test_both_forms_agree_where_the_generator_lies_in_the_span() -> None:
    x, y, _ = data()
    q = np.random.default_rng(1).uniform(-2, 2, (7, 2))
    beta = np.random.default_rng(2).normal(size=len(x))
    ridge = SyntheticRidge(gaussian, 0.2, projection_ridge=1e-12).fit(x, y, gaussian(x, x) @ beta)
    np.testing.assert_allclose(ridge.predict(q), ridge.predict(q, gaussian(q, x) @ beta), atol=1e-4)


def test_the_limits_are_the_generator_and_interpolation() -> None:
    x, y, g = data(10)
    q = np.random.default_rng(1).uniform(-2, 2, (7, 2))
    strong = SyntheticRidge(gaussian, 1e9).fit(x, y, g)
    np.testing.assert_allclose(strong.predict(q, np.cos(q[:, 1])), np.cos(q[:, 1]), atol=1e-6)
    np.testing.assert_allclose(SyntheticRidge(gaussian, 0.0).fit(x, y, g).predict(x, g), y, atol=1e-4)


def simulated_risk(mu: np.ndarray, u: np.ndarray, sigma: float, n: int, strength: float, repeats: int) -> float:
    """Fit the full minimiser on sampled sine features, and integrate its squared error exactly in the basis."""
    rng = np.random.default_rng(0)
    frequencies = np.arange(1, len(mu) + 1)
    total = 0.0
    for _ in range(repeats):
        x = rng.uniform(size=n)
        phi = np.sqrt(2) * np.sin(np.pi * np.outer(x, frequencies))  # orthonormal on [0, 1]
        gram = (phi * mu) @ phi.T
        weights = np.linalg.solve(gram + n * strength * np.eye(n), phi @ u + sigma * rng.normal(size=n))
        total += float(((u - mu * (phi.T @ weights)) ** 2).sum())
    return total / repeats


@pytest.mark.parametrize("r", [0.75, 1.0, 1.5])
def test_exact_risk_is_within_5_percent_of_a_simulation_over_a_decade(r: float) -> None:
    j = np.arange(1, 201)
    mu, u = j ** (-2 * r), j**-1.2
    for strength in (0.01, 0.03, 0.1):
        predicted = exact_risk(mu, u, noise_variance=0.25, num_real=300, strength=strength)
        simulated = simulated_risk(mu, u, 0.5, 300, strength, repeats=60)
        assert predicted == pytest.approx(simulated, rel=0.05)


@settings(max_examples=60)
@given(st.integers(1, 10**5), st.floats(1e-6, 1e3), st.integers(0, 1000))
def test_kappa_solves_its_equation(n: int, strength: float, seed: int) -> None:
    mu = np.random.default_rng(seed).exponential(size=30)
    kappa = effective_regularization(mu, num_real=n, strength=strength)
    assert strength <= kappa <= (strength + mu.sum() / n) * (1 + 1e-9)
    assert n * (1 - strength / kappa) == pytest.approx((mu / (mu + kappa)).sum(), rel=1e-6, abs=1e-9 * n)


@settings(max_examples=40)
@given(st.floats(0, 5), st.floats(0.01, 5), st.integers(5, 5000), st.floats(1e-3, 10))
def test_risk_rises_with_noise_and_with_the_generators_error(
    sigma2: float, more: float, n: int, strength: float
) -> None:
    j = np.arange(1, 60)
    mu, u = j**-2.0, j**-1.5

    def risk(**changed: object) -> float:
        return exact_risk(
            mu, **{"residual": u, "noise_variance": sigma2, "num_real": n, "strength": strength, **changed}
        )

    assert risk(noise_variance=sigma2 + more) > risk()
    assert risk(residual=u * (1 + more)) > risk()
    assert risk(residual=u * 0, noise_variance=0.0) == 0


def test_discrepancy_and_shift_are_the_sums_of_the_theory() -> None:
    j = np.arange(1, 5)
    theta, omega, mu = 1.0 / j, 0.5 / j, j**-2.0
    assert discrepancy(theta, omega, mu) == pytest.approx(sum((0.5 / k / k**-2.0) ** 2 for k in j))
    assert discrepancy(theta, theta, mu) == 0
    in_domain = shifted_bias(theta, theta, omega, mu, strength=0.3)
    assert in_domain == pytest.approx((((0.3 * (theta - omega)) / (mu + 0.3)) ** 2).sum())
    assert shifted_bias(theta, omega, omega, mu, strength=1e9) == pytest.approx(0, abs=1e-9)  # a generator on target


positive = st.floats(0.01, 20)


@settings(max_examples=60)
@given(positive, st.floats(1.05, 5), st.integers(2, 10**4), st.floats(1, 20))
def test_the_stability_optimum_falls_with_distance_and_with_real_images(
    w: float, factor: float, n: int, d: float
) -> None:
    def best(**changed: float) -> float:
        terms = {"distance": w, "num_real": n, "dimension": d, "max_ratio": 16.0, **changed}
        return stability_ratio(**terms)  # type: ignore[arg-type]

    assert best(distance=w * factor) <= best()
    assert best(num_real=int(n * factor) + 1) <= best()
    assert best(distance=0.0) == pytest.approx(16)  # a perfect generator is used without limit
    assert best(shift=w * factor) >= best()  # and a poor source makes it worth more


@given(positive, positive, st.integers(2, 10**4), st.floats(1, 20), st.floats(1.01, 10))
def test_the_stability_bound_moves_as_it_must(rho: float, w: float, n: int, d: float, factor: float) -> None:
    def bound(**changed: float) -> float:
        terms = {"ratio": rho, "distance": w, "num_real": n, "dimension": d, **changed}
        return float(stability_bound(terms.pop("ratio"), **terms))  # type: ignore[arg-type]

    assert bound(distance=w * factor) > bound()
    assert bound(num_real=int(n * factor) + 1) < bound()
    doubled = stability_bound(rho, distance=w, num_real=n, dimension=d, constants=StabilityConstants(c1=2, c2=2, c3=2))
    assert float(doubled) == pytest.approx(2 * bound())


def test_the_prediction_space_terms_are_those_of_the_theorem() -> None:
    rng = np.random.default_rng(0)
    h_s, h_g = rng.dirichlet(np.ones(3), 8), rng.dirichlet(np.ones(3), 12)
    l_s, l_g = rng.exponential(size=8), rng.exponential(size=12)
    r_s, r_g = np.array([0, 0, 1, 1, 1, 2, 2, 2]), np.array([0] * 3 + [1] * 5 + [3] * 4)
    sides = (Side(outputs=h_s, losses=l_s, regions=r_s), Side(outputs=h_g, losses=l_g, regions=r_g))
    terms = prediction_space_bound(*sides, num_regions=4)
    g, n = 8, 8  # region 3 holds no real sample
    expected = {"discrepancy": 0.0, "robustness": 0.0, "imbalance": 0.0}
    for i in (0, 1):
        s, t = h_s[r_s == i], h_g[r_g == i]
        expected["discrepancy"] += len(t) / g * np.mean([np.linalg.norm(a - b) for a in s for b in t])
        expected["robustness"] += len(t) / g * np.mean([np.linalg.norm(a - b) for a in t for b in t])
        expected["imbalance"] += (len(s) / n - len(t) / g) * l_s[r_s == i].mean()
    expected["imbalance"] += 3 / n * l_s[r_s == 2].mean()  # no synthetic sample speaks for this region
    for name, value in expected.items():
        assert getattr(terms, name) == pytest.approx(value)
    assert terms.synthetic_loss == pytest.approx(l_g.mean())
    assert terms.covered_real == 5 / 8
    assert terms.real_robustness == 0
    whole = prediction_space_bound(*sides, num_regions=4, validation=(h_s, r_s))
    slope = np.exp(max(l_s.max(), l_g.max()))  # of a cross-entropy that is nowhere larger
    assert whole.total == pytest.approx(terms.total + slope * whole.real_robustness)
    assert whole.real_robustness == pytest.approx(
        sum((r_s == i).sum() / n * np.mean([np.linalg.norm(a - b) for a in h_s[r_s == i] for b in h_s[r_s == i]])
            for i in range(3))
    )  # fmt: skip
    limit = asymptotic_complexity(num_real=8, num_regions=4, loss_bound=1.0)
    assert limit < prediction_space_bound(*sides, num_regions=4, loss_bound=1.0).complexity
    assert macro_bound(1.0, 0.2, 0.3, lipschitz=3.0) == pytest.approx(1 + 3 * 0.5)


def test_a_region_without_synthetic_samples_counts_with_its_whole_loss() -> None:
    """50 real samples at loss 0 beside synthetic ones, 50 at loss 5 alone: half of them lose 5."""
    outputs = np.full((100, 2), 0.5)
    real = Side(outputs=outputs, losses=np.repeat([0.0, 5.0], 50), regions=np.repeat([0, 1], 50))
    synthetic = Side(outputs=outputs, losses=np.zeros(100), regions=np.zeros(100, dtype=int))
    terms = prediction_space_bound(real, synthetic, num_regions=2)
    assert terms.imbalance == pytest.approx(2.5)
    assert terms.covered_real == 0.5


def test_wrong_terms_are_refused() -> None:
    x, y, g = data()
    with pytest.raises(InputError, match="strength"):
        SyntheticRidge(gaussian, -1.0)
    with pytest.raises(InputError, match=r"\[25\]"):
        SyntheticRidge(gaussian, 1.0).fit(x, y[:-1], g)
    with pytest.raises(InputError, match="finite"):
        SyntheticRidge(gaussian, 1.0).fit(x, y * np.nan, g)
    with pytest.raises(InputError, match="eigenvalues > 0"):
        exact_risk(np.zeros(3), np.zeros(3), noise_variance=1, num_real=5, strength=1)
    with pytest.raises(InputError, match="strength > 0"):
        exact_risk(np.ones(3), np.zeros(3), noise_variance=1, num_real=5, strength=0)
    with pytest.raises(InputError, match="distance"):
        stability_bound(1.0, distance=-1, num_real=5, dimension=1)
