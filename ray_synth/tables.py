"""The tables that verbs print: of a sweep, a run, an estimate, a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ray_synth.bound.result import ClassEstimate, RatioEstimate
from ray_synth.report.costs import bytes_said, money_said, number_said, seconds_said
from ray_synth.report.methods import allocation_said, class_said, classes_differ, method_rows
from ray_synth.report.summary import Summary
from ray_synth.report.trials import trials_table
from ray_synth.sampling.generation import Generation
from ray_synth.sweep.ledger import SweepResult


def print_sweep(found: SweepResult) -> None:
    """The best trials of a sweep, and the cheapest one that is nearly as good."""
    trials, metric, best, cheapest = found.trials, found.metric, found.best, found.cheapest
    complete = sorted((t for t in trials if t.status == "complete"), key=lambda t: -getattr(t, metric))
    rows = complete[:8] + ([cheapest] if cheapest not in complete[:8] else [])
    console = _console()
    console.print(trials_table(rows, marked={best.trial_id}, metric=metric))
    counts = {status: sum(t.status == status for t in trials) for status in ("complete", "pruned", "failed")}
    console.print(
        f"{len(trials)} trials ({', '.join(f'{n} {status}' for status, n in counts.items() if n)}); "
        f"best {best.trial_id}; cheapest within {found.tolerance:g} of it: "
        f"{cheapest.trial_id}, {cheapest.num_synthetic:,} images, {cheapest.seconds:.1f} s\n"
        f"all: {found.folder}/sweep/trials.csv",
    )


def print_summary(summary: Summary) -> None:
    """The final table of a run."""
    low, high = summary.interval
    table = _two_columns(summary.name)
    table.add_row(
        "predicted ratio", f"{summary.predicted_ratio:.3g}  (interval {low:.3g} to {high:.3g}; {summary.verdict})"
    )
    table.add_row("swept best ratio", f"{summary.best_ratio:.3g}")
    if "generators" in summary.more:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in summary.more["generators"].items())
        table.add_row("best-ranked generator", f"{summary.more['predicted_generator']}  (best with: {shares})")
        table.add_row("swept best generator", summary.more.get("best_generator") or "none: real images alone")
    for label, name in (
        ("real data only", "real_only"),
        ("real data only, tuned", "real_only_tuned"),
        ("real data only, TrivialAugment", "real_only_augmented"),
        ("at the predicted ratio", "at_predicted"),
        ("at the best", "best"),
    ):
        if name in summary.accuracy:
            accuracy, std = summary.accuracy[name], summary.accuracy_std[name]
            table.add_row(f"test accuracy {label}", f"{accuracy:.4f} ± {std:.4f}  (std of {summary.repeats})")
    if summary.label_fidelity is not None:
        table.add_row("label fidelity", f"{summary.label_fidelity:.3f}")
    if summary.failed:
        table.add_row("evaluators that failed", ", ".join(summary.failed))
    table.add_row("images generated", f"{summary.num_generated:,}")
    table.add_row("trials", f"{summary.num_trials}")
    table.add_row("seconds per stage", "  ".join(f"{name} {value:.1f}" for name, value in summary.seconds.items()))
    table.add_row("seconds in all", f"{sum(summary.seconds.values()):.1f}")
    _console().print(table)


def print_generation(generation: Generation) -> None:
    """What was generated, kept and set aside."""
    table = _two_columns("generated")
    table.add_row("from", generation.model_id + (f"  ({generation.model_license})" * bool(generation.model_license)))
    table.add_row("images kept", f"{generation.kept:,} of {generation.made:,} made; {generation.asked:,} asked")
    for reason, count in generation.rejected.items():
        table.add_row(f"rejected: {reason}", f"{count:,}")
    _console().print(table)


def print_estimate(
    estimate: RatioEstimate, class_names: Sequence[str] = (), cheapest: Mapping[str, float] | None = None
) -> None:
    """A prediction: the ratio and what it rests on, each method's own answer, the worst classes, warnings.

    class_names: by label; "class 3" where they are not known. cheapest: of `folders.cheapest`.
    """
    console = _console()
    low, high = estimate.interval
    table = _two_columns("estimate")
    table.add_row(
        "predicted ratio", f"{estimate.ratio:.3g}  (interval {low:.3g} to {high:.3g}, {estimate.confidence:.0%})"
    )
    table.add_row("verdict", f"{estimate.verdict}: {estimate.reason}")
    if estimate.metric != "accuracy":
        table.add_row("measure", f"{estimate.metric.replace('_', ' ')}: classes count alike")
    table.add_row("images", _images_said(estimate))
    if estimate.features:
        table.add_row("features", estimate.features)
    allocation = allocation_said(estimate)
    if allocation:
        table.add_row("allocation", allocation)
    if estimate.real_equivalent is not None:
        table.add_row("worth", f"1 real image is worth {estimate.real_equivalent:.3g} synthetic ones at this ratio")
    weight = _weight_said(estimate)
    if weight:
        table.add_row("best weight", weight)
    if cheapest is not None:
        table.add_row("cheapest ratio", _cheapest_said(cheapest))
    console.print(table)
    methods = _columns("what each method says", "method", "ratio", "from")
    for name, ratio, terms in method_rows(estimate):
        methods.add_row(name, f"{ratio:.3g}", terms)
    console.print("", methods)
    if classes_differ(estimate):
        console.print("", _worst_classes(estimate, class_names))
    for warning in estimate.warnings:
        console.print(f"\nwarning: {warning}", style="yellow")


def print_generators(ranked: Sequence[tuple[str, float, RatioEstimate]]) -> None:
    """Generators by name with the probability that each is the best one, best first."""
    table = _columns("generators", "generator", "best with", "ratio", "predicted error there", "verdict")
    for name, probability, estimate in ranked:
        error = estimate.error_at(estimate.ratio)
        table.add_row(name, f"{probability:.0%}", f"{estimate.ratio:.3g}", f"{error:.3f}", estimate.verdict)
    _console().print(table)
    _console().print(f"\nthe first of them, {ranked[0][0]}:")


def print_plan(plan: Mapping[str, Any]) -> None:
    """What a run will cost: its stages, totals, the scaling curve, what the prediction saves, and what to doubt."""
    console, kind = _console(), plan["kind"].upper()
    here = plan["scaling"][0]
    title = f"{plan['name']} on {plan['nodes']} node(s) of {plan['slots']} {kind}(s), {plan['hardware']}"
    stages = _columns(f"plan: {title}", "stage", "work", f"{kind}-hours", "wall time")
    for stage in plan["stages"]:
        hours = number_said(stage["hours"])
        stages.add_row(stage["name"], stage["work"], hours, seconds_said(stage["wall"]))
    console.print(stages)
    console.print("", _plan_totals(plan, here, kind))
    if len(plan["scaling"]) > 1:
        console.print("", _scaling(plan))
    for line in _plan_says(plan):
        console.print(f"\n{line}")
    for note in plan["notes"]:
        console.print(f"note: {note}")


def _plan_totals(plan: Mapping[str, Any], here: Mapping[str, Any], kind: str) -> Table:
    table = _two_columns("in all (5th to 95th percentile)")
    table.add_row("wall time", seconds_said(here["wall"]))
    table.add_row(f"{kind}-hours", number_said(plan["hours"]))
    table.add_row("images to make", f"{plan['images']:,} in {plan['chunks']:,} chunks")
    table.add_row("storage", f"{bytes_said(plan['bytes_written'])} to write, {bytes_said(plan['bytes_in_all'])} in all")
    if here["money"] is not None:
        table.add_row("money, on demand", money_said(here["money"]))
    if here["spot"] is not None:
        spot = f"{money_said(here['spot'])}; {seconds_said(here['wall_spot'])}"
        table.add_row("money, spot", spot)
    if here["money"] is None:
        table.add_row("money", "no price is known for this machine; --price X gives that of a node and hour")
    elif plan["prices_read"]:
        table.add_row("prices", f"read {plan['prices_read']}; --price X replaces them")
    if plan["complete"]:
        table.add_row("complete already", ", ".join(plan["complete"]))
    return table


def _scaling(plan: Mapping[str, Any]) -> Table:
    priced = [name for name in ("money", "spot") if plan["scaling"][0][name] is not None]
    names = {"money": "on demand", "spot": "on spot"}
    more = [*(names[name] for name in priced), *(["wall time on spot"] if "spot" in priced else [])]
    table = _columns("over nodes", "nodes", "wall time", "efficiency", *more)
    for point in plan["scaling"]:
        row = [f"{point['nodes']:,}", seconds_said(point["wall"]), f"{point['efficiency']:.0%}"]
        row += [money_said(point[name]) for name in priced]
        table.add_row(*row, *([seconds_said(point["wall_spot"])] if "spot" in priced else []))
    return table


def _plan_says(plan: Mapping[str, Any]) -> Iterator[str]:
    bend, saving = plan["bend"], plan["saving"]
    if bend is not None:
        yield f"the curve bends at {bend['nodes']:,} nodes ({bend['cause']}): {bend['reason']}"
    elif len(plan["scaling"]) > 1:
        yield "the curve does not bend yet: each node brings more than half of what it should"
    if saving is not None:
        images = "" if saving["everything"] is None else f", {saving['everything']:.0%} with the images"
        if saving["trainings"] < 0:  # of trials that take a share of its images
            all_in = "" if not images else f"; with the images it saves {saving['everything']:.0%}"
            yield (
                f"one training at the predicted ratio takes {-saving['trainings']:.0%} more than the sweep's "
                f"{saving['trials']} trials, which are smaller{all_in}"
            )
            return
        yield (
            f"one training at the predicted ratio saves {saving['trainings']:.0%} of the sweep's {saving['trials']} "
            f"trainings ({saving['bound']:.0%} of the same without early stops){images}; Beyond Real Data says up to "
            "90 % of training, for 8 ratios"
        )


def _images_said(estimate: RatioEstimate) -> str:
    given, size = estimate.num_real_given, estimate.num_real
    real = f"{given:,} real" + (f" (a sample of {size:,})" if size != given else "")
    return f"{real}, {estimate.num_synthetic:,} synthetic"


def _weight_said(estimate: RatioEstimate) -> str:
    """The best weight at the probed ratio next to the predicted one; nothing where no synthetic image is used."""
    ratio = estimate.ratio
    if not estimate.weights or ratio == 0:
        return ""
    near = min(estimate.weights, key=lambda each: abs(math.log2((1 + each.ratio) / (1 + ratio))))
    return (
        f"real_weight {near.real_weight:.3g} at ratio {near.ratio:.3g} "
        f"(uniform weights are {1 / near.ratio:.3g}): {near.gain:+.4f} ± {near.gain_std:.4f} accuracy"
    )


def _cheapest_said(found: Mapping[str, float]) -> str:
    return (
        f"{found['ratio']:.3g} costs {found['cost']:,.4g}, error {found['error']:.4f}; the best, "
        f"{found['best_ratio']:.3g}, costs {found['best_cost']:,.4g}, error {found['best_error']:.4f}: "
        f"{found['saving']:,.4g} saved within {found['tolerance']:g} of error"
    )


def _worst_classes(estimate: RatioEstimate, class_names: Sequence[str], most: int = 3) -> Table:
    classes = estimate.classes
    shown = f"worst {most} of {len(classes)} classes" if len(classes) > most else "classes, worst first"
    table = _columns(
        f"{shown} (recall)", "class", "real data only", f"at ratio {estimate.ratio:.3g}", "its own best ratio"
    )
    for each in classes[:most]:
        table.add_row(
            class_said(each.label, class_names),
            f"{each.recall_real_only:.3f}",
            f"{each.recall:.3f}",
            _own_ratio(each),
        )
    return table


def _own_ratio(each: ClassEstimate) -> str:
    if not each.num_synthetic:
        return "no synthetic images"
    return f"{each.ratio:.3g}" + (f" ({each.interval[0]:.3g} to {each.interval[1]:.3g})" if each.interval else "")


def _columns(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _two_columns(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _console() -> Console:
    """Names of classes are text, whatever brackets and colons they hold."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
