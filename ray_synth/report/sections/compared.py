"""Several runs in, the sections of the page that compares them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray_synth.report.charts import Axis, Chart, linear_axis, number, percent, ratio_axis
from ray_synth.report.decision import gain_of, headline, seconds_said, worth_saying
from ray_synth.report.sections.shown import Shown

if TYPE_CHECKING:
    from ray_synth.report.compare import Compared

KINDS = ("blue", "orange", "green", "ink", "red", "grey")
SETTINGS = {"real_only": "real images alone", "at_predicted": "at the predicted ratio", "best": "best of the sweep"}
BESIDE = {"real_only": (-0.12, "grey"), "at_predicted": (0.0, "blue"), "best": (0.12, "orange")}
NOT_SAID = "not written down"


def compared_decisions(runs: Sequence[Compared]) -> Shown:
    """What to do after each, and what it takes."""
    rows = []
    for run in runs:
        summary = run.summary
        gain = gain_of(summary, "at_predicted", run.metrics)
        low, high = summary.interval
        rows.append(
            {
                "name": run.name,
                "place": run.place,
                "said": headline(summary, gain),
                "gain": str(gain) if gain is not None and worth_saying(summary) else "",
                "cells": [
                    f"{number(summary.predicted_ratio)} ({number(low)} to {number(high)})",
                    number(summary.best_ratio),
                    f"{summary.num_real:,}",
                    f"{round(summary.predicted_ratio * summary.num_real):,}",
                    f"{summary.num_generated:,}",
                    str(summary.num_trials),
                ],
                "seconds": sum(summary.seconds.values()),
                "took": seconds_said(sum(summary.seconds.values())),
            }
        )
    return Shown("compared_decisions.html", {"rows": rows, "tests": len(_by_test(runs))})


def compared_tests(runs: Sequence[Compared]) -> Shown:
    """A table and a chart for each test set."""
    groups = []
    for place, (digest, group) in enumerate(_by_test(runs), 1):
        rows = [_accuracies(run) for run in group]
        groups.append(
            {
                "title": f"Test set {place}: {_tested(group[0])}" if digest else f"Test set {place}: {NOT_SAID}",
                "digest": digest[:16],
                "rows": rows,
                "figure": _spreads(group) if any(run.summary.accuracy for run in group) else "",
            }
        )
    return Shown("compared_tests.html", {"groups": groups, "settings": SETTINGS.values()}, short="Accuracy")


def _by_test(runs: Sequence[Compared]) -> list[tuple[str, list[Compared]]]:
    """Runs by the digest of their test sets, in the order given; of those without one each is by itself."""
    found: dict[str, list[Compared]] = {}
    for place, run in enumerate(runs):
        found.setdefault(run.test or f" {place}", []).append(run)
    return [(digest.strip() if not digest.startswith(" ") else "", group) for digest, group in found.items()]


def _tested(run: Compared) -> str:
    return f"{run.num_test:,} images" if run.num_test else "number of images " + NOT_SAID


def _accuracies(run: Compared) -> dict[str, Any]:
    summary, cells = run.summary, []
    for name in SETTINGS:
        if name in summary.accuracy:
            std = summary.accuracy_std.get(name, 0.0)
            said = f"{summary.accuracy[name]:.4f}" + (f" ± {std:.4f}" if summary.repeats > 1 else "")
            cells.append((f"{summary.accuracy[name]:.6f}", said))
        else:
            cells.append(("", "not measured"))
    for name in ("at_predicted", "best"):
        gain = gain_of(summary, name, run.metrics)
        cells.append(("" if gain is None else f"{gain.value:.6f}", "" if gain is None else str(gain)))
    return {"name": run.name, "cells": cells, "repeats": summary.repeats}


def _spreads(group: Sequence[Compared]) -> Any:
    """A column per run: the accuracies of its settings, each with a standard deviation either way."""
    values = [
        summary.accuracy[name] + sign * summary.accuracy_std.get(name, 0.0)
        for summary in (run.summary for run in group)
        for name in summary.accuracy
        for sign in (-1, 1)
    ]
    ticks = tuple((place, run.name if len(group) <= 6 else str(place)) for place, run in enumerate(group, 1))
    axis = Axis(label="run", low=0.5, high=len(group) + 0.5, ticks=ticks)
    chart = Chart(x=axis, y=linear_axis("test accuracy, ± std over trainings", values, percent), height=260)
    for name, (offset, kind) in BESIDE.items():
        for place, run in enumerate(group, 1):
            if name in run.summary.accuracy:
                accuracy, std = run.summary.accuracy[name], run.summary.accuracy_std.get(name, 0.0)
                chart.whisker(place + offset, accuracy - std, accuracy + std, kind)
                tip = f"{run.name}, {SETTINGS[name]}: {percent(accuracy)} ± {percent(std)}"
                chart.dots([place + offset], [accuracy], kind, SETTINGS[name], [tip])
    return chart.svg("test accuracies of the runs with their spread; the numbers are in the table")


def compared_curves(runs: Sequence[Compared]) -> Shown | None:
    """Every prediction as a line: its own fall, since levels of other data are other levels."""
    drawn = [run for run in runs if run.curve is not None]
    if not drawn:
        return None
    gains = {run.name: [run.curve.error[0] - error for error in run.curve.error] for run in drawn if run.curve}
    top = max(run.curve.ratio[-1] for run in drawn if run.curve)
    everything = [value for line in gains.values() for value in line]
    axis = linear_axis("predicted accuracy over real images alone", [0.0, *everything], percent)
    chart = Chart(x=ratio_axis(top), y=axis)
    for place, run in enumerate(drawn):
        if run.curve:
            kind = KINDS[place % len(KINDS)] + (" dashed" if place >= len(KINDS) else "")
            chart.line(run.curve.ratio, gains[run.name], kind, run.name)
            best = run.summary.predicted_ratio
            there = max(0, sum(ratio <= best for ratio in run.curve.ratio) - 1)
            tip = f"{run.name}: predicted ratio {number(best)}"
            chart.dots([best], [gains[run.name][there]], kind.removesuffix(" dashed"), tips=[tip])
    return Shown("compared_curves.html", {"figure": chart.svg("predicted gain of each run over the ratio")})


def compared_settings(runs: Sequence[Compared]) -> Shown:
    """Those that are not the same in all."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = [(name, [_said(run.settings.get(name, "–")) for run in runs]) for name in names]
    differ = [(name, values) for name, values in rows if len(set(values)) > 1]
    values = {"rows": differ, "names": [run.name for run in runs], "same": len(rows) - len(differ)}
    return Shown("compared_settings.html", values)


def _said(value: Any) -> str:
    return "null" if value is None else str(value)
