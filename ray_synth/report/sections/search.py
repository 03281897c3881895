"""What the sweep did, and its cheapest good trial."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, drawn


def search(results: RunResults) -> Shown:
    return Shown("search.html", {"search": drawn(results.search), "cheapest": results.summary.cheapest})
