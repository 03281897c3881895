"""A setting and the images in, its accuracy out: a trial's trainings, in its own process or on Ray Train's workers."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.predict import balanced_accuracy, logits_of
from ray_synth.classifier.setting import Setting
from ray_synth.classifier.train import fit
from ray_synth.errors import Spoiled, WorkError
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.training.checkpoint import unpack
from ray_synth.training.team import Team

KEEP_EVERY = 60.0  # seconds of training between two checkpoints of a trial: a short one needs none
RUNNING = "sweep/running"  # where trials keep themselves
SAY_EVERY = 5.0  # seconds between two lines about a running trial


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepData:
    """What all trials of a sweep share; it lies once in Ray's object store."""

    url: str  # of the run folder
    data: ExperimentData


class _StoppedEarly(Exception):
    pass


def run_trial(
    config: Mapping[str, Any], work: SweepData, *, report: Callable[[dict[str, Any]], None], team: Team | None = None
) -> None:
    """Train a setting with each of the sweep's seeds, and report the means last.

    The value after validation pass t is the mean over the seeds trained so far, so all trials are compared at the same
    point; a trial whose value lies below its cut there is stopped. A training longer than a minute goes on from its
    checkpoint when the worker dies or the sweep is resumed. What goes wrong in a training is a result, not a crash;
    but what goes wrong for one worker of several is raised.

    Args:
        config: trial_id, setting (flat) and cuts (validation pass -> value).
        report: called with a trial's row; the last one has `status`.
    """
    nested, team = team is not None, team or Team()
    progress = _Progress(RunFolder.on_worker(work.url), config["trial_id"], on=team.rank == 0)
    data, experiment, said = work.data, work.data.experiment, time.perf_counter()
    cuts = {int(step): cut for step, cut in config["cuts"].items()}

    def row(**outcome: Any) -> dict[str, Any]:
        history = progress.history
        return {
            "accuracy": history[-1] if history else math.nan,
            "accuracy_std": float(np.std(progress.accuracies)) if len(progress.accuracies) > 1 else math.nan,
            "balanced_accuracy": float(np.mean(progress.balanced)) if progress.balanced else math.nan,
            "history": list(history),
            "seconds": progress.seconds,
            **outcome,
        }

    def evaluated(accuracy: float) -> None:
        nonlocal said
        accuracy = team.agreed(accuracy)
        progress.history.append(float(np.mean([*progress.accuracies, accuracy])))
        cut = cuts.get(len(progress.history))
        if cut is not None and progress.history[-1] < cut:
            raise _StoppedEarly
        # Workers report together or not at all, and their clocks differ.
        if nested or time.perf_counter() - said > SAY_EVERY:
            said = time.perf_counter()
            report(row())

    try:
        for repeat in range(len(progress.accuracies), experiment.sweep.repeats):
            fitted = fit(
                *data.at(Setting.from_dict(config["setting"]), team),
                seed=derive_seed("trial", experiment.seed, *([repeat] if repeat else [])),
                report=evaluated,
                checkpoints=progress,
                team=team,
            )
            logits = logits_of(fitted.model, data.validation)
            progress.trained(fitted.accuracy, balanced_accuracy(logits, data.validation.labels))
        report(row(status="complete"))
    except _StoppedEarly:
        report(row(status="pruned"))
    except WorkError as error:  # a loss that is not finite: the same again next time
        if team.size > 1 and not experiment.classifier.gather:
            raise  # it may be this worker's only
        report(row(status="failed", error=str(error), again=isinstance(error, Spoiled)))
    except Exception as error:
        if team.size > 1:
            raise  # so that Ray Train stops the others, who wait for this one
        report(row(status="failed", error=f"{type(error).__name__}: {error}".splitlines()[0], again=True))
    progress.remove()


def kept_progress(folder: RunFolder, name: str) -> tuple[dict[str, Any], bytes] | None:
    """What a trial kept of itself, and its checkpoint; None where it is torn or of an older version: the trial is begun
    anew."""
    seal, _, kept = folder.read(name).partition(b"\n")
    state, _, checkpoint = kept.partition(b"\n")
    if seal.decode(errors="replace") != hashlib.sha256(kept).hexdigest():
        return None
    return None if checkpoint and unpack(checkpoint) is None else (json.loads(state), checkpoint)


@dataclass
class _Progress:
    """A trial's state in the run folder, for trainings of more than a minute: what is done, then fit's checkpoint.

    One file, so that a kill cannot leave the two of different times.
    """

    folder: RunFolder
    trial_id: str
    on: bool  # False: another worker writes
    accuracies: list[float] = field(default_factory=list)
    balanced: list[float] = field(default_factory=list)
    history: list[float] = field(default_factory=list)
    before: float = 0.0  # seconds of training before this start

    def __post_init__(self) -> None:
        self.started = self.saved = time.perf_counter()
        self.name = f"{RUNNING}/{self.trial_id}"
        self.checkpoint = b""
        kept = kept_progress(self.folder, self.name) if self.folder.exists(self.name) else None
        if kept is not None:
            state, self.checkpoint = kept
            vars(self).update(state)

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def trained(self, accuracy: float, balanced: float) -> None:
        """One seed's training has ended; the next one begins anew."""
        self.accuracies.append(accuracy)
        self.balanced.append(balanced)
        self.checkpoint = b""
        if self.on:
            self.save(b"")

    def load(self) -> bytes | None:
        return self.checkpoint or None

    def save(self, data: bytes) -> None:
        if time.perf_counter() - self.saved < KEEP_EVERY:
            return
        self.saved = time.perf_counter()
        state = {name: getattr(self, name) for name in ("accuracies", "balanced", "history")}
        kept = json.dumps({**state, "before": self.seconds}).encode() + b"\n" + data
        self.folder.write(self.name, hashlib.sha256(kept).hexdigest().encode() + b"\n" + kept)

    def remove(self) -> None:
        if self.on:
            self.folder.remove(self.name)
