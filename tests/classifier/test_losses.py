"""Eq. 7 against double loops written from the paper, and its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_synth.classifier import losses
from ray_synth.classifier.losses import region_terms, regularized_loss
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


@settings(max_examples=150)
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


@settings(max_examples=15)
@given(batches(), st.sampled_from(["paper", "released"]))
def test_gradcheck(batch: Tensors, variant: str) -> None:
    z_s, z_g, *rest = batch
    z_s, z_g = z_s.requires_grad_(), z_g.requires_grad_()
    if len(z_s) + len(z_g) == 0:
        return
    assert torch.autograd.gradcheck(lambda a, b: regularized_loss(a, b, *rest, variant=variant).total, (z_s, z_g))


def test_gradcheck_with_soft_targets() -> None:
    random = torch.Generator().manual_seed(0)
    z_s, z_g = (torch.randn(5, 3, generator=random, dtype=torch.float64).requires_grad_() for _ in range(2))
    soft = torch.rand(5, 3, generator=random, dtype=torch.float64)  # rows need not sum to 1
    r = torch.randint(0, 2, (5,), generator=random)
    assert torch.autograd.gradcheck(lambda a, b: regularized_loss(a, b, soft, soft, r, r).total, (z_s, z_g))
    expected = F.cross_entropy(z_s, soft)
    assert regularized_loss(z_s, z_g, soft, soft, r, r).real.item() == pytest.approx(expected.item(), abs=1e-12)


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


def test_many_pairs_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient do not depend on how many differences are held at once."""
    random = torch.Generator().manual_seed(0)
    y, r = torch.randint(0, 5, (30,), generator=random), torch.randint(0, 3, (30,), generator=random)
    for variant in ("paper", "released"):
        gradients = []
        for block in (2**24, 7 * 5, 1):
            monkeypatch.setattr(losses, "BLOCK", block)
            z = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
            loss = regularized_loss(z, z.flip(0), y, y, r, r, variant=variant)  # type: ignore[arg-type]
            loss.total.backward()
            gradients.append((loss.total.item(), z.grad))
        for value, gradient in gradients[1:]:
            assert value == pytest.approx(gradients[0][0], rel=1e-12)
            torch.testing.assert_close(gradient, gradients[0][1], rtol=1e-10, atol=1e-12)


def test_memory_grows_with_the_pairs_in_common_regions() -> None:
    """4,096 + 4,096 samples of 1,000 classes, each region of two: a dense B x B x C would hold 67 GB, B x B 67 MB."""
    n, classes = 4096, 1000
    z, y = torch.randn(n, classes), torch.zeros(n, dtype=torch.long)
    regions = torch.arange(n)
    assert len(losses.Pairs.of(regions, regions, "paper").s) == n
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        regularized_loss(z.requires_grad_(), z, y, y, regions, regions).total.backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 2 * n * classes * 4


def test_terms_alone_are_those_of_the_loss() -> None:
    z, g, y, r = (
        torch.randn(6, 3),
        torch.randn(6, 3),
        torch.zeros(6, dtype=torch.long),
        torch.zeros(6, dtype=torch.long),
    )
    loss = regularized_loss(z, g, y, y, r, r)
    assert [float(term) for term in region_terms(z, g, r, r)] == [float(loss.discrepancy), float(loss.robustness)]


def test_half_precision_logits_are_summed_in_single() -> None:
    z, y = torch.randn(64, 10), torch.zeros(64, dtype=torch.long)
    half = regularized_loss(z.bfloat16(), z.bfloat16(), y, y, y, y)
    assert half.total.dtype == torch.float32
    assert float(half.discrepancy) == pytest.approx(float(regularized_loss(z, z, y, y, y, y).discrepancy), rel=0.02)


def test_extreme_logits_give_the_right_cross_entropy() -> None:
    z = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    y, r = torch.tensor([2]), torch.zeros(1, dtype=torch.long)
    loss = regularized_loss(z, z, y, y, r, r)
    assert float(loss.real) == pytest.approx(400)
    loss.total.backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"real_logits": torch.tensor([[float("nan"), 0.0], [0.0, 0.0]])}, "NaN or infinity in 1 of 2 rows"),
        ({"synthetic_targets": torch.tensor([0, 2])}, "between 0 and 1, the classes of the logits, got 2"),
        ({"real_targets": torch.tensor([-1, 0])}, "got -1"),
        ({"real_targets": torch.zeros(2, 3)}, r"soft real_targets must be \[2, 2\]"),
        ({"real_regions": torch.zeros(3, dtype=torch.long)}, r"real_regions \[B\], got"),
    ],
)
def test_wrong_input_is_refused(change: dict[str, torch.Tensor], expected: str) -> None:
    z, y = torch.zeros(2, 2), torch.zeros(2, dtype=torch.long)
    names = (
        "real_logits",
        "synthetic_logits",
        "real_targets",
        "synthetic_targets",
        "real_regions",
        "synthetic_regions",
    )
    with pytest.raises(InputError, match=expected):
        regularized_loss(**(dict(zip(names, (z, z, y, y, y, y), strict=True)) | change))
