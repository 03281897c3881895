"""What was generated and set aside, how much of it carries the right label, and the first images of each class."""

from __future__ import annotations

from ray_synth.report.pictures import class_rows
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown


def images(results: RunResults) -> Shown:
    killers = [each.key for each in results.generation.rejected_keys if each.reason == "killed_worker"]
    rows = class_rows(results.real, results.synthetic)
    return Shown(
        "images.html",
        {
            "generation": results.generation,
            "killers": killers,
            "fidelity": results.summary.label_fidelity,
            "withheld": results.details.get("label_fidelity", {}).get("withheld"),
            "judge": results.metrics.get("label_fidelity/judge_accuracy"),
            "rows": rows,
            "others": results.real.num_classes - len(rows),
        },
    )
