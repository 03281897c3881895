"""Both sets on the plane on which their features are spread most."""

from __future__ import annotations

import numpy as np

from ray_synth.report.charts import Chart, linear_axis
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown

KINDS = {"synthetic": "orange small", "real": "ink small hollow"}


def embedding(results: RunResults) -> Shown | None:
    details = results.details.get("feature_distance", {})
    found = details.get("embedding")
    if not found:
        return None
    points = {name: np.asarray(found[name], dtype=float).reshape(-1, 3) for name in KINDS}  # x, y, label
    both = np.concatenate([*points.values()])
    first, second = (f"{100 * share:.0f} % of the spread" for share in found["shares"])
    x, y = (
        linear_axis(f"first axis, {first}", both[:, 0], snug=True),
        linear_axis(f"second axis, {second}", both[:, 1], snug=True),
    )
    chart, names = Chart(x=x, y=y, height=420), results.real.class_names
    for name, kind in KINDS.items():
        labels = points[name][:, 2].astype(int)
        tips = [f"{name}: {names[label]}" for label in labels]
        chart.dots(points[name][:, 0], points[name][:, 1], kind, name, tips, labels.tolist())
    there = sorted({int(label) for label in both[:, 2]})
    svg = chart.svg("real and synthetic images as points on the two first principal axes of their features")
    numbers = {name: len(each) for name, each in points.items()}
    values = {"figure": svg, "classes": [(label, names[label]) for label in there], "numbers": numbers}
    return Shown("embedding.html", {**values, "encoder": details["encoder"]})
