"""Each method's own ratio."""

from __future__ import annotations

from ray_synth.report.methods import method_rows
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, table


def methods(results: RunResults) -> Shown:
    rows = [(name, f"{ratio:.3g}", terms) for name, ratio, terms in method_rows(results.estimate)]
    return table("What each method says", ("method", "ratio", "from"), rows, numbers=(1,))
