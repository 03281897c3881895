"""What the best setting gains over real images alone: what tuning gave, and what the synthetic images."""

from __future__ import annotations

from collections.abc import Mapping

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown

NAMES = {
    "real_only": "real images only",
    "real_only_tuned": "real images only, tuned",
    "real_only_augmented": "real images only, TrivialAugment",
    "at_predicted": "at the predicted ratio",
    "best": "best of the sweep",
}
FIGURES = {"accuracy_top5": "top-5", "balanced_accuracy": "balanced", "calibration_error": "calibration error"}


def gains(results: RunResults) -> Shown | None:
    metrics = results.metrics
    shown = [name for name in NAMES if f"accuracy/{name}/low" in metrics]
    if not shown:
        return None
    figures = {key: said for key, said in FIGURES.items() if any(f"{key}/{name}" in metrics for name in shown)}
    rows = [
        (
            NAMES[name],
            f"{metrics[f'accuracy/{name}']:.4f}",
            f"{metrics[f'accuracy/{name}/low']:.4f} to {metrics[f'accuracy/{name}/high']:.4f}",
            *(f"{metrics[f'{key}/{name}']:.4f}" for key in figures),
        )
        for name in shown
    ]
    details = results.details.get("final_accuracy", {})
    same = {NAMES[name]: NAMES[other] for name, other in details.get("same", {}).items() if name in NAMES}
    values = {"sentence": sentence(metrics, results.summary.best_ratio), "rows": rows, "figures": figures.values()}
    return Shown("gains.html", {**values, "same": same, "details": details})


def sentence(metrics: Mapping[str, float], best_ratio: float) -> str:
    """In one line what gave how much, in points; empty where it was not measured."""
    if "gain/total" not in metrics:
        return ""
    if best_ratio == 0:
        return "The best setting takes no synthetic images: what it gains is what tuning gave."
    total = f"{100 * metrics['gain/total']:+.1f} points over real images alone"
    if "gain/tuning" not in metrics or "gain/synthetic" not in metrics:
        return f"{total} (±{_half(metrics, 'total')}); what tuning alone gives was not measured."
    said = (
        f"Of the {total}, tuning gave {_points(metrics, 'tuning')} and the synthetic images "
        f"{_points(metrics, 'synthetic')} (±{_half(metrics, 'synthetic')})."
    )
    if "gain/augmentation" in metrics:
        said += (
            f" Classical augmentation in their place gave {_points(metrics, 'augmentation')} "
            f"(±{_half(metrics, 'augmentation')})."
        )
    return said


def _points(metrics: Mapping[str, float], gain: str) -> str:
    return f"{100 * metrics[f'gain/{gain}']:.1f}"


def _half(metrics: Mapping[str, float], gain: str) -> str:
    return f"{50 * (metrics[f'gain/{gain}/high'] - metrics[f'gain/{gain}/low']):.1f}"
