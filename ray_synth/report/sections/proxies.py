"""The closed form under every reading of its terms: a row per discrepancy, a column per σ² and decay."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, table


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
    return table(title, head, rows, numbers=range(1, len(head)))
