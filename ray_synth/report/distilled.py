"""What a distillation found in, `report.html` out."""

from __future__ import annotations

from collections.abc import Callable

from ray_synth.report.html import write_page
from ray_synth.report.sections.distillation import Distilled, distillation, seconds, settings
from ray_synth.report.sections.shown import Shown
from ray_synth.runs import RunFolder

SECTIONS: dict[str, Callable[[Distilled], Shown]] = {
    "distillation": distillation,
    "seconds": seconds,
    "settings": settings,
}


def write_distilled(folder: RunFolder, results: Distilled) -> None:
    """Write report.html. Text from outside (class names, settings) is escaped."""
    shown = [section(results) for section in SECTIONS.values()]
    write_page(folder, shown, name=results.name, question="which few images stand for all?")
