"""Every trial, by trial_id."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.search import NAMES
from ray_synth.report.sections.shown import Shown


def trials(results: RunResults) -> Shown:
    ordered = sorted(results.trials, key=lambda trial: trial.trial_id)
    columns = list(dict.fromkeys(name for trial in results.trials for name in trial.setting.to_dict()))
    return Shown("trials.html", {"trials": ordered, "columns": columns, "names": NAMES})
