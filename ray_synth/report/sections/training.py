"""The bound and accuracy over the updates of a training (Nguyen et al., 2025, section 5.4), and its regions."""

from __future__ import annotations

from markupsafe import Markup

from ray_synth.classifier.waiting import waited, waiting_said
from ray_synth.report.charts import Chart, linear_axis, number, small
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown

COLORS = {"real_only": "grey", "at_predicted": "blue", "best": "orange dashed"}
PANELS = {
    "bound/discrepancy": "discrepancy",
    "bound/robustness": "robustness of synthetic",
    "accuracy": "validation accuracy",
}


def training(results: RunResults) -> Shown | None:
    if not results.histories:
        return None
    panels = Markup("").join(found for name in PANELS if (found := _panel(results, name)) is not None)
    shares = {setting.replace("_", " "): waited(history) for setting, history in results.histories.items()}
    waits = [f"{setting}: {waiting_said(share)}" for setting, share in shares.items() if share is not None]
    return Shown("training.html", {"curves": panels, "regions": results.regions, "waits": waits})


def _panel(results: RunResults, name: str) -> Markup | None:
    """A line per setting; a setting without synthetic images has no terms to show."""
    lines = {
        setting: [(row["update"], row[name]) for row in history if name in row]
        for setting, history in results.histories.items()
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        return None
    x, y = (
        linear_axis("update", [0, *(update for update, _ in points)], snug=True),
        linear_axis("", [value for _, value in points]),
    )
    chart, said = Chart(x=x, y=y), PANELS[name]
    for setting, line in lines.items():
        if line:
            updates, values = zip(*line, strict=True)
            word, kind = setting.replace("_", " "), COLORS.get(setting, "green")
            chart.line(updates, values, kind, f"{word}: {number(values[-1])} in the end")
            tips = [f"{word}, update {update:.0f}: {number(value)}" for update, value in line]
            chart.dots(updates, values, f"{kind} small", tips=tips)
    return small(said, chart.svg(f"{said} over the updates of a training"))
