"""Logits, targets and regions in, the regularized loss (Nguyen et al., 2025, Eq. 7) with its four terms out.

Everything is one autograd function: softmax is taken once for cross-entropy, both terms and the backward pass, and the
two terms touch only pairs of samples that share a region, found by sorting.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ray_synth.errors import InputError

BLOCK = 2**24  # elements of pair differences that are kept for the backward pass; beyond it they are made again


class RegularizedLoss(NamedTuple):
    """`total` is what to minimise; the other four are before their weights."""

    total: torch.Tensor
    real: torch.Tensor
    synthetic: torch.Tensor
    discrepancy: torch.Tensor
    robustness: torch.Tensor


def regularized_loss(
    real_logits: torch.Tensor,
    synthetic_logits: torch.Tensor,
    real_targets: torch.Tensor,
    synthetic_targets: torch.Tensor,
    real_regions: torch.Tensor,
    synthetic_regions: torch.Tensor,
    *,
    real_weight: float = 4.0,
    lambda_1: float = 0.1,
    lambda_2: float = 1.0,
    variant: Literal["paper", "released"] = "paper",
) -> RegularizedLoss:
    """λ·CE(real) + CE(synthetic) + λ₁·discrepancy + λ₂·robustness (Nguyen et al., 2025, Eq. 7).

    Args:
        real_logits, synthetic_logits: [B,C] and [G,C]; an empty side adds 0.
        real_targets, synthetic_targets: int [B] or soft [B,C].
        real_regions, synthetic_regions: int [B] and [G].
        real_weight: λ. For every image to weigh the same, 1 / synthetic_ratio.
        variant: `paper` takes ℓ2 norms between softmax outputs over ordered pairs, weighted as in Eq. 7; `released`
            follows the published code: mean squared difference of logits over the pairs of a region, synthetic pairs
            once each (i < j), averaged over all pairs of the batch.

    Memory grows with the number of pairs in a common region. Where two outputs coincide their distance has gradient 0.

    Raises:
        InputError: shapes that do not fit, a target outside the classes, and, on a CPU, logits that are not finite
            (on a GPU that would wait for it; `fit` looks at every validation pass).
    """
    _check(variant, real_logits, real_targets, real_regions, "real")
    _check(variant, synthetic_logits, synthetic_targets, synthetic_regions, "synthetic")
    if real_logits.shape[1] != synthetic_logits.shape[1]:
        raise InputError(
            f"both logits must have the same classes, got {real_logits.shape[1]} real and {synthetic_logits.shape[1]}"
        )
    z_s, z_g = _in_one_type(real_logits, synthetic_logits)
    real, synthetic, discrepancy, robustness = _Eq7.apply(  # type: ignore[no-untyped-call]
        z_s,
        z_g,
        _as_given(real_targets, z_s),
        _as_given(synthetic_targets, z_g),
        Pairs.of(real_regions, synthetic_regions, variant),
        variant,
    )
    total = real_weight * real + synthetic + lambda_1 * discrepancy + lambda_2 * robustness
    if total.device.type == "cpu" and not total.isfinite():
        _refuse_nan(real_logits, synthetic_logits)
    return RegularizedLoss(total, real, synthetic, discrepancy, robustness)


def region_terms(
    real_logits: torch.Tensor,
    synthetic_logits: torch.Tensor,
    real_regions: torch.Tensor,
    synthetic_regions: torch.Tensor,
    *,
    variant: Literal["paper", "released"] = "paper",
    live: Live | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Discrepancy and robustness alone, as in `regularized_loss`: for logits of which the targets are not wanted.

    live: only pairs with at least one of these samples are summed, at the weight they have among all.
    """
    regions = real_regions, synthetic_regions
    pairs = Pairs.of(*regions, variant) if live is None else Pairs.with_one_of(live, *regions, variant)
    z_s, z_g = _in_one_type(real_logits, synthetic_logits)
    _, _, discrepancy, robustness = _Eq7.apply(z_s, z_g, None, None, pairs, variant)  # type: ignore[no-untyped-call]
    return discrepancy, robustness


