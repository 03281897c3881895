"""Which evaluators failed."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown


def failures(results: RunResults) -> Shown | None:
    failed = results.summary.failed
    return Shown("failures.html", {"failed": failed}) if failed else None
