"""The losses of a generator that was fine-tuned, and what it made meanwhile."""

from __future__ import annotations

import base64

import matplotlib
from matplotlib.figure import Figure

from ray_synth.report.plots import BLUE, ORANGE, STYLE
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, drawn


def finetuning(results: RunResults) -> Shown | None:
    if not results.adapters:
        return None
    pictures = {
        step: "data:image/png;base64," + base64.b64encode(data).decode()
        for step, data in results.adapter_samples.items()
    }
    return Shown("finetuning.html", {"curves": drawn(_curves(results)), "pictures": pictures})


def _curves(results: RunResults) -> Figure:
    """A line per adapter: losses of the batches, and of held-out images where there are any."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 3.0), layout="constrained")
        axes = figure.subplots()
        for name, color, label in (("loss", BLUE, "batches"), ("validation_loss", ORANGE, "held-out images")):
            for number, history in enumerate(results.adapters.values()):
                points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
                if points:
                    axes.plot(
                        *zip(*points, strict=True), color=color, lw=1.2, alpha=0.8, label=None if number else label
                    )
        axes.set_xlabel("step")
        axes.set_ylabel("denoising loss")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
        return figure