class Live(NamedTuple):
    """Samples of which pairs are wanted, and how many samples there are in all, of which whole regions are given."""

    real: torch.Tensor  # bool [B]
    synthetic: torch.Tensor  # bool [G]
    n: torch.Tensor  # [K], real samples of each region
    g: torch.Tensor  # [K], synthetic ones


class Pairs(NamedTuple):
    """The pairs of samples in a common region, with the weight of their distance: rows s and t, weight [P] each."""

    s: torch.Tensor  # of the real side
    t: torch.Tensor  # of the synthetic side
    across: torch.Tensor
    a: torch.Tensor  # both of the synthetic side
    b: torch.Tensor
    within: torch.Tensor

    @classmethod
    def of(cls, real_regions: torch.Tensor, synthetic_regions: torch.Tensor, variant: str) -> Pairs:
        """By sorting: nothing of size B x G is made."""
        r_s, _ = real_regions.sort()
        r_g, order = synthetic_regions.sort()
        first = torch.searchsorted(r_g, real_regions)
        g_s = torch.searchsorted(r_g, real_regions, right=True) - first  # synthetic samples beside each real one
        s, place = _ranges(first, g_s)
        n_t = torch.searchsorted(r_s, r_g, right=True) - torch.searchsorted(r_s, r_g)  # real beside each synthetic
        here = torch.arange(len(r_g), device=r_g.device)
        end = torch.searchsorted(r_g, r_g, right=True)
        left = torch.where(n_t > 0, end - here - 1, 0)  # each unordered pair once, in regions that hold a real sample
        a, other = _ranges(here + 1, left)
        if variant == "released":
            across, within = _equal_shares(s), _equal_shares(a)
        else:
            g = (n_t > 0).sum().clamp(min=1)
            g_i = end - torch.searchsorted(r_g, r_g)
            across = 1.0 / (g * n_t[place]).double()  # g_i/g · 1/(g_i n_i)
            within = 2.0 / (g * g_i[a]).double()  # both orders of a pair
        return cls(s, order[place], across, order[a], order[other], within)

    @classmethod
    def with_one_of(
        cls, live: Live, real_regions: torch.Tensor, synthetic_regions: torch.Tensor, variant: str
    ) -> Pairs:
        """Those in which at least one sample is live, weighted as among all. The others are never made."""
        n_t, g_t, shared = live.n[synthetic_regions], live.g[synthetic_regions], live.n > 0
        s_live, s_still = (part.nonzero()[:, 0] for part in (live.real, ~live.real))
        t_live, t_still = (part.nonzero()[:, 0] for part in (live.synthetic & (n_t > 0), ~live.synthetic & (n_t > 0)))
        both = real_regions, synthetic_regions
        s, t = _in_common(*both, s_live, torch.cat([t_live, t_still]))
        s_more, t_more = _in_common(*both, s_still, t_live)
        a, b = _in_common(synthetic_regions, synthetic_regions, t_live, t_still)
        a_more, b_more = _in_common(synthetic_regions, synthetic_regions, t_live, t_live)
        once = a_more < b_more
        s, t, a, b = (torch.cat(x) for x in ((s, s_more), (t, t_more), (a, a_more[once]), (b, b_more[once])))
        if variant == "released":
            number = (live.n * live.g).sum(), (live.g * (live.g - 1))[shared].sum()
            across, within = (1.0 / each.clamp(min=1).double() for each in number)
            return cls(s, t, across.expand(len(s)), a, b, 2 * within.expand(len(a)))
        g = live.g[shared].sum().clamp(min=1)
        return cls(s, t, 1.0 / (g * n_t[t]).double(), a, b, 2.0 / (g * g_t[a]).double())


