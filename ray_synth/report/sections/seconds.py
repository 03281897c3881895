"""What each stage took."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, table


def seconds(results: RunResults) -> Shown:
    rows = [(name, f"{value:.1f}") for name, value in results.summary.seconds.items()]
    return table("Seconds per stage", (), rows, numbers=(1,))
