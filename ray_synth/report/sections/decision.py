"""What to do, first: the ratio, what it brought, what it costs, and what to type next."""

from __future__ import annotations

from ray_synth.report.charts import number
from ray_synth.report.decision import Gain, gain_of, headline, next_steps, seconds_said, worth_saying
from ray_synth.report.results import RunResults
from ray_synth.report.sections.gains import sentence
from ray_synth.report.sections.shown import Shown

COMMON_FRACTIONS = 1.5  # below it, a share is not said


def decision(results: RunResults) -> Shown:
    summary, gain = results.summary, gain_of(results.summary, "at_predicted", results.metrics)
    steps = next_steps(summary, results.asked) if results.asked else []
    return Shown(
        "decision.html",
        {
            "summary": summary,
            "reason": results.estimate.reason,
            "headline": headline(summary, gain),
            "gain": gain if worth_saying(summary) else None,
            "share": _share(results),
            "facts": [*_facts(results, gain)],
            "steps": steps,
        },
        short="Decision",
    )


def _share(results: RunResults) -> str:
    """`1/24 of the sweep`: one training in place of the sweep's."""
    times = results.cost.share_of_sweep(results.summary.predicted_ratio) if results.cost else 0
    return f"1/{times:.0f} of the sweep" if times >= COMMON_FRACTIONS else ""


def _facts(results: RunResults, gain: Gain | None) -> list[tuple[str, str]]:
    summary, estimate, facts = results.summary, results.estimate, []
    accuracy = summary.accuracy
    if gain is not None:
        said = f"{100 * accuracy['real_only']:.1f} % with real images alone, {100 * accuracy['at_predicted']:.1f} %"
        facts.append(("On the test set", f"{said} at the predicted ratio, means of {summary.repeats}"))
    if summary.predicted_ratio > 0:
        facts.append(("What it costs", _cost(results, summary.predicted_ratio)))
    cheap = estimate.cheapest(cost_per_image=1.0)
    if cheap["ratio"] < summary.predicted_ratio:
        lost = 100 * (cheap["error"] - cheap["best_error"])
        said = f"ratio {number(cheap['ratio'])} is predicted to give away {lost:.1f} points"
        facts.append(("Cheaper", f"{said}, for {_cost(results, cheap['ratio'])}"))
    best = gain_of(summary, "best", results.metrics)
    if best is not None:
        found = f"ratio {number(summary.best_ratio)}: {best}, after {summary.num_trials} trials"
        facts.append(("The sweep's best", found + _sweep_took(results)))
    if said := sentence(results.metrics, summary.best_ratio):
        facts.append(("What gave it", said))
    if gain is not None and not gain.told:
        facts.append(("Careful", "the measured gain is not told from none"))
    return facts


def _cost(results: RunResults, ratio: float) -> str:
    images = round(ratio * results.summary.num_real)
    said = f"{images:,} images"
    if results.cost is None:
        return said
    if results.cost.image is not None:
        said += f" ({seconds_said(images * results.cost.image)} to generate here)"
    return f"{said} and a training of {seconds_said(results.cost.training_at(ratio))}"


def _sweep_took(results: RunResults) -> str:
    return f" that trained for {seconds_said(results.cost.sweep)}" if results.cost else ""
