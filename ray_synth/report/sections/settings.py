"""The experiment file with its defaults."""

from __future__ import annotations

import yaml

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown


def settings(results: RunResults) -> Shown:
    text = yaml.safe_dump(dict(results.settings), sort_keys=False, allow_unicode=True)
    return Shown("settings.html", {"settings": text})
