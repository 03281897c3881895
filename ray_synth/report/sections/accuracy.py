"""Accuracy of the compared settings on the test set."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, table


def accuracy(results: RunResults) -> Shown | None:
    summary = results.summary
    compared = [
        ("real images only", "real_only", 0.0),
        ("at the predicted ratio", "at_predicted", summary.predicted_ratio),
        ("best of the sweep", "best", summary.best_ratio),
    ]
    rows = [
        (said, f"{ratio:.3g}", f"{summary.accuracy[name]:.4f}", f"{summary.accuracy_std[name]:.4f}")
        for said, name, ratio in compared
        if name in summary.accuracy
    ]
    head = ("setting", "synthetic ratio", "accuracy", f"± std of {summary.repeats}")
    return table("Accuracy on the test set", head, rows, numbers=(1, 2, 3)) if rows else None