def _ranges(first: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For row i the numbers first[i], ..., first[i] + count[i] - 1: (i, number) of each."""
    rows = torch.repeat_interleave(count)
    start = count.cumsum(0) - count
    return rows, first[rows] + torch.arange(len(rows), device=rows.device) - start[rows]


def _in_common(
    left_regions: torch.Tensor, right_regions: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs of these rows, one of each side, that share a region."""
    regions, order = left_regions[left].sort(stable=True)
    sought = right_regions[right]
    first = torch.searchsorted(regions, sought)
    pair, place = _ranges(first, torch.searchsorted(regions, sought, right=True) - first)
    return left[order[place]], right[pair]


def _equal_shares(rows: torch.Tensor) -> torch.Tensor:
    return torch.full((len(rows),), 1.0 / max(len(rows), 1), dtype=torch.float64, device=rows.device)


class _Eq7(torch.autograd.Function):
    """(CE(real), CE(synthetic), discrepancy, robustness), with softmax taken once for all of it."""

    @staticmethod
    def forward(
        ctx: Any,
        z_s: torch.Tensor,
        z_g: torch.Tensor,
        y_s: torch.Tensor,
        y_g: torch.Tensor,
        pairs: Pairs,
        variant: str,
    ) -> tuple[torch.Tensor, ...]:
        h_s, h_g = z_s.softmax(-1), z_g.softmax(-1)
        out_s, out_g = (h_s, h_g) if variant == "paper" else (z_s, z_g)
        pairs = pairs._replace(across=pairs.across.to(z_s.dtype), within=pairs.within.to(z_s.dtype))
        across, kept_across = _weighted_distances(out_s, out_g, pairs.s, pairs.t, pairs.across, variant)
        within, kept_within = _weighted_distances(out_g, out_g, pairs.a, pairs.b, pairs.within, variant)
        ctx.save_for_backward(h_s, h_g, out_s, out_g, y_s, y_g, kept_across, kept_within, *pairs)
        ctx.variant = variant
        return _cross_entropy(z_s, h_s, y_s), _cross_entropy(z_g, h_g, y_g), across, within

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        real, synthetic, discrepancy, robustness = upstream
        h_s, h_g, out_s, out_g, y_s, y_g, kept_across, kept_within, *rest = ctx.saved_tensors
        pairs = Pairs(*rest)
        grad_s, grad_g = torch.zeros_like(h_s), torch.zeros_like(h_g)
        for kept, args, scale, into in (
            (kept_across, (out_s, out_g, pairs.s, pairs.t, pairs.across), discrepancy, (grad_s, grad_g)),
            (kept_within, (out_g, out_g, pairs.a, pairs.b, pairs.within), robustness, (grad_g, grad_g)),
        ):
            for rows, step in _distance_gradients(kept, *args, ctx.variant):
                step = step * scale
                into[0].index_add_(0, args[2][rows], step)
                into[1].index_add_(0, args[3][rows], step, alpha=-1)
        for grad, h, y, scale in ((grad_s, h_s, y_s, real), (grad_g, h_g, y_g, synthetic)):
            _through_softmax(grad, h, y, scale / max(len(h), 1), ctx.variant)
        return grad_s, grad_g, None, None, None, None


def _cross_entropy(z: torch.Tensor, h: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    """Mean over the samples, from softmax outputs: log Σ exp z = max z − log max h, exact since max h >= 1/C."""
    if y is None or not len(z):
        return z.new_zeros(())
    log_sum = z.amax(-1) - h.amax(-1).log()
    if y.ndim == 1:
        return (log_sum - z.gather(1, y[:, None])[:, 0]).mean()
    agreement: torch.Tensor = torch.linalg.vecdot(y, z)
    return (log_sum * y.sum(-1) - agreement).mean()


def _through_softmax(
    grad: torch.Tensor, h: torch.Tensor, y: torch.Tensor | None, scale: torch.Tensor, variant: str
) -> None:
    """In place: what arrives at the outputs becomes what arrives at the logits, and cross-entropy's own is added.

    softmax takes v to h·(v − <h, v>), cross-entropy adds scale·(h·Σy − y).
    """
    mass = scale * (0.0 if y is None else 1.0 if y.ndim == 1 else y.sum(-1, keepdim=True))
    if variant == "paper":
        grad *= h
        mass = mass - grad.sum(-1, keepdim=True)
    grad.addcmul_(h, mass.expand_as(h))
    if y is None:
        return
    if y.ndim == 1:
        grad.scatter_add_(1, y[:, None], (-scale).expand(len(y), 1))
    else:
        grad.addcmul_(y, scale.expand_as(y), value=-1)


def _weighted_distances(
    left: torch.Tensor, right: torch.Tensor, i: torch.Tensor, j: torch.Tensor, weights: torch.Tensor, variant: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ weight·distance of rows i of `left` and j of `right`, and what the gradient needs of it: the weighted unit
    differences where they are few, nothing where they would be many."""
    total = left.new_zeros(())
    blocks = _blocks(len(i), left.shape[1])
    step = left.new_empty(0)
    for rows in blocks:
        difference = left.index_select(0, i[rows]).sub_(right.index_select(0, j[rows]))
        step, distance = _weighted(difference, weights[rows], variant)
        total += torch.dot(distance, weights[rows])
    return total, step if len(blocks) == 1 else left.new_empty(0)


def _distance_gradients(
    kept: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    i: torch.Tensor,
    j: torch.Tensor,
    weights: torch.Tensor,
    variant: str,
) -> Any:
    """(rows, d(Σ weight·distance)/d(left row i)) in blocks of pairs."""
    if len(kept):
        yield slice(0, len(i)), kept
        return
    for rows in _blocks(len(i), left.shape[1]):
        yield (
            rows,
            _weighted(left.index_select(0, i[rows]).sub_(right.index_select(0, j[rows])), weights[rows], variant)[0],
        )


def _weighted(difference: torch.Tensor, weights: torch.Tensor, variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of weight·distance, written over the difference [P,C]; and the distances [P]."""
    if variant == "released":
        classes = difference.shape[1]
        distance = torch.linalg.vector_norm(difference, dim=-1).square_() / classes
        return difference.mul_((2 / classes * weights)[:, None]), distance
    distance = torch.linalg.vector_norm(difference, dim=-1)
    scale = torch.where(distance > 0, weights / distance, 0)  # 0 where two outputs coincide
    return difference.mul_(scale[:, None]), distance


def _blocks(pairs: int, classes: int) -> list[slice]:
    size = max(1, BLOCK // max(classes, 1))
    return [slice(start, min(start + size, pairs)) for start in range(0, pairs, size)]


def _in_one_type(*logits: torch.Tensor) -> list[torch.Tensor]:
    """The wider type of both; half precision is taken to single: sums over pairs need it."""
    wide = torch.promote_types(torch.float32, torch.promote_types(*(z.dtype for z in logits)))
    return [z.to(wide) for z in logits]


def _as_given(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Soft targets in the type of the loss; labels as they are."""
    return targets if targets.ndim == 1 else targets.to(logits.dtype)


def _check(variant: str, logits: torch.Tensor, targets: torch.Tensor, regions: torch.Tensor, side: str) -> None:
    if variant not in ("paper", "released"):
        raise InputError(f"variant must be 'paper' or 'released', got {variant!r}")
    if logits.ndim != 2 or len(targets) != len(logits) or regions.shape != logits.shape[:1]:
        raise InputError(
            f"{side}_logits must be [B,C] with {side}_targets [B] or [B,C] and {side}_regions [B], "
            f"got {list(logits.shape)}, {list(targets.shape)}, {list(regions.shape)}"
        )
    if targets.ndim == 1 and targets.is_floating_point():
        raise InputError(f"{side}_targets [B] must be integers, got {targets.dtype}; soft ones are [B,C]")
    if targets.ndim == 2 and targets.shape != logits.shape:
        raise InputError(f"soft {side}_targets must be {list(logits.shape)} as the logits, got {list(targets.shape)}")
    if targets.ndim == 1 and len(targets) and targets.device.type == "cpu":
        low, high = (int(bound) for bound in torch.aminmax(targets))
        if low < 0 or high >= logits.shape[1]:
            raise InputError(
                f"{side}_targets must be between 0 and {logits.shape[1] - 1}, the classes of the logits, "
                f"got {low if low < 0 else high}"
            )


def _refuse_nan(*logits: torch.Tensor) -> None:
    for side, z in zip(("real", "synthetic"), logits, strict=True):
        bad = int((~z.isfinite()).any(-1).sum())
        if bad:
            raise InputError(f"{side}_logits must be finite, got NaN or infinity in {bad} of {len(z)} rows")
