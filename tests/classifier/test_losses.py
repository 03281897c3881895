"""Eq. 7 against double loops written from the paper, and its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_synth.classifier.losses import regularized_loss
from ray_synth.errors import InputError

Tensors = tuple[torch.Tensor, ...]


def paper_loops(h_s: torch.Tensor, h_g: torch.Tensor, r_s: torch.Tensor, r_g: torch.Tensor) -> tuple[float, float]:
    """The two sums of Eq. 7, pair by pair; g counts synthetic samples of the regions that hold a real one."""
    valid = [i for i in set(r_s.tolist()) if (r_g == i).any()]
    g = sum(int((r_g == i).sum()) for i in valid)
    discrepancy = robustness = 0.0
    for i in valid:
        members_s, members_g = h_s[r_s == i], h_g[r_g == i]
        g_i = len(members_g)
        for s in members_s:
            for t in members_g:
                discrepancy += (g_i / g) * float((s - t).norm()) / (g_i * len(members_s))
        for a in members_g:
            for b in members_g:
                robustness += float((a - b).norm()) / (g * g_i)
    return discrepancy, robustness


def released_loops(z_s: torch.Tensor, z_g: torch.Tensor, r_s: torch.Tensor, r_g: torch.Tensor) -> tuple[float, float]:
    cross, within = [], []
    for i in set(r_s.tolist()):
        cross += [float((s - t).square().mean()) for s in z_s[r_s == i] for t in z_g[r_g == i]]
        members = z_g[r_g == i]
        within += [float((members[a] - members[b]).square().mean()) for a in range(len(members)) for b in range(a)]
    return sum(cross) / max(len(cross), 1), sum(within) / max(len(within), 1)


@st.composite
def batches(draw: st.DrawFn) -> Tensors:
    b, g = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    classes, regions = draw(st.integers(2, 4)), draw(st.integers(1, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def ints(high: int, n: int) -> torch.Tensor:
        return torch.randint(0, high, (n,), generator=random)

    logits = [torch.randn(n, classes, generator=random, dtype=torch.float64) for n in (b, g)]
    return (*logits, ints(classes, b), ints(classes, g), ints(regions, b), ints(regions, g))


@settings(max_examples=150, deadline=None)
@given(batches())
def test_both_variants_equal_brute_force(batch: Tensors) -> None:
    z_s, z_g, y_s, y_g, r_s, r_g = batch
    for variant, oracle, outputs in (
        ("paper", paper_loops, (z_s.softmax(-1), z_g.softmax(-1))),
        ("released", released_loops, (z_s, z_g)),
    ):
        loss = regularized_loss(*batch, real_weight=4.0, lambda_1=0.3, lambda_2=0.7, variant=variant)
        discrepancy, robustness = oracle(*outputs, r_s, r_g)
        assert float(loss.discrepancy) == pytest.approx(discrepancy, abs=1e-9)
        assert float(loss.robustness) == pytest.approx(robustness, abs=1e-9)
        real = float(F.cross_entropy(z_s, y_s)) if len(z_s) else 0.0
        synthetic = float(F.cross_entropy(z_g, y_g)) if len(z_g) else 0.0
        expected = 4.0 * real + synthetic + 0.3 * discrepancy + 0.7 * robustness
        assert float(loss.total) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(batches(), st.sampled_from(["paper", "released"]))
def test_gradcheck(batch: Tensors, variant: str) -> None:
    z_s, z_g, *rest = batch
    z_s, z_g = z_s.requires_grad_(), z_g.requires_grad_()
    if len(z_s) + len(z_g) == 0:
        return
    assert torch.autograd.gradcheck(lambda a, b: regularized_loss(a, b, *rest, variant=variant).total, (z_s, z_g))


def test_gradients_are_finite_where_outputs_coincide() -> None:
    logits = torch.zeros(4, 3, requires_grad=True)
    zeros = torch.zeros(4, dtype=torch.long)
    regularized_loss(logits, logits, zeros, zeros, zeros, zeros).total.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_no_common_region_makes_both_terms_zero() -> None:
    z, y = torch.randn(5, 3), torch.zeros(5, dtype=torch.long)
    loss = regularized_loss(z, z, y, y, y, y + 1)
    assert float(loss.discrepancy) == 0
    assert float(loss.robustness) == 0


def test_soft_targets_are_taken() -> None:
    z, hard, regions = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.zeros(5, dtype=torch.long)
    soft = F.one_hot(hard, 3).float()
    a = regularized_loss(z, z, hard, hard, regions, regions)
    b = regularized_loss(z, z, soft, soft, regions, regions)
    assert float(a.total) == pytest.approx(float(b.total), rel=1e-6)


def test_an_unknown_variant_is_refused() -> None:
    z, y = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    with pytest.raises(InputError, match="'paper' or 'released', got 'mine'"):
        regularized_loss(z, z, y, y, y, y, variant="mine")  # type: ignore[arg-type]
