"""A prediction as values, without its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_synth.bound.result import Curve, RatioEstimate, Spectra


def curve_of(ratio: Sequence[float], error: Sequence[float], low: Sequence[float], high: Sequence[float]) -> Curve:
    ratio, error, low, high = (tuple(float(value) for value in values) for values in (ratio, error, low, high))
    return Curve(ratio=ratio, error=error, low=low, high=high)


def estimate_of(curve: Curve, **changes: Any) -> RatioEstimate:
    """Of 100 real and 400 synthetic images, up to ratio 16."""
    settings: dict[str, Any] = {
        "ratio": 16.0,
        "interval": (4.0, 16.0),
        "allocation": "fill",
        "allocations": {},
        "metric": "accuracy",
        "verdict": "helps",
        "reason": "",
        "curve": curve,
        "methods": {},
        "weights": (),
        "real_equivalent": None,
        "classes": (),
        "spectra": Spectra(frequency=(), real=(), synthetic=()),
        "warnings": (),
        "confidence": 0.9,
        "max_ratio": 16.0,
        "num_real": 100,
        "num_real_given": 100,
        "num_synthetic": 400,
    }
    return RatioEstimate(**{**settings, **changes})
