"""What a classifier leaks about its training images: the ROC of membership inference on two logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ray_synth.report.plots import BLUE, GREY, ORANGE, STYLE, plain_logarithm
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, drawn

FEW_SHOTS = 16  # images a class, up to which most is leaked (Tobaben et al., 2024)
COLORS = {"real": ORANGE, "synthetic": BLUE}
RATES = {"1 %": "tpr_at_1_percent", ".1 %": "tpr_at_0.1_percent"}


def membership(results: RunResults) -> Shown | None:
    metrics = results.metrics
    shown = [on for on in COLORS if f"lira/{on}/auc" in metrics]
    if not shown:
        return None
    shots, non_members = metrics["lira/images_per_class"], int(metrics["lira/non_members"])
    rows = [
        [
            on,
            f"{metrics[f'lira/{on}/accuracy']:.3f}",
            _auc(metrics, on),
            *(_rate(metrics, on, n) for n in RATES.values()),
        ]
        for on in shown
    ]
    return Shown(
        "membership.html",
        {
            "rows": rows,
            "roc": drawn(roc_figure(metrics)),
            "shadows": int(metrics["lira/shadows"]),
            "shots": shots,
            "few": shots <= FEW_SHOTS,
            "few_shots": FEW_SHOTS,
            "non_members": non_members,
            "resolved": f"{100 / non_members:.2g}",
        },
    )


def _auc(metrics: Mapping[str, float], on: str) -> str:
    return f"{metrics[f'lira/{on}/auc']:.3f} ± {metrics[f'lira/{on}/auc/std']:.3f}"


def _rate(metrics: Mapping[str, float], on: str, name: str) -> str:
    value, low, high = (metrics.get(f"lira/{on}/{name}{end}") for end in ("", "/low", "/high"))
    if value is None or low is None or high is None:
        return "withheld: too few images to tell"
    return f"{100 * value:.3g} % ({100 * low:.3g} to {100 * high:.3g})"


def roc_figure(metrics: Mapping[str, float]) -> Figure:
    """A curve for each kind of training images over that of guessing. metrics: with `lira/WHICH/roc/FPR`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        axes, least = figure.subplots(), 1.0
        for on, color in COLORS.items():
            start = f"lira/{on}/roc/"
            points = sorted((float(k.removeprefix(start)), v) for k, v in metrics.items() if k.startswith(start))
            if points:
                fpr, tpr = np.asarray(points).T
                least = min(least, float(fpr[0]))
                axes.plot(fpr, np.where(tpr > 0, tpr, np.nan), color=color, lw=1.6, label=f"trained on {on} images")
        axes.plot([least, 1], [least, 1], color=GREY, lw=1, ls="--", label="guessing")
        axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.05))
        for axis in (axes.xaxis, axes.yaxis):
            plain_logarithm(axis)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        return figure
