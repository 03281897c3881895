"""Results in, tables on standard output out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(summary: Mapping[str, Any]) -> None:
    """The final table of a run."""
    accuracy, std = summary["accuracy"], summary["accuracy_std"]
    low, high = summary["interval"]
    table = _two_columns(summary["name"])
    table.add_row(
        "predicted ratio", f"{summary['predicted_ratio']:.3g}  (interval {low:.3g} to {high:.3g}; {summary['verdict']})"
    )
    table.add_row("swept best ratio", f"{summary['best_ratio']:.3g}")
    for label, name in (
        ("real data only", "real_only"),
        ("at the predicted ratio", "at_predicted"),
        ("at the best", "best"),
    ):
        table.add_row(
            f"test accuracy {label}", f"{accuracy[name]:.4f} ± {std[name]:.4f}  (std of {summary['repeats']})"
        )
    table.add_row("label fidelity", f"{summary['label_fidelity']:.3f}")
    table.add_row("images generated", f"{summary['num_generated']:,}")
    table.add_row("trials", f"{summary['num_trials']}")
    seconds = summary["seconds"]
    table.add_row("seconds per stage", "  ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    table.add_row("seconds in all", f"{sum(seconds.values()):.1f}")
    _console().print(table)


def print_estimate(estimate: Mapping[str, Any]) -> None:
    """A prediction, with each method's own answer."""
    low, high = estimate["interval"]
    formula = estimate["methods"]["closed_form"]
    table = _two_columns("estimate")
    table.add_row(
        "predicted ratio", f"{estimate['ratio']:.3g}  (interval {low:.3g} to {high:.3g}, {estimate['confidence']:.0%})"
    )
    table.add_row("verdict", f"{estimate['verdict']}: {estimate['reason']}")
    table.add_row("images", f"{estimate['num_real']:,} real, {estimate['num_synthetic']:,} synthetic")
    table.add_row("probe", f"{estimate['methods']['probe']['ratio']:.3g}")
    table.add_row("closed form", f"{formula['ratio']:.3g}  (pixels in [0, 1])")
    table.add_row(
        "", f"{formula['ratio_raw_variance']:.3g}  (variance of pixels in [0, 255]: the formula swings with this scale)"
    )
    _console().print(table)


def _two_columns(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
