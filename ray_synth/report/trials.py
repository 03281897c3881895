"""The trials of a sweep in, a terminal table out: the best ones, the last ones, and those that run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from ray_synth.sweep.ledger import Trial

SHOWN = 6


def live_table(trials: Sequence[Trial], running: Mapping[str, Trial], metric: str = "accuracy") -> Table:
    """What a sweep looks like while it runs."""
    best = sorted((t for t in trials if t.status == "complete"), key=lambda t: -getattr(t, metric))[:3]
    last = [t for t in list(trials)[-SHOWN:] if t not in best]
    return trials_table([*best, *last, *running.values()], marked={t.trial_id for t in best[:1]}, metric=metric)


def trials_table(trials: Sequence[Trial], *, marked: set[str], metric: str = "accuracy") -> Table:
    """A row per trial, in the order given; `marked` ones in bold."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.setting.to_dict()))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("trial", "status"):
        table.add_column(name)
    for name in (metric.replace("_", " "), "seconds", *names):
        table.add_column(name.replace("synthetic_ratio", "ratio").replace("num_clusters", "clusters"), justify="right")
    for trial in trials:
        value = getattr(trial, metric)
        setting = trial.setting.to_dict()
        table.add_row(
            trial.trial_id,
            trial.status,
            "" if math.isnan(value) else f"{value:.4f}",
            f"{trial.seconds:.1f}" if trial.seconds else "",
            *(_short(setting.get(name, "")) for name in names),
            style="bold" if trial.trial_id in marked else "",
        )
    return table


def trial_line(trial: Trial, metric: str = "accuracy") -> str:
    """One trial as a line of the log."""
    setting = " ".join(f"{name}={_short(value)}" for name, value in trial.setting.to_dict().items())
    outcome = trial.error if trial.status == "failed" else f"{metric} {getattr(trial, metric):.4f}"
    return f"{trial.trial_id} {trial.status}: {outcome}, {trial.seconds:.1f} s, {setting}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
