"""Logits, targets and regions in, the regularized loss of paper 000 (Eq. 7) with its four terms out."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from ray_synth.errors import InputError


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
    """λ·CE(real) + CE(synthetic) + λ₁·discrepancy + λ₂·robustness (paper 000, Eq. 7).

    Args:
        real_logits, synthetic_logits: [B,C] and [G,C]; an empty side adds 0.
        real_targets, synthetic_targets: int [B] or soft [B,C].
        real_regions, synthetic_regions: int [B] and [G].
        real_weight: λ. For every image to weigh the same, 1 / synthetic_ratio.
        variant: `paper` takes ℓ2 norms between softmax outputs over ordered pairs, weighted as in Eq. 7; `released`
            follows the published code: mean squared difference of logits over the pairs of a region, synthetic pairs
            once each (i < j), averaged over all pairs of the batch.

    Memory grows with the number of pairs in a common region.
    """
    if variant not in ("paper", "released"):
        raise InputError(f"variant must be 'paper' or 'released', got {variant!r}")
    real = _cross_entropy(real_logits, real_targets)
    synthetic = _cross_entropy(synthetic_logits, synthetic_targets)
    terms = _paper_terms if variant == "paper" else _released_terms
    discrepancy, robustness = terms(real_logits, synthetic_logits, real_regions, synthetic_regions)
    total = real_weight * real + synthetic + lambda_1 * discrepancy + lambda_2 * robustness
    return RegularizedLoss(total, real, synthetic, discrepancy, robustness)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets) if len(logits) else logits.sum()


def _paper_terms(
    real_logits: torch.Tensor,
    synthetic_logits: torch.Tensor,
    real_regions: torch.Tensor,
    synthetic_regions: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    h_real, h_synthetic = real_logits.softmax(-1), synthetic_logits.softmax(-1)
    cross = real_regions[:, None] == synthetic_regions[None, :]  # (B, G)
    n_i = cross.sum(0)  # (G,) real samples in the region of each synthetic one
    valid = n_i > 0
    g = valid.sum().clamp(min=1).to(h_synthetic.dtype)
    # g_i/g * 1/(g_i n_i) = 1/(g n_i) for each pair (s, g).
    s, t = cross.nonzero(as_tuple=True)
    discrepancy = (_distances(h_real[s], h_synthetic[t]) / (g * n_i[t])).sum()
    same = (synthetic_regions[:, None] == synthetic_regions[None, :]) & valid[:, None]  # (G, G)
    g_i = same.sum(0)
    a, b = same.triu(1).nonzero(as_tuple=True)
    robustness = (2 * _distances(h_synthetic[a], h_synthetic[b]) / (g * g_i[a])).sum()
    return discrepancy, robustness


def _released_terms(
    real_logits: torch.Tensor,
    synthetic_logits: torch.Tensor,
    real_regions: torch.Tensor,
    synthetic_regions: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    cross = real_regions[:, None] == synthetic_regions[None, :]
    s, t = cross.nonzero(as_tuple=True)
    same = (synthetic_regions[:, None] == synthetic_regions[None, :]) & cross.any(0)[:, None]
    a, b = same.triu(1).nonzero(as_tuple=True)
    return (
        _mean_squared(real_logits[s], synthetic_logits[t]),
        _mean_squared(synthetic_logits[a], synthetic_logits[b]),
    )


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Row-wise ℓ2; torch gives the norm a zero gradient where two rows coincide."""
    return torch.linalg.vector_norm(a - b, dim=-1)


def _mean_squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().mean() if len(a) else (a - b).sum()
