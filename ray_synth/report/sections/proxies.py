"""The closed form under every reading of its terms: its bound, and a row per discrepancy, a column per σ² and decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ray_synth.bound.result import RatioEstimate
from ray_synth.bound.theorem import risk_bound
from ray_synth.report.charts import Chart, log_axis, number, ratio_axis
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown

KINDS = ("green", "orange thin", "blue thin", "grey thin", "ink thin")
WORST = 100.0  # times its least, up to which the bound is drawn


def proxies(results: RunResults) -> Shown | None:
    found = results.estimate.methods.get("closed_form", {}).get("proxies")
    if not found:
        return None
    columns = {(row["noise"], row["decay"]): row for row in found}
    head = ["discrepancy D"] + [
        f"pixels {noise}: σ² = {row['noise_variance']:.3g}; {decay}: r = {row['exponent']:.3g}"
        for (noise, decay), row in columns.items()
    ]
    ratios = {(row["discrepancy"], row["noise"], row["decay"]): row["ratio"] for row in found}
    rows = [
        [f"{name} = {distance:.3g}", *(f"{ratios[name, *column]:.3g}" for column in columns)]
        for name, distance in {row["discrepancy"]: row["distance"] for row in found}.items()
    ]
    low, high = min(ratios.values()), max(ratios.values())
    title = f"The ratio of the closed form under every proxy: {low:.3g} to {high:.3g}"
    values = {"title": title, "head": head, "rows": rows, "figure": _bounds(results.estimate, found)}
    return Shown("proxies.html", values, short="The closed form")


def _bounds(estimate: RatioEstimate, found: Sequence[Mapping[str, Any]]) -> Markup:
    """The bound over its least, boldly with the paper's own proxies (Shidani et al., 2025, section 6)."""
    shown = [row for row in found if (row["noise"], row["decay"]) == (found[0]["noise"], found[0]["decay"])]
    top = estimate.max_ratio
    ratios = np.exp2(np.linspace(np.log2(1 + top / 200), np.log2(1 + top), 120)) - 1
    axis = log_axis("bound over its least", [1.0, WORST])
    chart = Chart(x=ratio_axis(top), y=axis, height=240)
    for row, kind in zip(shown, KINDS, strict=False):
        bound = risk_bound(
            ratios,
            discrepancy=row["distance"],
            noise_variance=row["noise_variance"],
            num_real=estimate.num_real,
            decay=row["exponent"],
        )
        least = bound / np.min(bound)
        seen = least <= WORST
        label = f"D by {row['discrepancy']}, lowest at {number(float(row['ratio']))}"
        chart.line(ratios[seen], least[seen], kind, label)
    return chart.svg("the closed form's bound over the ratio, relative to its least, for each discrepancy")
