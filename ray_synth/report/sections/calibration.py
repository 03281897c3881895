"""How sure the classifiers are of their answers, and how often these are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ray_synth.report.plots import BLUE, GREY, ORANGE, STYLE
from ray_synth.report.results import RunResults
from ray_synth.report.sections.gains import NAMES
from ray_synth.report.sections.shown import Shown, drawn

COLORS = {"real_only": GREY, "at_predicted": BLUE, "best": ORANGE}


def calibration(results: RunResults) -> Shown | None:
    bins = results.details.get("final_accuracy", {}).get("calibration", {})
    shown = [name for name in NAMES if name in bins and f"calibration_error/{name}" in results.metrics]
    if not shown:
        return None
    rows = [
        (NAMES[name], f"{results.metrics[f'calibration_error/{name}']:.4f}", f"{_surer(bins[name]):+.4f}")
        for name in shown
    ]
    figure = reliability_figure({name: bins[name] for name in shown if name in COLORS})
    return Shown("calibration.html", {"rows": rows, "figure": drawn(figure)})


def _surer(bins: Mapping[str, Any]) -> float:
    """Mean confidence less accuracy: above 0 it is surer than it is right."""
    counts = np.asarray(bins["counts"])
    difference = np.asarray(bins["confidence"]) - np.asarray(bins["accuracy"])
    return float((counts * difference).sum() / max(counts.sum(), 1))


def reliability_figure(bins: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracy over confidence, bin by bin; a bin's dot is as large as its share of the answers."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="as sure as right")
        for name, each in bins.items():
            counts = np.asarray(each["counts"])
            there = counts > 0
            x, y = (np.asarray(each[key])[there] for key in ("confidence", "accuracy"))
            axes.plot(x, y, color=COLORS[name], lw=1.2, label=NAMES[name])
            axes.scatter(x, y, s=4 + 60 * counts[there] / counts.sum(), color=COLORS[name])
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure
