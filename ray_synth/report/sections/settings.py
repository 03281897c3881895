"""The experiment file with its defaults."""

from __future__ import annotations

from ray_synth.config.yaml import as_yaml
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown


def settings(results: RunResults) -> Shown:
    text = as_yaml(dict(results.settings), allow_unicode=True)
    return Shown("settings.html", {"settings": text})
