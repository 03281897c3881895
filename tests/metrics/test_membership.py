"""Membership inference against brute force, exact arithmetic, scikit-learn's ROC and worlds whose answer is known."""

from __future__ import annotations

from decimal import Decimal, getcontext
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

import ray_synth as rs
from ray_synth.errors import InputError
from ray_synth.metrics.membership import Rate, Roc, lira_scores, logit_confidence


def world(n: int = 40, k: int = 8, gap: float = 1.5, seed: int = 0) -> dict[str, np.ndarray]:
    """Images with a centre and a spread each; a model that saw an image is `gap` spreads surer of it."""
    rng = np.random.default_rng(seed)
    centre, spread = rng.normal(3, 2, n), rng.uniform(0.5, 2, n)
    members = np.arange(n) % 2 == 0
    out, inside, target = rng.normal(size=(n, k)), gap + rng.normal(size=(n, k)), rng.normal(size=n) + gap * members
    at = lambda z: (centre + spread * z.T).T  # noqa: E731
    return {"target": at(target), "inside": at(inside), "out": at(out), "members": members}


def brute_force(target: Any, inside: Any, out: Any, *, mode: str, fixed_variance: bool) -> list[float]:
    scores = []
    for i, c in enumerate(target):
        (mu_in, s_in), (mu_out, s_out) = norm.fit(inside[i]), norm.fit(out[i])
        if fixed_variance:
            s_in, s_out = np.ravel(inside).std(), np.ravel(out).std()
        if mode == "online":
            scores.append(float(np.log(norm.pdf(c, mu_in, s_in) / norm.pdf(c, mu_out, s_out))))
        else:
            scores.append(float(-np.log(1 - norm.cdf(c, mu_out, s_out))))
    return scores


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("fixed_variance", [False, True])
def test_scores_are_the_likelihood_ratio(mode: Any, fixed_variance: bool) -> None:
    found = world()
    sides = (found["target"], found["inside"], found["out"])
    expected = brute_force(*sides, mode=mode, fixed_variance=fixed_variance)
    scores = rs.lira_scores(*sides, mode=mode, fixed_variance=fixed_variance)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-9)


def test_offline_looks_at_no_model_that_saw_the_image_and_has_no_ceiling() -> None:
    found = world()
    alone = lira_scores(found["target"], None, found["out"], mode="offline")
    np.testing.assert_array_equal(alone, lira_scores(found["target"], found["inside"], found["out"], mode="offline"))
    far = lira_scores([50.0, 60.0], None, [[0.0, 1.0], [0.0, 1.0]], mode="offline")
    assert np.isfinite(far).all()
    assert far[0] < far[1]  # both probabilities are 1 to the last digit


def test_confidences_in_logits_lose_nothing_near_one() -> None:
    """Against 60 digits of decimal arithmetic."""
    getcontext().prec = 60
    logits = np.random.default_rng(0).normal(size=(30, 4)) * np.linspace(1, 60, 30)[:, None]
    labels = np.arange(30) % 4
    expected = []
    for row, label in zip(logits, labels, strict=True):
        powers = [Decimal(float(z)).exp() for z in row]
        p = powers[label] / sum(powers)
        expected.append(float((p / (1 - p)).ln()))
    np.testing.assert_allclose(logit_confidence(logits, labels), expected, rtol=1e-12, atol=1e-12)


def test_the_attack_finds_what_is_there_and_nothing_where_nothing_is() -> None:
    """Two Gaussians 3 spreads apart: AUC Φ(3/√2). Nothing in the confidences: AUC .5."""
    for gap, expected, tolerance in ((3.0, norm.cdf(3 / np.sqrt(2)), 0.01), (0.0, 0.5, 0.03)):
        found = world(n=4000, k=64, gap=gap)
        scores = lira_scores(found["target"], found["inside"], found["out"])
        assert Roc.of(scores, found["members"]).auc == pytest.approx(expected, abs=tolerance)


