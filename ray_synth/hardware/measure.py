"""Times of repeated pieces in, a number with its uncertainty and its origin out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, the standard deviation of its logarithm, and where it is from."""

    value: float
    sigma: float
    origin: str

    def times(self, factor: float, *, sigma: float = 0.0, note: str = "") -> Measure:
        origin = f"{self.origin}; {note}" if note else self.origin
        return Measure(value=self.value * factor, sigma=math.hypot(self.sigma, sigma), origin=origin)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Measure:
        """What a file holds. Raises KeyError, TypeError or ValueError."""
        measure = cls(**raw)
        number = isinstance(measure.value, int | float) and isinstance(measure.sigma, int | float)
        if not number or not 0 <= measure.value < math.inf or not 0 <= measure.sigma < 10 or not measure.origin:
            raise ValueError(f"a rate needs value >= 0, sigma >= 0 and an origin, got {dict(raw)}")
        return cls(value=float(measure.value), sigma=float(measure.sigma), origin=str(measure.origin))


NOTHING = Measure(value=0.0, sigma=0.0, origin="none")


def spread(values: Sequence[float]) -> float:
    """Standard deviation of the logarithm of the mean of some repeated pieces."""
    positive = np.asarray([value for value in values if value > 0])
    if len(positive) < 2:
        return 0.0
    return float(np.log(positive).std(ddof=1) / math.sqrt(len(positive)))
