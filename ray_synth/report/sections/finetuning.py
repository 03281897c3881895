"""The losses of a generator that was fine-tuned, and what it made meanwhile."""

from __future__ import annotations

from markupsafe import Markup

from ray_synth.report.charts import Chart, linear_axis, number
from ray_synth.report.pictures import sheet_url
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown

SHEETS = 8  # of samples at most, the first and the last among them


def finetuning(results: RunResults) -> Shown | None:
    if not results.adapters:
        return None
    steps = list(results.adapter_samples)
    kept = steps if len(steps) <= SHEETS else [steps[i * (len(steps) - 1) // (SHEETS - 1)] for i in range(SHEETS)]
    pictures = {step: Markup(sheet_url(results.adapter_samples[step])) for step in kept}  # noqa: S704
    return Shown("finetuning.html", {"curves": _curves(results), "pictures": pictures})


def _curves(results: RunResults) -> Markup:
    """A line per adapter: losses of the batches, and of held-out images where there are any."""
    lines = []
    for name, kind, label in (("loss", "blue", "batches"), ("validation_loss", "orange", "held-out images")):
        for adapter, history in results.adapters.items():
            points = [(row["step"] or 0.0, value) for row in history if (value := row.get(name)) is not None]
            if points:
                lines.append((kind, label, adapter, points))
    everything = [point for *_, points in lines for point in points]
    x = linear_axis("step", [0.0, *(step for step, _ in everything)], snug=True)
    chart = Chart(x=x, y=linear_axis("denoising loss", [value for _, value in everything]), height=260)
    for kind, label, adapter, points in lines:
        steps, values = zip(*points, strict=True)
        chart.line(steps, values, kind, label)
        of = f" of {adapter}" if adapter else ""
        tips = [f"{label}{of}, step {step:.0f}: {number(value)}" for step, value in points]
        chart.dots(steps, values, f"{kind} small", tips=tips)
    return chart.svg("denoising loss over the steps of fine-tuning")