def test_the_roc_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    members = rng.random(300) < 0.4
    scores = np.round(rng.normal(size=300) + members, 1)
    roc = Roc.of(scores, members)
    fpr, tpr, _ = roc_curve(members, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc.false / roc.non_members, fpr)
    np.testing.assert_allclose(roc.true / roc.members, tpr)
    assert roc.auc == pytest.approx(roc_auc_score(members, scores), abs=1e-12)
    for wanted in (0.01, 0.1, 0.5):
        rate = roc.tpr_at(wanted)
        assert rate is not None
        assert rate.value == pytest.approx(tpr[fpr <= wanted].max())


def test_a_rate_that_the_non_members_cannot_tell_is_withheld() -> None:
    """200 of them: the smallest false positive rate above 0 is half a percent."""
    members = np.repeat([True, False], 200)
    roc = Roc.of(np.arange(400)[::-1], members)  # every member above every non-member
    assert roc.smallest_fpr == 0.005
    assert roc.tpr_at(0.001) is None
    assert roc.tpr_at(0.01) == Rate.of(200, 200)
    assert Roc.of(np.arange(1200)[::-1], np.arange(1200) < 200).tpr_at(0.001) == Rate.of(200, 200)
    two_above = np.where(members, 1.0, 0.0)
    two_above[200:202] = 2.0  # two false ones score highest
    assert Roc.of(two_above, members).tpr_at(0.01).value == 1.0  # type: ignore[union-attr]
    two_above[202] = 2.0
    assert Roc.of(two_above, members).tpr_at(0.01).value == 0.0  # type: ignore[union-attr]


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (1, 10), (7, 10), (10, 10), (3, 40)])
def test_the_interval_is_clopper_and_pearsons(hits: int, trials: int) -> None:
    """At its ends the exact binomial tail is 2.5 %."""

    def tail(p: float, ks: range) -> float:
        q = Fraction(p)
        return float(sum(comb(trials, k) * q**k * (1 - q) ** (trials - k) for k in ks))

    rate = Rate.of(hits, trials)
    assert rate.value == hits / trials
    assert rate.low == 0 if hits == 0 else tail(rate.low, range(hits, trials + 1)) == pytest.approx(0.025)
    assert rate.high == 1 if hits == trials else tail(rate.high, range(hits + 1)) == pytest.approx(0.025)


GOOD = {"target_confidence": [1.0, 2.0], "in_confidences": [[1, 2], [3, 5]], "out_confidences": [[0, 1], [1, 3]]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "both"}, "mode must be 'online' or 'offline', got 'both'"),
        ({"target_confidence": [[1.0, 2.0]]}, r"target_confidence must be \[n\].*got \[1, 2\]"),
        ({"in_confidences": None}, r"in_confidences must be \[2,k\].*got None"),
        ({"in_confidences": [[1, 2]]}, r"got \[1, 2\]; transpose them"),
        ({"out_confidences": [[1], [2]]}, "out_confidences must be of >= 2 shadow models, got 1.*fixed_variance=True"),
        ({"out_confidences": [[], []], "fixed_variance": True}, "of >= 1 shadow models, got 0; train more"),
        ({"out_confidences": [[1, 2], [4, 4]]}, "out_confidences of image 1 are all 4.*fixed_variance=True"),
        ({"out_confidences": [[4, 4], [4, 4]], "fixed_variance": True}, "give shadow models that differ"),
        ({"in_confidences": [[1, 2], [3, np.inf]]}, "in_confidences must be finite, got 1 of 4"),
        ({"target_confidence": [1.0, np.nan]}, "target_confidence must be finite, got 1 of 2"),
    ],
)
def test_wrong_confidences_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lira_scores(**{**GOOD, **changed})  # type: ignore[arg-type]


def test_wrong_logits_and_memberships_are_refused() -> None:
    with pytest.raises(InputError, match=r"K >= 2 and labels \[n\], got \[2, 1\]"):
        logit_confidence([[1.0], [2.0]], [0, 0])
    with pytest.raises(InputError, match="whole numbers from 0 to 1"):
        logit_confidence([[1.0, 2.0]], [2])
    with pytest.raises(InputError, match="got 3 and 0"):
        Roc.of([1, 2, 3], [True, True, True])
    with pytest.raises(InputError, match=r"members true or false, got .* int64"):
        Roc.of([1, 2], np.array([0, 1]))
