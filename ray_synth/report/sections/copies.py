"""The synthetic images that are nearest to a real one, each beside it, and how many of them are copies."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown


def copies(results: RunResults) -> Shown | None:
    found = results.details.get("copies")
    if found is None or "copies/share" not in results.metrics:
        return None
    numbers = {name.removeprefix("copies/"): value for name, value in results.metrics.items()}
    return Shown("copies.html", {"copies": found, "numbers": numbers})
