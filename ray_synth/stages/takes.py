"""A setting in, what a training at it takes out: itself, its images and its updates, as units that rates price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ray_synth.hardware.measure import Measure
from ray_synth.stages.inputs import Inputs

if TYPE_CHECKING:
    from ray_synth.classifier.setting import Setting


def sides_of(inputs: Inputs, setting: Setting, counts: np.ndarray | None = None) -> tuple[int, int]:
    """Real and synthetic images that a training at a setting takes. counts: real ones of each class; default all."""
    counts = inputs.real_counts if counts is None else counts
    synthetic = int(setting.synthetic_counts(counts, inputs.experiment, inputs.given).sum())
    return (int(counts.sum()) if inputs.experiment.data.use_real or not synthetic else 0), synthetic


def training_takes(
    inputs: Inputs, setting: Setting, unit: str, *, times: int = 1, counts: np.ndarray | None = None
) -> dict[str, float]:
    """What a training at a setting takes: itself, its images, and its optimizer updates, with both sides or one."""
    from ray_synth.classifier.train import num_updates

    real, synthetic = sides_of(inputs, setting, counts)
    updates = num_updates(setting.applied_to(inputs.experiment.classifier), real, synthetic)
    update = ("" if unit == "trial" else f"{unit}_") + "update" + ("" if real and synthetic else "_one_side")
    return {unit: times, f"{unit}_image": times * (real + synthetic), update: times * updates}


def as_training(trials: Mapping[str, Measure], alone: Measure) -> dict[str, Measure]:
    """A trial's seconds as those of a final training, which takes so many times as long: it has the machine alone."""
    units = {"trial": "training", "trial_image": "training_image"}
    units |= {name: f"training_{name}" for name in ("update", "update_one_side")}
    return {
        units[name]: measure.times(alone.value, sigma=alone.sigma, note=alone.origin)
        for name, measure in trials.items()
        if name in units
    }
