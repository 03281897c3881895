"""Results in, matplotlib figures out; `as_svg` and `as_png` turn them into what a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib.figure import Figure

from ray_synth.data.images import ImageSet, first_per_class
from ray_synth.sweep import Trial

INK, BLUE, ORANGE, GREY = "#22252b", "#2f6fb2", "#d9822b", "#9aa1ab"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "ray_synth",
    "text.color": INK,
}


def ratio_curve(
    estimate: Mapping[str, Any], trials: Sequence[Trial], best_ratio: float, predicted_ratio: float
) -> Figure:
    """Error of the sweep's trials over the ratio, with the predicted curve, its band and the interval on it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = figure.add_subplot()
        curve = estimate["curve"]
        u = np.log2(1 + np.asarray(curve["ratio"]))
        low, high = np.log2(1 + np.asarray(estimate["interval"]))
        axes.axvspan(
            low, high, color=BLUE, alpha=0.10, lw=0, label=f"predicted interval ({estimate['confidence']:.0%})"
        )
        axes.fill_between(u, curve["low"], curve["high"], color=BLUE, alpha=0.16, lw=0)
        axes.plot(u, curve["error"], color=BLUE, lw=1.8, label="predicted error of the probe")
        axes.axvline(
            np.log2(1 + predicted_ratio), color=BLUE, lw=1.4, ls="--", label=f"predicted ratio {predicted_ratio:.3g}"
        )
        for status, marker, color, label in (
            ("complete", "o", ORANGE, "trial (validation error)"),
            ("pruned", "x", GREY, "trial stopped early"),
        ):
            rows = [trial for trial in trials if trial.status == status]
            x = [np.log2(1 + trial.setting.synthetic_ratio) for trial in rows]
            axes.scatter(
                x, [1 - trial.accuracy for trial in rows], marker=marker, color=color, s=30, zorder=3, label=label
            )
        axes.axvline(np.log2(1 + best_ratio), color=ORANGE, lw=1.4, ls=":", label=f"swept best ratio {best_ratio:.3g}")
        top = float(curve["ratio"][-1])
        ticks = [ratio for ratio in (0, 0.5, 1, 2, 4, 8, 16, 32, 64) if ratio <= top * 1.001]
        axes.set_xticks(np.log2(1 + np.asarray(ticks)), [f"{ratio:g}" for ratio in ticks])
        axes.set_xlabel("synthetic images per real image (synthetic_ratio)")
        axes.set_ylabel("classification error")
        axes.set_ylim(bottom=0)
        figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def side_by_side(real: ImageSet, synthetic: ImageSet, each: int = 8, max_classes: int = 20) -> Figure:
    """A row per class: `each` real images, then `each` synthetic ones, the first of both."""
    classes = min(real.num_classes, max_classes)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.42 * classes + 0.5), layout="constrained")
        for column, (title, images) in enumerate((("real", real), ("synthetic", synthetic))):
            rows = first_per_class(images.labels, np.full(images.num_classes, each))
            height, width, channels = images.images.shape[1:]
            pad = max(1, width // 8)
            canvas = np.full((classes * (height + pad), each * (width + pad), channels), 255, dtype=np.uint8)
            for label in range(classes):
                for i, image in enumerate(images.images[rows[images.labels[rows] == label]]):
                    y, x = label * (height + pad), i * (width + pad)
                    canvas[y : y + height, x : x + width] = image
            axes = figure.add_subplot(1, 2, column + 1)
            shown = canvas[..., 0] if channels == 1 else canvas
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
            axes.set_title(title, fontsize=10)
            axes.set_xticks([])
            for side in axes.spines.values():
                side.set_visible(False)
            centres = np.arange(classes) * (height + pad) + height / 2
            axes.set_yticks(centres if column == 0 else [], real.class_names[:classes] if column == 0 else [])
            axes.tick_params(length=0)
    return figure


def as_svg(figure: Figure) -> str:
    """The <svg> element, without a date, so that equal figures are equal bytes."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def as_png(figure: Figure, dpi: int = 130) -> str:
    """A data URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
