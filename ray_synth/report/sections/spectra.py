"""The radially averaged power spectra of both sets."""

from __future__ import annotations

import numpy as np

from ray_synth.report.charts import Chart, log_axis, number
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown


def spectra(results: RunResults) -> Shown | None:
    found = results.estimate.spectra
    frequency = np.asarray(found.frequency, dtype=float)
    sides = {"real": np.asarray(found.real, dtype=float), "synthetic": np.asarray(found.synthetic, dtype=float)}
    if not len(frequency) or not any(((frequency > 0) & (power > 0)).any() for power in sides.values()):
        return None
    x = log_axis("cycles per pixel", frequency, lambda f: f"1/{1 / f:.3g}", base=2)
    chart = Chart(x=x, y=log_axis("power", np.concatenate([*sides.values()]), number), height=260)
    for (name, power), kind in zip(sides.items(), ("ink", "orange"), strict=True):
        seen = (frequency > 0) & (power > 0)  # what a logarithm can show
        tips = [
            f"{name}, 1/{1 / f:.3g} cycles per pixel: {p:.3g}"
            for f, p in zip(frequency[seen], power[seen], strict=True)
        ]
        chart.line(frequency[seen], power[seen], kind, name)
        chart.dots(frequency[seen], power[seen], f"{kind} small", tips=tips)
    rows = [(f"{f:.4g}", *(f"{sides[name][place]:.4g}" for name in sides)) for place, f in enumerate(frequency)]
    metrics = {name: results.metrics.get(f"rapsd_{name}") for name in ("distance", "slope/real", "slope/synthetic")}
    svg = chart.svg("power spectra of real and synthetic images over spatial frequency, both logarithmic")
    return Shown("spectra.html", {"figure": svg, "rows": rows, "metrics": metrics})
