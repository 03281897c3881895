"""The images of each method, a row per class, and what classifiers that were trained on them come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ray_synth.config.yaml import as_yaml
from ray_synth.data.source import ImageSource
from ray_synth.distill.results import table_of
from ray_synth.report.plots import as_image, picture_rows, style_for
from ray_synth.report.sections.shown import Shown, table

NAMES = {
    "wmdd": "Wasserstein barycenters (WMDD)",
    "sre2l": "global statistics (SRe2L)",
    "rded": "realistic patches (RDED)",
    "herding": "herding",
    "k_center": "k-center",
    "random": "random real images",
}
EACH, MOST_CLASSES = 10, 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Distilled:
    """A distillation's results. metrics: name -> number, as in metrics/distillation.json; images: by method; settings:
    the experiment's, as YAML has them; seconds: by stage."""

    name: str
    metrics: Mapping[str, float]
    real: ImageSource
    images: Mapping[str, ImageSource]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]


def distillation(results: Distilled) -> Shown:
    def cell(number: float | None) -> str:
        return "" if number is None else f"{number:+.4f}"

    rows = [
        (
            NAMES.get(row.method, row.method),
            row.labels,
            row.model,
            f"{row.accuracy:.4f}",
            f"{row.std:.4f}",
            cell(row.ior),
            cell(None if row.hlr is None else -row.hlr),
        )
        for row in table_of(results.metrics)
    ]
    head = ("images", "labels", "classifier", "accuracy", "± std", "over random", "against all real")
    pictures = {NAMES.get(method, method): as_image(sheet(images)) for method, images in results.images.items()}
    numbers = {name: len(images) for name, images in results.images.items()}
    return Shown(
        "distillation.html",
        {
            "table": table("Trained on a few images a class", head, rows, numbers=range(3, 7)).values,
            "pictures": pictures,
            "count": max(numbers.values()),
            "real": len(results.real),
            "teacher": results.metrics.get("accuracy/real"),
        },
    )


def sheet(images: ImageSource) -> Figure:
    """A row per class, of the first classes and images."""
    labels = np.arange(min(images.num_classes, MOST_CLASSES))
    most = min(EACH, int(images.counts.max()))
    canvas, centres = picture_rows(images, labels, most)
    names = [images.class_names[label][:30] for label in labels]
    with matplotlib.rc_context(style_for(names)):
        figure = Figure(figsize=(1.4 + 0.45 * most, 0.46 * len(labels) + 0.2), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
        axes.set_xticks([])
        axes.set_yticks(centres, names)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def seconds(results: Distilled) -> Shown:
    return table("Seconds per stage", (), [(n, f"{value:.1f}") for n, value in results.seconds.items()], numbers=(1,))


def settings(results: Distilled) -> Shown:
    return Shown("settings.html", {"settings": as_yaml(dict(results.settings), allow_unicode=True)})
