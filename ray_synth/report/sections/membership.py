"""What a classifier leaks about its training images: the ROC of membership inference on two logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from ray_synth.report.charts import Chart, log_axis, percent
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown

FEW_SHOTS = 16  # images a class, up to which most is leaked (Tobaben et al., 2024)
COLORS = {"real": "orange", "synthetic": "blue"}
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
            "roc": roc_figure(metrics),
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


def roc_figure(metrics: Mapping[str, float]) -> Markup:
    """A curve for each kind of training images over that of guessing. metrics: with `lira/WHICH/roc/FPR`."""
    curves = {}
    for on in COLORS:
        start = f"lira/{on}/roc/"
        points = [(float(k.removeprefix(start)), v) for k, v in metrics.items() if k.startswith(start)]
        curves[on] = sorted(point for point in points if point[1] > 0)
    least = min((fpr for curve in curves.values() for fpr, _ in curve), default=1e-3)
    shares = [least, 1.0]
    chart = Chart(
        x=log_axis("false positive rate", shares, percent),
        y=log_axis("true positive rate", shares, percent),
        height=380,
    )
    for on, kind in COLORS.items():
        if curves[on]:
            fpr, tpr = zip(*curves[on], strict=True)
            chart.line(fpr, tpr, kind, f"trained on {on} images")
            tips = [f"{on}: {percent(t)} found at {percent(f)} false positives" for f, t in curves[on]]
            chart.dots(fpr, tpr, f"{kind} small", tips=tips)
    chart.line(shares, shares, "grey dashed", "guessing")
    return chart.svg("ROC of membership inference, both rates logarithmic; the rates in question are in the table")
