"""The predicted curve under a slider for the ratio, with the sweep's trials and what the test set said."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray_synth.bound.result import RatioEstimate
from ray_synth.report.charts import Chart, linear_axis, number, percent, ratio_axis
from ray_synth.report.methods import allocation_said
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown
from ray_synth.sweep.ledger import Trial

STEPS = 200  # of the slider, evenly in log2(1 + ratio)
ROOM = 1.15  # above the worst that is drawn in place
MOST_DRAWN = 400  # trials; of more the best


def prediction(results: RunResults) -> Shown:
    summary, estimate = results.summary, results.estimate
    chart = _chart(results)
    values = {
        "summary": summary,
        "estimate": estimate,
        "figure": chart.svg(
            f"predicted error over the synthetic ratio from 0 to {number(estimate.max_ratio)}, lowest at "
            f"{number(summary.predicted_ratio)}, with {len(results.trials)} trials; the tables have the numbers"
        ),
        "explorer": _explorer(results, chart),
        "low": chart.y.low,
        "high": chart.y.high,
        "steps": STEPS,
        "start": round(STEPS * chart.x.place(summary.predicted_ratio)),
        "rows": _rows(estimate),
        "allocation": allocation_said(estimate),
        "ranking": results.ranking,
    }
    return Shown("prediction.html", values)


def _chart(results: RunResults) -> Chart:
    """Trials far above the curve are drawn at its upper end."""
    summary, estimate = results.summary, results.estimate
    curve, share = estimate.curve, f"({estimate.confidence:.0%})"
    tested = {name: 1 - value for name, value in summary.accuracy.items()}
    top = ROOM * max(*curve.high, *tested.values(), 0.02)
    chart = Chart(
        x=ratio_axis(estimate.max_ratio), y=linear_axis("classification error", [0.0, top], percent), height=360
    )
    chart.span(*estimate.interval, "blue faint", f"predicted interval {share}")
    chart.band(curve.ratio, curve.low, curve.high, "blue", f"band of the prediction {share}")
    chart.line(curve.ratio, curve.error, "blue", "predicted error")
    chart.rule(summary.predicted_ratio, "blue dashed", f"predicted ratio {number(summary.predicted_ratio)}")
    _draw_trials(chart, results)
    _draw_tested(chart, results)
    return chart


def _draw_trials(chart: Chart, results: RunResults) -> None:
    generator = results.ranking[0].name if results.ranking else None
    drawn = [trial for trial in results.trials if math.isfinite(trial.accuracy)]
    drawn = sorted(drawn, key=lambda trial: -trial.accuracy)[:MOST_DRAWN]
    kinds: dict[tuple[str, str], list[Trial]] = {}
    for trial in drawn:
        if trial.status == "pruned":
            kind = ("grey small hollow", "trial stopped early")
        elif trial.setting.says_of(generator):
            kind = ("orange small", "trial, validation error")
        else:
            kind = ("grey small", "trial with another generator's images")
        kinds.setdefault(kind, []).append(trial)
    for (color, label), trials in kinds.items():
        ratios = [trial.setting.synthetic_ratio for trial in trials]
        chart.dots(ratios, [1 - trial.accuracy for trial in trials], color, label, [_tip(trial) for trial in trials])


def _draw_tested(chart: Chart, results: RunResults) -> None:
    """The test set's errors, once each, with a standard deviation over trainings either way."""
    summary = results.summary
    at = {"real_only": 0.0, "at_predicted": summary.predicted_ratio, "best": summary.best_ratio}
    tested = {at[name]: name for name in at if name in summary.accuracy}
    for ratio, name in tested.items():
        error, std = 1 - summary.accuracy[name], summary.accuracy_std.get(name, 0.0)
        chart.whisker(ratio, error - std, error + std, "ink")
        tip = f"test set, ratio {number(ratio)}: error {percent(error)} ± {percent(std)} (std of {summary.repeats})"
        chart.dots([ratio], [error], "ink", "test error ± std", [tip])


def _tip(trial: Trial) -> str:
    setting = ", ".join(
        f"{name} {number(value) if isinstance(value, float) else value}"
        for name, value in trial.setting.to_dict().items()
    )
    return f"{trial.trial_id} ({trial.status}): validation error {percent(1 - trial.accuracy)}; {setting}"


def _explorer(results: RunResults, chart: Chart) -> dict[str, object]:
    """What the page's script needs to answer for a ratio: the curve, what costs what, and where the x axis lies."""
    estimate, cost = results.estimate, results.cost
    curve = estimate.curve
    return {
        "ratio": curve.ratio,
        "error": curve.error,
        "low": curve.low,
        "high": curve.high,
        "real": results.summary.num_real,
        "top": estimate.max_ratio,
        "image": cost.image if cost else None,
        "training": cost.training if cost else None,
        "grows": bool(cost and cost.grows),
        "left": chart.across(0.0),
        "right": chart.across(estimate.max_ratio),
        "steps": STEPS,
    }


def _rows(estimate: RatioEstimate) -> Sequence[tuple[str, ...]]:
    """The curve in words: every fourth point, and the last."""
    curve = estimate.curve
    points = list(zip(curve.ratio, curve.error, curve.low, curve.high, strict=True))
    kept = points[:: max(1, len(points) // 16)]
    kept += [] if kept[-1] == points[-1] else [points[-1]]
    return [(number(ratio), *(f"{value:.4f}" for value in rest)) for ratio, *rest in kept]
