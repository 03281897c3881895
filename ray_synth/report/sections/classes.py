"""Each class with real images alone and with the best setting, worst first, and what it is mostly taken for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from ray_synth.report.plots import style_for
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, drawn

SIDES = {"real_only": "real images only", "best": "best of the sweep"}
MOST = 200  # rows: of a thousand classes those that lose and gain most
MOST_DRAWN = 25  # classes whose names a picture has room for


def classes(results: RunResults) -> Shown | None:
    details = results.details.get("final_accuracy", {})
    rows = [row for row in details.get("classes", ()) if set(SIDES) <= set(row["accuracy"])]
    if not rows:
        return None
    rows.sort(key=lambda row: (_change(row), row["accuracy"]["best"], row["class"]))
    shown = rows if len(rows) <= MOST else rows[: MOST // 2] + rows[-MOST // 2 :]
    confusion = details["confusion"]
    return Shown(
        "classes.html",
        {
            "rows": [_row(row, confusion) for row in shown],
            "left_out": len(rows) - len(shown),
            "worse": sum(_change(row) < 0 for row in rows),
            "total": len(rows),
            "matrices": _matrices(confusion),
        },
    )


def _change(row: dict[str, Any]) -> float:
    """Of a class, from real images alone to the best setting."""
    return float(row["accuracy"]["best"] - row["accuracy"]["real_only"])


def _row(row: dict[str, Any], confusion: dict[str, Any]) -> Sequence[str]:
    taken = [confusion[side]["mostly"].get(row["class"], ())[:1] for side in SIDES]
    words = [f"{found[0][0]} ({100 * found[0][1]:.0f} %)" if found else "" for found in taken]
    alone, best = (row["accuracy"][side] for side in SIDES)
    return (row["class"], f"{row['images']:,}", f"{alone:.3f}", f"{best:.3f}", f"{100 * _change(row):+.1f}", *words)


def _matrices(confusion: dict[str, Any]) -> Markup | None:
    names = confusion["class_names"]
    found = [confusion[side].get("matrix") for side in SIDES]
    if any(matrix is None for matrix in found) or len(names) > MOST_DRAWN:
        return None
    return drawn(confusion_figure([np.asarray(matrix) for matrix in found], names))


def confusion_figure(matrices: Sequence[np.ndarray], class_names: Sequence[str]) -> Figure:
    """Side by side: the share of each class's images (a row) that is taken for each class (a column)."""
    short = [name if len(name) <= 16 else name[:15] + "…" for name in class_names]
    with matplotlib.rc_context(style_for(short)):
        size = 1.6 + 0.22 * len(short)
        figure = Figure(figsize=(2 * size + 1.2, size + 0.6), layout="constrained")
        for place, (axes, matrix, title) in enumerate(
            zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices, SIDES.values(), strict=True)
        ):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-9)
            image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(title, fontsize=10)
            axes.set_xticks(range(len(short)), short, rotation=90, fontsize=7)
            axes.set_yticks(range(len(short)), short if place == 0 else [""] * len(short), fontsize=7)
            axes.set_xlabel("taken for", fontsize=8)
        axes.figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
