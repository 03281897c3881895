"""The predicted ratio, and the sweep's trials on the predicted curve."""

from __future__ import annotations

from ray_synth.report.methods import allocation_said
from ray_synth.report.plots import ratio_curve
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, drawn


def prediction(results: RunResults) -> Shown:
    summary, estimate = results.summary, results.estimate
    of_several = results.ranking[0].name if results.ranking else None
    curve = drawn(ratio_curve(estimate, results.trials, summary.best_ratio, summary.predicted_ratio, of_several))
    values = {"summary": summary, "estimate": estimate, "curve": curve, "allocation": allocation_said(estimate)}
    return Shown("prediction.html", {**values, "ranking": results.ranking})
