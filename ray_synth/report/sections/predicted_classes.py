"""What is predicted of each class, the worst first."""

from __future__ import annotations

import math

from ray_synth.report.charts import number
from ray_synth.report.methods import class_said, classes_differ
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown


def predicted_classes(results: RunResults) -> Shown | None:
    estimate, names = results.estimate, results.real.class_names
    if not estimate.classes:
        return None
    recalls = [recall for each in estimate.classes for recall in (each.recall, each.recall_real_only)]
    least = math.floor(10 * min(*recalls, 0.9)) / 10
    rows = [
        {
            "name": class_said(each.label, names),
            "alone": (each.recall_real_only - least) / (1 - least),
            "there": (each.recall - least) / (1 - least),
            "cells": [
                f"{each.num_real:,}",
                f"{each.num_synthetic:,}",
                f"{each.recall_real_only:.3f}",
                f"{each.recall:.3f}",
                number(each.ratio) if each.num_synthetic else "none made",
                "" if each.interval is None else f"{number(each.interval[0])} to {number(each.interval[1])}",
                "" if each.distance is None else number(each.distance),
            ],
        }
        for each in sorted(estimate.classes, key=lambda each: each.recall)
    ]
    values = {"rows": rows, "differ": classes_differ(estimate), "estimate": estimate, "least": f"{least:g}"}
    return Shown("predicted_classes.html", values)
