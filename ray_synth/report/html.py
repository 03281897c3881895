"""The results of a run in, `report.html` out: one file that opens without a network."""

from __future__ import annotations

from collections.abc import Callable

from ray_synth.report.page import page
from ray_synth.report.results import RunResults
from ray_synth.report.sections.accuracy import accuracy
from ray_synth.report.sections.calibration import calibration
from ray_synth.report.sections.classes import classes
from ray_synth.report.sections.copies import copies
from ray_synth.report.sections.decision import decision
from ray_synth.report.sections.distances import distances
from ray_synth.report.sections.embedding import embedding
from ray_synth.report.sections.failures import failures
from ray_synth.report.sections.finetuning import finetuning
from ray_synth.report.sections.gains import gains
from ray_synth.report.sections.images import images
from ray_synth.report.sections.membership import membership
from ray_synth.report.sections.methods import methods
from ray_synth.report.sections.predicted_classes import predicted_classes
from ray_synth.report.sections.prediction import prediction
from ray_synth.report.sections.provenance import provenance
from ray_synth.report.sections.proxies import proxies
from ray_synth.report.sections.search import search
from ray_synth.report.sections.seconds import seconds
from ray_synth.report.sections.settings import settings
from ray_synth.report.sections.shifts import shifts
from ray_synth.report.sections.shown import Shown
from ray_synth.report.sections.spectra import spectra
from ray_synth.report.sections.training import training
from ray_synth.report.sections.trials import trials
from ray_synth.runs import RunFolder

Section = Callable[[RunResults], Shown | None]  # None: there is nothing to show
SECTIONS: dict[str, Section] = {
    "decision": decision,
    "failures": failures,
    "prediction": prediction,
    "accuracy": accuracy,
    "gains": gains,
    "classes": classes,
    "calibration": calibration,
    "shifts": shifts,
    "images": images,
    "predicted_classes": predicted_classes,
    "spectra": spectra,
    "embedding": embedding,
    "distances": distances,
    "copies": copies,
    "membership": membership,
    "training": training,
    "finetuning": finetuning,
    "search": search,
    "trials": trials,
    "methods": methods,
    "proxies": proxies,
    "provenance": provenance,
    "seconds": seconds,
    "settings": settings,
}


def write_report(folder: RunFolder, results: RunResults) -> None:
    """Write report.html. Text from outside (class names, settings) is escaped."""
    shown = [(name, found) for name, section in SECTIONS.items() if (found := section(results)) is not None]
    question = f"{results.summary.name}: how many synthetic images per real image?"
    folder.write("report.html", page(question, question, shown).encode())
