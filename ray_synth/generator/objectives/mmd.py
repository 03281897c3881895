"""The errors of a batch's predictions in, the distribution-matching term out (Yuan et al., 2024, Eq. 7 and 21)."""

from __future__ import annotations

from typing import Literal

import torch

Variant = Literal["paper", "released"]
GAMMA = {"paper": 0.05, "released": 0.003}


def mmd_loss(residual: torch.Tensor, weights: torch.Tensor, *, variant: Variant = "paper") -> torch.Tensor:
    """Squared norm of what a batch's errors have in common, a mean over dimensions as the denoising loss is one.

    Args:
        residual: [B,...], target minus prediction.
        weights: [B], of each image's squared error; only `released` reads them.
        variant: paper: of the batch's mean, Eq. 7. released: of its sum, each image weighed by min-SNR; with weights of
            1 it is B^2 times that of the paper.
    """
    errors = residual.to(torch.promote_types(residual.dtype, torch.float32)).flatten(1)
    if variant == "paper":
        return errors.mean(dim=0).square().mean()
    return (errors * weights.to(errors)[:, None]).sum(dim=0).square().mean()
