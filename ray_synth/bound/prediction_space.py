"""A classifier's outputs and regions in, terms of the prediction-space bound (Nguyen et al., 2025, Theorem 3.3) out.

Diagnostics of a run, not a guarantee that is met: expectations under the real distribution are not computable, and the
terms that need them are estimated on validation outputs where those are given.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BoundTerms:
    """Theorem 3.3's terms before L_h; `total` adds them up with it. Sums run over regions that hold a real sample; one
    that holds no synthetic sample has g_i = 0, and its real loss stands in full.

    discrepancy: Σ (g_i/g) d̄(G_i,S_i); robustness: Σ (g_i/g) R(G_i,Z_i); synthetic_loss: F(P_g,h); imbalance:
    Σ (n_i/n − g_i/g) F(S_i,h); real_robustness: Σ (n_i/n) d̄(S_i, P₀|Z_i), 0 where no validation outputs were given;
    complexity: C_h(1/√n + 1/√g)√(2K ln 2 + 2 ln(2/δ)).
    """

    discrepancy: float
    robustness: float
    synthetic_loss: float
    imbalance: float
    real_robustness: float
    complexity: float
    total: float
    covered_real: float  # share of the real samples whose region holds a synthetic one: the theorem asks for all

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """What a classifier says of real or of synthetic samples: softmax outputs [n,C], losses and regions [n].

    share: of the whole set, where this is a sample; what is no mean counts the whole.
    """

    outputs: np.ndarray
    losses: np.ndarray
    regions: np.ndarray
    share: float = 1.0


def prediction_space_bound(
    real: Side,
    synthetic: Side,
    *,
    num_regions: int,
    lipschitz: float | None = None,
    loss_bound: float | None = None,
    delta: float = 0.05,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> BoundTerms:
    """The bound (Nguyen et al., 2025, Theorem 3.3) on the samples at hand.

    Args:
        num_regions: K.
        lipschitz: L_h, of the loss in the output; default exp(C_h), for a cross-entropy up to C_h has probabilities
            from exp(−C_h). (√2 is its constant in the logits, not in softmax outputs: there it has none.)
        loss_bound: C_h; default the largest loss seen.
        delta: the bound holds with probability 1 − delta.
        validation: outputs [v,C] and regions [v] of real samples not trained on.
    """
    h_s, h_g = (np.asarray(side.outputs, dtype=np.float64) for side in (real, synthetic))
    if not len(h_s) or not len(h_g) or not 0 < delta < 1 or num_regions < 1:
        raise InputError(
            f"outputs of both sides, num_regions >= 1 and delta in (0, 1) are needed, got {len(h_s)} and {len(h_g)}, "
            f"{num_regions}, {delta}"
        )
    losses_s, losses_g = (np.asarray(side.losses, dtype=np.float64) for side in (real, synthetic))
    r_s, r_g = np.asarray(real.regions), np.asarray(synthetic.regions)
    regions = np.unique(r_s)
    covered = np.isin(r_s, r_g)
    g, n = int(np.isin(r_g, regions).sum()), len(h_s)
    discrepancy = robustness = imbalance = real_robustness = 0.0
    for i in regions:
        s_i, g_i = h_s[r_s == i], h_g[r_g == i]
        share_g, share_n = len(g_i) / max(g, 1), len(s_i) / n
        if len(g_i):
            discrepancy += share_g * _mean_distance(s_i, g_i)
            robustness += share_g * _mean_distance(g_i, g_i)
        imbalance += (share_n - share_g) * float(losses_s[r_s == i].mean())
        if validation is not None:
            v_i = np.asarray(validation[0], dtype=np.float64)[np.asarray(validation[1]) == i]
            real_robustness += share_n * _mean_distance(s_i, v_i) if len(v_i) else 0.0
    largest = float(max(losses_s.max(), losses_g.max())) if loss_bound is None else loss_bound
    width = math.sqrt(2 * num_regions * math.log(2) + 2 * math.log(2 / delta))
    complexity = largest * (math.sqrt(real.share / n) + math.sqrt(synthetic.share / max(g, 1))) * width
    synthetic_loss = float(losses_g.mean())
    slope = math.exp(min(largest, 700.0)) if lipschitz is None else lipschitz
    return BoundTerms(
        discrepancy=discrepancy,
        robustness=robustness,
        synthetic_loss=synthetic_loss,
        imbalance=imbalance,
        real_robustness=real_robustness,
        complexity=complexity,
        total=slope * (discrepancy + robustness + real_robustness) + synthetic_loss + imbalance + complexity,
        covered_real=float(covered.mean()),
    )


def asymptotic_complexity(*, num_real: int, num_regions: int, loss_bound: float, delta: float = 0.05) -> float:
    """The last term with unlimited synthetic samples: (C_h/√n)·√(2K ln 2 − 2 ln δ) (Theorem 3.4)."""
    return loss_bound / math.sqrt(num_real) * math.sqrt(2 * num_regions * math.log(2) - 2 * math.log(delta))


def macro_bound(synthetic_loss: float, across: float, within: float, *, lipschitz: float) -> float:
    """Corollary 3.5: F(P_g,h) + L_h[d̄(P₀,P_g) + d̄(P₀,P₀)], a bound on the loss averaged over regions."""
    return synthetic_loss + lipschitz * (across + within)


def _mean_distance(a: FloatArray, b: FloatArray) -> float:
    """Mean ℓ2 distance over all ordered pairs, in blocks of rows."""
    total = sum(
        float(np.linalg.norm(a[i : i + 256, None, :] - b[None, :, :], axis=-1).sum()) for i in range(0, len(a), 256)
    )
    return total / (len(a) * len(b))
