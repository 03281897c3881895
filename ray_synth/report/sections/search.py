"""What the sweep did: its best so far, what mattered, and all settings at once, to be brushed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ray_synth.report.charts import Chart, linear_axis, percent, small
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown
from ray_synth.sweep.ledger import Trial

ORIGINS = {
    "first": ("ink", "first trials"),
    "prior": ("blue", "from the prediction"),
    "tpe": ("orange", "from TPE"),
    "random": ("orange", "at random"),
    "grid": ("orange", "on a grid"),
}
NAMES = {"synthetic_ratio": "ratio", "num_clusters": "clusters", "clusters_per_class": "clusters"}
BEST = 0.25  # share of the lines that is drawn as the best
MOST_LINES = 300  # of more trials the best
WIDTH, TOP, HEIGHT, SIDE = 640.0, 30.0, 200.0, 40.0


def search(results: RunResults) -> Shown:
    explained = [(NAMES.get(name, name), share) for name, share in results.importances.items()][:8]
    most = max((share for _, share in explained), default=0) or 1
    values = {
        "history": small("the best so far (lower ones at the edge)", history(results.trials, results.metric)),
        "importances": [(name, f"{100 * share:.0f} %", f"{100 * share / most:.1f}") for name, share in explained],
        "coordinates": coordinates(results.trials, results.metric),
        "cheapest": results.summary.cheapest,
        "metric": said(results.metric),
        "real_share": results.summary.more.get("sweep_real_share"),
    }
    return Shown("search.html", values)


def said(metric: str) -> str:
    return f"validation {metric.replace('_', ' ')}"


def history(trials: Sequence[Trial], metric: str) -> Markup:
    """The trials in their order, and the best of those so far."""
    numbered = list(enumerate(trials))
    values = {
        i: getattr(t, metric) for i, t in numbered if t.status == "complete" and math.isfinite(getattr(t, metric))
    }
    stopped = {i: t.accuracy for i, t in numbered if t.status == "pruned" and math.isfinite(t.accuracy)}
    low = floor_of([*values.values()])
    axis = linear_axis(
        said(metric), [low, *(value for value in (*values.values(), *stopped.values()) if value >= low)], percent
    )
    chart = Chart(x=linear_axis("trial", [0, max(len(trials) - 1, 1)], snug=True), y=axis)
    if values:
        places, best = list[int](), list[float]()
        for place, value in values.items():
            before = best[-1] if best else value
            places += [place, place]
            best += [before, max(before, value)]
        chart.line([*places, len(trials) - 1], [*best, best[-1]], "ink thin", "best so far")
    for origin, (kind, word) in ORIGINS.items():
        at = [i for i in values if trials[i].origin == origin]
        tips = [f"{trials[i].trial_id}, {origin}: {percent(values[i])}" for i in at]
        chart.dots(at, [values[i] for i in at], f"{kind} small", word if at else "", tips)
    tips = [f"{trials[i].trial_id}, stopped early: {percent(value)}" for i, value in stopped.items()]
    chart.dots([*stopped], [*stopped.values()], "grey small hollow", "stopped early", tips)
    return chart.svg(f"{said(metric)} of the trials in their order; the numbers are in the table of trials")


def floor_of(values: Sequence[float]) -> float:
    """Where an axis of these may begin, so that trials which learnt nothing do not flatten all others: three times as
    far below the best as the median is."""
    if not values:
        return 0.0
    best = max(values)
    return max(min(values), best - 3 * (best - float(np.median(values))) - 0.002)


def coordinates(trials: Sequence[Trial], metric: str) -> dict[str, Any] | None:
    """An axis per setting that varies and one for the metric, a line across per complete trial, best ones last.

    What the template draws and the script brushes; None where no setting varies.
    """
    complete = [t for t in trials if t.status == "complete" and math.isfinite(getattr(t, metric))]
    complete = sorted(complete, key=lambda t: float(getattr(t, metric)))[-MOST_LINES:]
    rows = [t.setting.to_dict() for t in complete]
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if len({str(row.get(n)) for row in rows}) > 1]
    if not names:
        return None
    columns = [(NAMES.get(n, n), *_scaled(n, [row.get(n, "") for row in rows])) for n in names]
    measured = [float(getattr(t, metric)) for t in complete]
    columns.append((metric.replace("_", " "), *_outcome(measured)))
    lowest = floor_of(measured)
    across = np.linspace(SIDE, WIDTH - SIDE, len(columns))
    axes = []
    for x, (name, places, texts) in zip(across, columns, strict=True):
        stops = sorted({(_height(place), text) for place, text in zip(places, texts, strict=True)}, reverse=True)
        axes.append({"name": name, "x": f"{x:.1f}", "stops": stops, "bottom": stops[0][1], "top": stops[-1][1]})
    if lowest > min(measured):
        axes[-1]["bottom"] = f"≤ {lowest:.3g}"
    ys = [[_height(places[i]) for _, places, _ in columns] for i in range(len(complete))]
    lines = []
    for i, trial in enumerate(complete):
        points = " ".join(f"{x:.1f},{y}" for x, y in zip(across, ys[i], strict=True))
        said_of = "; ".join(f"{name} {texts[i]}" for name, _, texts in columns)
        best = i >= len(complete) * (1 - BEST)
        lines.append({"trial": trial.trial_id, "points": points, "ys": ys[i], "best": best, "tip": said_of})
    return {"axes": axes, "lines": lines, "top": TOP, "height": HEIGHT, "width": WIDTH}


def _outcome(values: Sequence[float]) -> tuple[list[float], list[str]]:
    low, high = floor_of(values), max(values)
    places = [max(0.0, (value - low) / max(high - low, 1e-12)) for value in values]
    return places, [f"{value:.4g}" for value in values]


def _height(place: float) -> float:
    """Place in [0, 1] on an axis -> its y in the drawing."""
    return round(TOP + HEIGHT * (1 - place), 1)


def _scaled(name: str, values: list[Any]) -> tuple[list[float], list[str]]:
    """Places in [0, 1] and words of all values: numbers on the scale that spreads them, words in turn."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        words = sorted({str(v) for v in values})
        places = {word: i / max(len(words) - 1, 1) for i, word in enumerate(words)}
        return [places[str(v)] for v in values], [str(v) for v in values]
    x = np.asarray(values, dtype=float)
    if name == "synthetic_ratio":
        x = np.log1p(x)
    elif x.min() > 0 and x.max() > 20 * x.min():
        x = np.log(x)
    scaled = (x - x.min()) / max(float(x.max() - x.min()), 1e-12)
    return scaled.tolist(), [f"{float(v):.4g}" for v in values]
