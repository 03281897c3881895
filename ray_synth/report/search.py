"""The trials of a sweep in, what the search did out: its history, what mattered, all settings at once; TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ray_synth.report.plots import BLUE, GREY, INK, ORANGE, STYLE
from ray_synth.sweep.ledger import Trial
from ray_synth.training.events import event_file

ORIGINS = {"first": INK, "prior": BLUE, "tpe": ORANGE, "random": ORANGE, "grid": ORANGE}
NAMES = {"synthetic_ratio": "ratio", "num_clusters": "clusters", "clusters_per_class": "clusters"}


def search_picture(trials: Sequence[Trial], importances: Mapping[str, float], metric: str = "accuracy") -> Figure:
    """The best so far over the trials, the share of the spread that each setting explains, every trial as a line."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 6.4), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15), squeeze=False)[:, 0]
        history, shares = above.subplots(1, 2, width_ratios=(1.6, 1))
        _draw_history(history, trials, metric)
        _draw_importances(shares, importances)
        _draw_coordinates(below.subplots(), trials, metric)
    return figure


def _draw_history(axes: Axes, trials: Sequence[Trial], metric: str) -> None:
    values = np.array([getattr(t, metric) if t.status == "complete" else math.nan for t in trials])
    for origin, color in ORIGINS.items():
        rows = [i for i, t in enumerate(trials) if t.origin == origin and t.status == "complete"]
        if rows:
            axes.scatter(rows, values[rows], s=16, color=color, label=origin, zorder=3)
    early = [i for i, t in enumerate(trials) if t.status == "pruned"]
    if early:
        stopped = [trials[i].accuracy for i in early]  # what it had when it was stopped
        axes.scatter(early, stopped, s=14, marker="x", color=GREY, label="stopped early")
    if np.isfinite(values).any():
        best = np.fmax.accumulate(values)
        axes.step(range(len(values)), best, where="post", color=INK, lw=1.2)
    axes.set_xlabel("trial")
    axes.set_ylabel(f"validation {metric.replace('_', ' ')}")
    axes.legend(frameon=False, fontsize=7.5, title="proposed by", title_fontsize=7.5)


def _draw_importances(axes: Axes, importances: Mapping[str, float]) -> None:
    if not importances:
        axes.set_axis_off()
        axes.text(0, 0.5, "too few complete trials to say\nwhich setting matters", fontsize=9)
        return
    names = list(importances)[:8][::-1]
    axes.barh(range(len(names)), [importances[name] for name in names], color=BLUE, height=0.6)
    axes.set_yticks(range(len(names)), [NAMES.get(name, name) for name in names], fontsize=8.5)
    axes.set_xlabel("share of the spread explained")


def _draw_coordinates(axes: Axes, trials: Sequence[Trial], metric: str) -> None:
    """A vertical line per setting, from its lowest to its highest tried value; a line across per complete trial."""
    complete = sorted((t for t in trials if t.status == "complete"), key=lambda t: getattr(t, metric))
    rows = [t.setting.to_dict() for t in complete]
    names = [
        name for name in dict.fromkeys(n for row in rows for n in row) if len({str(r.get(name)) for r in rows}) > 1
    ]
    if not names:
        axes.set_axis_off()
        return
    scaled, ticks = zip(*(_scaled(name, [row[name] for row in rows]) for name in names), strict=True)
    values = np.array([getattr(t, metric) for t in complete])
    colors = ScalarMappable(Normalize(np.quantile(values, 0.2), values.max()), "viridis")
    for i in range(len(complete)):
        line = [column[i] for column in scaled]
        axes.plot(range(len(names)), line, color=colors.to_rgba(values[i]), lw=1.1, alpha=0.85, zorder=2)
    for x, marks in enumerate(ticks):
        axes.axvline(x, color=GREY, lw=0.8, zorder=1)
        for y, text in marks:
            axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", fontsize=7.5, va="center")
    axes.set_xticks(range(len(names)), [NAMES.get(name, name) for name in names])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.figure.colorbar(colors, ax=axes, label=f"validation {metric.replace('_', ' ')}", pad=0.02)


def _scaled(name: str, values: list[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Values on [0, 1], and what stands at the ends: numbers on the scale that spreads them, words in turn."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        words = sorted({str(v) for v in values})
        places = {word: i / max(len(words) - 1, 1) for i, word in enumerate(words)}
        return [places[str(v)] for v in values], [(y, word) for word, y in places.items()]
    x = np.asarray(values, dtype=float)
    x = np.log1p(x) if name == "synthetic_ratio" or x.min() <= 0 else np.log(x)
    low, high = int(np.argmin(x)), int(np.argmax(x))
    scaled = (x - x[low]) / max(x[high] - x[low], 1e-12)
    return scaled.tolist(), [(0.0, f"{values[low]:.3g}"), (1.0, f"{values[high]:.3g}")]


def trial_events(trial: Trial) -> bytes:
    """A TensorBoard file: the accuracy after each validation pass, and the settings beside what came of them."""
    from tensorboardX.summary import hparams

    settings = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in _settings(trial).items()}
    outcome = {"hparam/accuracy": trial.accuracy, "hparam/num_synthetic": trial.num_synthetic}

    def write(writer: Any) -> None:
        for step, accuracy in enumerate(trial.history, 1):
            writer.add_scalar("accuracy", accuracy, step)
        for summary in hparams(settings, outcome):
            writer.file_writer.add_summary(summary)
        for name, value in outcome.items():
            writer.add_scalar(name, value, len(trial.history))

    return event_file(write)


def _settings(trial: Trial) -> dict[str, Any]:
    return {"origin": trial.origin, "status": trial.status, **trial.setting.to_dict()}
