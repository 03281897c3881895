"""Accuracy on test sets of another origin and under corruptions, and what is left of the clean one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ray_synth.report.plots import BLUE, GREY, ORANGE, STYLE
from ray_synth.report.results import RunResults
from ray_synth.report.sections.gains import NAMES
from ray_synth.report.sections.shown import Shown, drawn

COLORS = {"real_only": GREY, "at_predicted": BLUE, "best": ORANGE}


def shifts(results: RunResults) -> Shown | None:
    further, corruption = results.details.get("ood", {}), results.details.get("corruption")
    same = results.details.get("final_accuracy", {}).get("same", {})
    metrics = {name: value for name, value in results.metrics.items() if name.rpartition("/")[2] not in same}
    sets = {name: _row(metrics, f"ood/{name}") for name in further}
    corruptions = {name: _row(metrics, f"corruption/{name}") for name in corruption["strengths"]} if corruption else {}
    if corruption:
        corruptions["mean"] = _row(metrics, "corruption/mean")
    if not sets and not corruptions:
        return None
    return Shown(
        "shifts.html",
        {
            "settings": [said for name, said in NAMES.items() if f"accuracy/{name}" in metrics],
            "sets": sets,
            "further": further,
            "corruptions": corruptions,
            "corruption": corruption,
            "figure": drawn(strengths_figure(corruption)) if corruption else None,
        },
    )


def _row(metrics: Mapping[str, float], prefix: str) -> Sequence[str]:
    """A cell for each setting (accuracy, interval, and what is left), and the gain of the best one."""
    cells = [_cell(metrics, f"{prefix}/{name}") for name in NAMES if f"accuracy/{name}" in metrics]
    if f"{prefix}/gain" not in metrics:
        return [*cells, ""]
    gain, low, high = (100 * metrics[f"{prefix}/gain{end}"] for end in ("", "/low", "/high"))
    return [*cells, f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"]


def _cell(metrics: Mapping[str, float], key: str) -> str:
    if key not in metrics:
        return ""
    said = f"{metrics[key]:.4f} ±{(metrics[f'{key}/high'] - metrics[f'{key}/low']) / 2:.4f}"
    return said + (f"; {100 * metrics[f'{key}/remains']:.0f} %" if f"{key}/remains" in metrics else "")


def strengths_figure(corruption: Mapping[str, Any]) -> Figure:
    """A panel per corruption: accuracy over its five strengths, from the clean images on."""
    with matplotlib.rc_context(STYLE):
        names = list(corruption["strengths"])
        figure = Figure(figsize=(max(4.0, 1.9 * len(names)), 2.4), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for axes, name in zip(panels, names, strict=True):
            for setting, values in corruption["strengths"][name].items():
                if setting in COLORS:
                    points = [corruption["clean"][setting], *values]
                    axes.plot(range(len(points)), points, color=COLORS[setting], lw=1.5, label=NAMES[setting])
            axes.set_title(name.replace("_", " "), fontsize=9)
            axes.set_xticks(range(6))
            axes.set_xlabel("strength", fontsize=8)
        panels[0].set_ylabel("accuracy")
        panels[-1].legend(frameon=False, fontsize=7)
    return figure
