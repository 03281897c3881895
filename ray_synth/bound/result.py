"""What an estimate says: the ratio, its interval, curve and verdict, every method's own answer, and the costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ray_synth.allocation import Allocation
from ray_synth.bound.curve import Verdict
from ray_synth.errors import InputError
from ray_synth.records import record


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Predicted test error over synthetic ratios, with its band at the asked confidence. All [G]."""

    ratio: tuple[float, ...]
    error: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class AllocationEstimate:
    """What one allocation would give at its own best ratio: predicted accuracy and balanced accuracy."""

    ratio: float
    interval: tuple[float, float]
    accuracy: float
    balanced_accuracy: float


@dataclass(frozen=True, kw_only=True)
class ClassEstimate:
    """One class. `ratio` is the best for this class's recall, `interval` as that of all classes; the distance compares
    its two image sets.

    label: as it was given, a number or a name.

    interval: None where the class has too few real images for a curve of its own, or no synthetic ones.

    distance: what the exact W₂ between the sets exceeds that of two synthetic samples by; None below 2 images a side.
    """

    label: int | str
    num_real: int
    num_synthetic: int
    ratio: float
    interval: tuple[float, float] | None
    recall_real_only: float
    recall: float
    distance: float | None


@dataclass(frozen=True, kw_only=True)
class WeightEstimate:
    """The second knob at one ratio: the best weight of the real set in Eq. 7 (λ; uniform weights are 1/ratio).

    gain: accuracy over uniform weights, with its standard deviation.
    """

    ratio: float
    real_weight: float
    gain: float
    gain_std: float


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Radially averaged power spectra of both sets: cycles per pixel [B], power of real and synthetic images [B]."""

    frequency: tuple[float, ...]
    real: tuple[float, ...]
    synthetic: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RatioEstimate:
    """What is predicted before training. Ratios are synthetic over real, in [0, max_ratio].

    interval: with probability `confidence` it holds a ratio within .003 accuracy of the best.
    allocation: the recommended one, or the one that was asked for; recommended: the former, whatever was asked for;
    allocations: what each would give. On real sets of equal classes they are one.
    metric: what the curve is of: accuracy, or balanced_accuracy, in which classes count alike.
    real_equivalent: synthetic images that are worth one real image at the predicted ratio; None where they are worth
    nothing, or where nothing tells.
    weights: the best `real_weight` at each ratio and its worth; empty where a weight was given.
    warnings: what may make the prediction wrong.
    features: what the images were looked at through, in words.
    """

    ratio: float
    interval: tuple[float, float]
    allocation: Allocation
    allocations: Mapping[Allocation, AllocationEstimate]
    metric: str
    verdict: Verdict
    reason: str
    curve: Curve
    methods: Mapping[str, Mapping[str, Any]]
    weights: tuple[WeightEstimate, ...]
    real_equivalent: float | None
    classes: tuple[ClassEstimate, ...]
    spectra: Spectra
    warnings: tuple[str, ...]
    confidence: float
    max_ratio: float
    num_real: int
    num_real_given: int
    num_synthetic: int
    features: str = ""
    recommended: Allocation = "fill"

    def error_at(self, ratio: float) -> float:
        """Predicted test error at a ratio in [0, max_ratio]."""
        u = np.log2(1 + np.asarray(self.curve.ratio))
        return float(np.interp(np.log2(1 + ratio), u, self.curve.error))

    def cheapest(
        self,
        *,
        tolerance: float = 0.005,
        cost_per_image: float = 0.0,
        cost_per_update: float = 0.0,
        updates: int = 0,
        budget: Literal["updates", "epochs"] = "updates",
    ) -> dict[str, float]:
        """The cheapest ratio whose predicted error is within `tolerance` of the best, and what it costs.

        A ratio costs ratio · num_real images and, with budget "epochs", (1 + ratio) · updates optimizer updates
        (`updates` at ratio 0); with budget "updates" their number is the same at every ratio.

        Returns:
            ratio, error, cost, and best_ratio, best_error, best_cost of the most accurate ratio.
        """
        if tolerance < 0 or cost_per_image < 0 or cost_per_update < 0 or updates < 0:
            raise InputError(
                f"tolerance, costs and updates must be >= 0, got {tolerance}, {cost_per_image}, {cost_per_update}, "
                f"{updates}"
            )
        if budget not in ("updates", "epochs"):
            raise InputError(f'budget must be "updates" or "epochs", got {budget!r}')
        ratios, errors = np.asarray(self.curve.ratio), np.asarray(self.curve.error)
        grown = 1 + ratios if budget == "epochs" else np.ones_like(ratios)
        costs = cost_per_image * ratios * self.num_real + cost_per_update * updates * grown
        best = int(errors.argmin())
        near = np.flatnonzero(errors <= errors[best] + tolerance)
        pick = int(near[costs[near].argmin()])
        return {
            "ratio": float(f"{ratios[pick]:.3g}"),
            "error": float(errors[pick]),
            "cost": float(costs[pick]),
            "best_ratio": float(f"{ratios[best]:.3g}"),
            "best_error": float(errors[best]),
            "best_cost": float(costs[best]),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        plain: dict[str, Any] = asdict(self, dict_factory=_listed)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RatioEstimate:
        """What `to_dict` gave. Raises InputError that names a field which is missing or holds something else."""
        return record(cls, plain, "estimate.json")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One generator among several: the probability that it is the best one, at its own best ratio."""

    name: str
    probability: float
    estimate: RatioEstimate

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "probability": self.probability, **self.estimate.to_dict()}


def _listed(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}
