"""The results of a run in, `report.html` out: one file that opens without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ray_synth.report.results import RunResults
from ray_synth.report.sections.accuracy import accuracy
from ray_synth.report.sections.calibration import calibration
from ray_synth.report.sections.classes import classes
from ray_synth.report.sections.copies import copies
from ray_synth.report.sections.distances import distances
from ray_synth.report.sections.failures import failures
from ray_synth.report.sections.finetuning import finetuning
from ray_synth.report.sections.gains import gains
from ray_synth.report.sections.images import images
from ray_synth.report.sections.membership import membership
from ray_synth.report.sections.methods import methods
from ray_synth.report.sections.prediction import prediction
from ray_synth.report.sections.proxies import proxies
from ray_synth.report.sections.search import search
from ray_synth.report.sections.seconds import seconds
from ray_synth.report.sections.settings import settings
from ray_synth.report.sections.shifts import shifts
from ray_synth.report.sections.shown import Shown
from ray_synth.report.sections.training import training
from ray_synth.report.sections.trials import trials
from ray_synth.runs import RunFolder

Section = Callable[[RunResults], Shown | None]  # None: there is nothing to show
SECTIONS: dict[str, Section] = {
    "prediction": prediction,
    "failures": failures,
    "accuracy": accuracy,
    "gains": gains,
    "classes": classes,
    "calibration": calibration,
    "shifts": shifts,
    "training": training,
    "finetuning": finetuning,
    "images": images,
    "distances": distances,
    "copies": copies,
    "membership": membership,
    "methods": methods,
    "proxies": proxies,
    "search": search,
    "trials": trials,
    "seconds": seconds,
    "settings": settings,
}


def write_report(folder: RunFolder, results: RunResults) -> None:
    """Write report.html. Text from outside (class names, settings) is escaped."""
    shown = [found for section in SECTIONS.values() if (found := section(results)) is not None]
    write_page(folder, shown, name=results.summary.name)


def write_page(folder: RunFolder, shown: Sequence[Shown], **said: str) -> None:
    """report.html of sections. said: its name, and what else its head takes."""
    templates = Environment(autoescape=True, loader=PackageLoader("ray_synth.report"))
    bodies = [Markup(templates.get_template(each.template).render(each.values)) for each in shown]  # noqa: S704
    page = templates.get_template("page.html").render(said, sections=bodies)
    folder.write("report.html", page.encode())
