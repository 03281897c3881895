"""Lines of `sweep/ledger.jsonl` in, the trials of a sweep out: the one thing that a resume reads.

A line when a trial starts (its setting, its digest, what it was proposed with), a line when it ends. A line that a kill
cut short counts for nothing, nor does one that is not what its own hash says: its trial is run again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray_synth.classifier.setting import Setting
from ray_synth.errors import WorkError
from ray_synth.records import record
from ray_synth.runs import RunFolder

LEDGER, TRIALS = "sweep/ledger.jsonl", "sweep/trials.csv"
SEAL = "sha256"  # of a line, the first half

Status = Literal["running", "complete", "pruned", "failed"]  # none in the ledger is running


@dataclass(frozen=True, kw_only=True)
class Start:
    """A trial as it was proposed. `cuts`: validation pass -> the accuracy below which it is stopped early."""

    trial_id: str
    setting: Setting
    origin: str  # first | prior | tpe | random | grid
    params: Mapping[str, Any]
    cuts: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of trials.csv. Accuracies are on the validation set, means over the seeds of `repeats`: the last ones
    for a pruned trial, NaN for a failed one. `history` has the accuracy after each validation pass."""

    trial_id: str
    status: Status
    seconds: float
    accuracy: float
    setting: Setting
    accuracy_std: float = math.nan
    balanced_accuracy: float = math.nan
    gpu_seconds: float = 0.0
    num_synthetic: int = 0
    evaluations: int = 0
    origin: str = ""
    error: str = ""
    again: bool = False  # failed for a reason that may pass: a resume tries it once more
    history: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: null where a number is none."""
        row = {name: _plain(value) for name, value in vars(self).items()}
        return row | {"setting": self.setting.to_dict(), "history": [_plain(value) for value in self.history]}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Trial:
        numbers = ("accuracy", "accuracy_std", "balanced_accuracy")
        found = {name: math.nan if row[name] is None else row[name] for name in numbers}
        history = tuple(math.nan if value is None else value for value in row["history"])
        setting = Setting.from_dict(row["setting"])
        return record(cls, {**row, **found, "setting": setting, "history": history}, "trial")


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep found: its trials, by trial_id, the best one, and the cheapest within `tolerance` of it."""

    folder: str
    metric: str
    tolerance: float
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        return best_trial(self.trials, self.metric)

    @property
    def cheapest(self) -> Trial:
        return cheapest_trial(self.trials, self.tolerance, self.metric)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with `best` and `cheapest`."""
        ends = {"best": self.best.to_dict(), "cheapest": self.cheapest.to_dict()}
        return {**vars(self), "trials": [trial.to_dict() for trial in self.trials], **ends}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> SweepResult:
        trials = tuple(Trial.from_dict(row) for row in plain["trials"])
        return cls(**{name: plain[name] for name in ("folder", "metric", "tolerance")}, trials=trials)


class Ledger:
    """What a sweep has started and ended so far, in the order of the starts."""

    def __init__(self, folder: RunFolder, *, read: bool = True):
        """read: False for an empty one, whatever lies in the folder. Raises WorkError for lines that are none."""
        self.folder = folder
        self.starts: dict[str, Start] = {}
        self.ended: dict[str, Trial] = {}
        self.target = 0  # of a sweep that was extended
        self.spoiled: list[int] = []  # numbers of lines that are not what was written
        self.whole: list[str] = []  # the others
        text = folder.read(LEDGER).decode(errors="replace") if read and folder.exists(LEDGER) else ""
        lines = text.split("\n")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                if line.strip() and number < len(lines):  # else a kill cut it short
                    self.spoiled.append(number)
                continue
            if isinstance(row, dict) and row.pop(SEAL, None) not in (None, _seal(row)):
                self.spoiled.append(number)
                continue
            self.whole.append(line)
            try:
                self._take(row)
            except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
                raise WorkError(
                    f"{folder.url}/{LEDGER} cannot be read: line {number} is no line of a ledger "
                    f"({type(error).__name__}: {error}); move {folder.url}/sweep away to start the sweep anew"
                ) from None
        self._drop_followers()

    def _drop_followers(self) -> None:
        """Trials whose start is missing, and those after one: what was proposed follows from all before it."""
        if self.spoiled:
            known = {trial_id for k, trial_id in enumerate(sorted(self.starts)) if trial_id == f"t{k:05d}"}
            self.starts = {trial_id: start for trial_id, start in self.starts.items() if trial_id in known}
            self.ended = {trial_id: trial for trial_id, trial in self.ended.items() if trial_id in known}

    def _take(self, row: dict[str, Any]) -> None:
        event = row.pop("event")
        if event == "target":
            self.target = max(self.target, row["num_trials"])
        elif event == "started":
            setting = Setting.from_dict(row["setting"])
            if row.pop("digest") != setting.digest:
                raise ValueError("its digest is not that of its setting")
            self.starts[row["trial_id"]] = record(Start, {**row, "setting": setting}, "trial")
        elif event == "ended":
            self.ended[row["trial_id"]] = Trial.from_dict(row)

    @property
    def trials(self) -> list[Trial]:
        """What ended, by trial_id."""
        return [self.ended[trial_id] for trial_id in sorted(self.ended)]

    def resume(self) -> Ledger:
        """Before the sweep goes on: trials that failed for a reason that may pass count as cut off."""
        self.ended = {trial_id: trial for trial_id, trial in self.ended.items() if not trial.again}
        self._repair()
        return self

    def _repair(self) -> None:
        """Before the first line is added: what a kill cut short goes, for what follows must not join it; and so do
        lines that are not what was written, of which a copy is kept."""
        text = "".join(f"{line}\n" for line in self.whole).encode()
        if not self.folder.exists(LEDGER) or self.folder.read(LEDGER) == text:
            return
        if self.spoiled:
            self.folder.keep_copy(LEDGER, "spoiled")
        self.folder.write(LEDGER, text)

    def start(self, start: Start) -> None:
        setting = {"digest": start.setting.digest, "setting": start.setting.to_dict()}
        rest = {"trial_id": start.trial_id, "origin": start.origin, "params": start.params, "cuts": start.cuts}
        self._append({"event": "started", **setting, **rest})
        self.starts[start.trial_id] = start

    def end(self, trial: Trial) -> None:
        self._append({"event": "ended", **trial.to_dict()})
        self.ended[trial.trial_id] = trial

    def explain(self, trial_id: str, error: str) -> None:
        """Why a trial failed, where this was known only after it had ended. One that did better later is left alone."""
        trial = self.ended.get(trial_id)
        if trial is not None and trial.status == "failed" and not trial.error:
            self.end(replace(trial, error=error))

    def extend(self, num_trials: int) -> None:
        self._repair()
        self._append({"event": "target", "num_trials": num_trials})
        self.target = num_trials

    def write_table(self) -> None:
        """trials.csv, by trial_id: identity, outcome, settings, then what the trial cost."""
        rows = [_row(trial) for trial in self.trials]
        columns = list(dict.fromkeys(name for row in rows for name in row)) or ["trial_id"]
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        csv.writer(buffer, lineterminator="\n").writerow(columns)
        writer.writerows({name: _no_formula(value) for name, value in row.items()} for row in rows)
        self.folder.write(TRIALS, buffer.getvalue().encode())

    def _append(self, row: Mapping[str, Any]) -> None:
        plain = json.loads(json.dumps(row, allow_nan=False))  # as it will be read
        line = json.dumps({**plain, SEAL: _seal(plain)})
        self.folder.append(LEDGER, f"{line}\n")
        self.whole.append(line)


def best_trial(trials: Sequence[Trial], metric: str = "accuracy") -> Trial:
    """Highest metric among the complete trials; of equals, the one with the fewest synthetic images."""
    complete = [trial for trial in trials if trial.status == "complete"]
    if not complete:
        first = next((trial.error for trial in trials if trial.error), "every trial was stopped early")
        raise WorkError(f"no trial of the sweep is complete ({first}); look at sweep/trials.csv")
    return max(complete, key=lambda t: (getattr(t, metric), -t.setting.synthetic_ratio, _reversed(t.trial_id)))


def cheapest_trial(trials: Sequence[Trial], tolerance: float, metric: str = "accuracy") -> Trial:
    """Within `tolerance` of the best complete trial: the fewest synthetic images, then the fewest seconds."""
    best = getattr(best_trial(trials, metric), metric)
    near = [t for t in trials if t.status == "complete" and getattr(t, metric) >= best - tolerance]
    return min(near, key=lambda t: (t.num_synthetic, t.seconds, t.trial_id))


def _reversed(trial_id: str) -> int:
    return -int(trial_id[1:])


def _seal(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _no_formula(value: Any) -> Any:
    """Words as a spreadsheet shows them: what begins like a formula is text there."""
    text = str(value) if not isinstance(value, bool | int | float) and value is not None else ""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) or text[:1] in ("\t", "\r") else value


def _row(trial: Trial) -> dict[str, Any]:
    outcome = {name: getattr(trial, name) for name in ("trial_id", "status", "seconds", "accuracy")}
    rest = ("accuracy_std", "balanced_accuracy", "gpu_seconds", "num_synthetic", "evaluations", "origin", "error")
    return {**outcome, **trial.setting.to_dict(), **{name: getattr(trial, name) for name in rest}}
