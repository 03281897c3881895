"""The bound and accuracy over the updates of a training (Nguyen et al., 2025, section 5.4), and its regions."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

from ray_synth.report.plots import BLUE, GREY, ORANGE, STYLE
from ray_synth.report.results import History, RunResults
from ray_synth.report.sections.shown import Shown, drawn

COLORS = {"real_only": GREY, "at_predicted": BLUE, "best": ORANGE}
PANELS = {
    "bound/discrepancy": "discrepancy",
    "bound/robustness": "robustness of synthetic",
    "accuracy": "validation accuracy",
}


def training(results: RunResults) -> Shown | None:
    if not results.histories:
        return None
    return Shown("training.html", {"curves": drawn(_curves(results.histories)), "regions": results.regions})


def _curves(histories: Mapping[str, History]) -> Figure:
    """A panel per quantity, a line per setting; a setting without synthetic images has no terms to show."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.0), layout="constrained")
        for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            for setting, history in histories.items():
                points = [(row["update"], row[name]) for row in history if name in row]
                if points:
                    color = COLORS.get(setting)
                    axes.plot(*zip(*points, strict=True), color=color, lw=1.5, label=setting.replace("_", " "))
                    axes.annotate(f"{points[-1][1]:.3g}", points[-1], color=color, fontsize=8)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("update")
        axes.legend(frameon=False, fontsize=8)
        return figure
