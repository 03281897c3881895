"""What a distillation found in, `report.html` out."""

from __future__ import annotations

from collections.abc import Callable

from ray_synth.report.page import page
from ray_synth.report.sections.distillation import Distilled, accuracies, distillation, seconds, settings
from ray_synth.report.sections.shown import Shown
from ray_synth.runs import RunFolder

SECTIONS: dict[str, Callable[[Distilled], Shown]] = {
    "accuracies": accuracies,
    "distillation": distillation,
    "seconds": seconds,
    "settings": settings,
}


def write_distilled(folder: RunFolder, results: Distilled) -> None:
    """Write report.html. Text from outside (class names, settings) is escaped."""
    question = f"{results.name}: which few images stand for all?"
    shown = [(name, section(results)) for name, section in SECTIONS.items()]
    folder.write("report.html", page(question, question, shown).encode())
