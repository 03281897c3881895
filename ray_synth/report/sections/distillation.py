"""The images of each method, a row per class, and what classifiers that were trained on them come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_synth.config.yaml import as_yaml
from ray_synth.data.source import ImageSource
from ray_synth.distill.results import table_of
from ray_synth.report.pictures import class_rows
from ray_synth.report.sections.shown import Shown, table

NAMES = {
    "wmdd": "Wasserstein barycenters (WMDD)",
    "sre2l": "global statistics (SRe2L)",
    "rded": "realistic patches (RDED)",
    "herding": "herding",
    "k_center": "k-center",
    "random": "random real images",
}


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


def accuracies(results: Distilled) -> Shown:
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
    return table("Trained on a few images a class", head, rows, numbers=range(3, 7))


def distillation(results: Distilled) -> Shown:
    rows = {NAMES.get(method, method): class_rows(results.real, images) for method, images in results.images.items()}
    return Shown(
        "distillation.html",
        {
            "methods": rows,
            "count": max(map(len, results.images.values())),
            "real": len(results.real),
            "teacher": results.metrics.get("accuracy/real"),
        },
    )


def seconds(results: Distilled) -> Shown:
    return table("Seconds per stage", (), [(n, f"{value:.1f}") for n, value in results.seconds.items()], numbers=(1,))


def settings(results: Distilled) -> Shown:
    return Shown("settings.html", {"settings": as_yaml(dict(results.settings), allow_unicode=True)})
