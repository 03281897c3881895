"""What students came to in, the table of methods out: accuracies, and what they say beside real and random images.

HLR is told for the teacher's own network, against the teacher; IOR against as many random real images with the same
kind of labels (`ray_synth.distill.scores`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_synth.distill.job import REAL
from ray_synth.distill.scores import hard_label_recovery, improvement_over_random

RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A student's file. accuracy: on the test set."""

    method: str
    labels: str
    model: str
    repeat: int
    accuracy: float
    validation_accuracy: float


def metrics_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Flat. accuracy/METHOD/LABELS/MODEL and its /std over seeds; accuracy/real, of the teacher; hlr/METHOD/MODEL for
    the teacher's own network, in accuracy that is lost; ior/METHOD/LABELS/MODEL, in accuracy that is gained."""
    accuracies = defaultdict[tuple[str, str, str], list[float]](list)
    for outcome in outcomes:
        accuracies[outcome.method, outcome.labels, outcome.model].append(outcome.accuracy)
    mean = {key: float(np.mean(values)) for key, values in accuracies.items()}
    found: dict[str, float] = {}
    full = {model: value for (method, _, model), value in mean.items() if method == REAL}
    for (method, labels, model), value in mean.items():
        if method == REAL:
            found["accuracy/real"] = value
            continue
        name, values = f"{method}/{labels}/{model}", accuracies[method, labels, model]
        found |= {f"accuracy/{name}": value, f"accuracy/{name}/std": float(np.std(values, ddof=len(values) > 1))}
        if labels == "hard" and model in full:
            found[f"hlr/{method}/{model}"] = hard_label_recovery(full[model], value)
        if method != RANDOM and (RANDOM, labels, model) in mean:
            found[f"ior/{name}"] = improvement_over_random(value, mean[RANDOM, labels, model])
    return found


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table. None: not asked, or nothing to compare with."""

    method: str
    labels: str
    model: str
    accuracy: float
    std: float
    hlr: float | None
    ior: float | None


def table_of(metrics: Mapping[str, float]) -> list[Row]:
    """The lines of the table, from the numbers that `metrics_of` gave."""
    rows = []
    for name, value in metrics.items():
        kind, *words = name.split("/", 3)
        if kind != "accuracy" or len(words) != 3 or name.endswith("/std"):
            continue
        method, labels, model = words
        rows.append(
            Row(
                method=method,
                labels=labels,
                model=model,
                accuracy=value,
                std=metrics[f"{name}/std"],
                hlr=metrics.get(f"hlr/{method}/{model}") if labels == "hard" else None,
                ior=metrics.get(f"ior/{method}/{labels}/{model}"),
            )
        )
    return rows


def lines_of(metrics: Mapping[str, float]) -> list[str]:
    """For a terminal."""
    lines = [f"all real images ({REAL}): {metrics['accuracy/real']:.4f}"] if "accuracy/real" in metrics else []
    for row in table_of(metrics):
        said = f"{row.method}, {row.labels} labels, {row.model}: {row.accuracy:.4f} ± {row.std:.4f}"
        said += "" if row.ior is None else f", over random {row.ior:+.4f}"
        lines.append(said + ("" if row.hlr is None else f", below all real {row.hlr:.4f}"))
    return lines
