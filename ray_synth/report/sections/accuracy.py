"""Accuracy of the compared settings on the test set."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, table

GENERATORS = ("predicted_generator", "best_generator")  # of several, in the summary


def accuracy(results: RunResults) -> Shown | None:
    summary = results.summary
    of_it = {name: f", {summary.more[name]}" for name in GENERATORS if summary.more.get(name)}
    compared = [
        ("real images only", "real_only", 0.0),
        (f"at the predicted ratio{of_it.get('predicted_generator', '')}", "at_predicted", summary.predicted_ratio),
        (f"best of the sweep{of_it.get('best_generator', '')}", "best", summary.best_ratio),
    ]
    rows = [
        (said, f"{ratio:.3g}", f"{summary.accuracy[name]:.4f}", f"{summary.accuracy_std[name]:.4f}")
        for said, name, ratio in compared
        if name in summary.accuracy
    ]
    head = ("setting", "synthetic ratio", "accuracy", f"± std of {summary.repeats}")
    return table("Accuracy on the test set", head, rows, numbers=(1, 2, 3)) if rows else None
