"""Images and a prediction in, a table of trials out: Ray Tune runs what the search proposes, the ledger keeps it."""

from __future__ import annotations

import logging
import math
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.search import Searcher

from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.config import Experiment
from ray_synth.data.source import ImageSource
from ray_synth.errors import WorkError
from ray_synth.nodes import cluster_nodes
from ray_synth.runs import RunFolder
from ray_synth.sweep.ledger import Ledger, Start, Status, Trial, best_trial
from ray_synth.sweep.prior import Prior
from ray_synth.sweep.search import Search
from ray_synth.sweep.slots import WINDOW, TrialSlots
from ray_synth.sweep.space import Space
from ray_synth.sweep.trial import SweepData, run_trial
from ray_synth.training.team import train_team

TRIAL_DEATHS = 2  # of its worker that a trial may survive
TABLE_EVERY = 5.0  # seconds between two versions of trials.csv while the sweep runs
TRIAL_CPU = 0.01  # of a trial that only waits for its workers


def run_sweep(
    folder: RunFolder,
    experiment: Experiment,
    real: ImageSource,
    validation: ImageSource,
    images: Callable[[float], ImageSource],
    *,
    prior: Prior | None,
    max_ratio: float,
    shown: Callable[[Ledger, Mapping[str, Trial]], None] = lambda ledger, running: None,
) -> list[Trial]:
    """Run what is left of the sweep. Ray must be up.

    Args:
        images: a ratio -> synthetic images enough for it; called again when a trial needs more than there are.
        prior: what the prediction says, where the sweep starts from one.
        max_ratio: upper end of the searched ratios.
        shown: called with the ledger, and with the latest of the trials that run, whenever either has changed.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the table says which worker died
    nodes = cluster_nodes()
    slots = TrialSlots.of(experiment.sweep, cpus=nodes.most_cpus, gpus=sum(nodes.most_gpus))
    ledger = Ledger(folder).resume()
    space = Space(experiment, num_classes=real.num_classes, max_ratio=max_ratio)
    search = Search(ledger, experiment, space, prior=prior, window=WINDOW * slots.count)
    shown(ledger, {})
    try:
        while search.left:
            waiting = [ledger.starts[i].setting for i in search.again]
            synthetic = images(max((setting.synthetic_ratio for setting in waiting), default=0.0))
            data = ExperimentData.of(experiment, real, synthetic, validation)
            for setting in waiting:
                if (data.counts(setting) > data.available).any():
                    raise WorkError(
                        f"a trial at ratio {setting.synthetic_ratio:g} needs more synthetic images than there can be"
                    )
            work = SweepData(url=folder.absolute_url, data=data)
            before = search.left
            _run_trials(LedgerSearcher(search, real.counts, data.available, slots, shown), work, slots)
            if search.left == before and not search.again:
                break
    finally:
        ledger.write_table()
    trials = ledger.trials
    if len(trials) < search.total:
        raise WorkError(f"the sweep stopped after {len(trials)} of {search.total} trials")
    best_trial(trials)  # a sweep without a complete trial has failed
    return trials


def _run_trials(searcher: LedgerSearcher, work: SweepData, slots: TrialSlots) -> None:
    if slots.workers > 1:  # passed on to Ray Train's workers, as a reference
        trainable = tune.with_parameters(_nested, work=[ray.put(work)], slots=slots)
    else:
        trainable = tune.with_parameters(_single, work=work, on_gpu=slots.gpus > 0)
    resources = {"gpu": slots.gpus} if slots.gpus else {"cpu": 1.0}
    if slots.workers > 1:
        resources = {"cpu": TRIAL_CPU}  # its workers ask for theirs themselves
    with tempfile.TemporaryDirectory(prefix="ray_synth-sweep-") as scratch:
        results = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                metric="accuracy",
                mode="max",
                num_samples=-1,  # the search says when it is over
                search_alg=searcher,
                max_concurrent_trials=slots.count,
                reuse_actors=slots.workers == 1,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="sweep",
                verbose=0,
            ),
        ).fit()
    for result in map(results.__getitem__, range(len(results))):
        if result.error is not None and result.config:
            lines = [line for line in str(result.error).strip().splitlines() if line.strip()] or ["unknown"]
            searcher.search.ledger.explain(result.config["trial_id"], lines[-1].strip())


def _single(config: Mapping[str, Any], *, work: SweepData, on_gpu: bool) -> None:
    """A trial in Tune's own process."""
    import torch

    if on_gpu and not torch.cuda.is_available():
        raise WorkError(
            f"{socket.gethostname()} has a GPU, says Ray, and torch {torch.__version__} finds none: its driver is "
            "missing or too old"
        )
    torch.set_num_threads(1)
    run_trial(config, work, report=tune.report)


def _nested(config: Mapping[str, Any], *, work: list[Any], slots: TrialSlots) -> None:
    """A trial on Ray Train's workers. Each runs the same trial; what the first one reports is Tune's.

    work: the one reference to it in Ray's object store.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    callback: Any = TuneReportCallback()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory(prefix="ray_synth-trial-") as scratch:
        TorchTrainer(
            _nested_worker,
            train_loop_config={"config": dict(config), "work": work},
            scaling_config=ScalingConfig(
                num_workers=slots.workers,
                use_gpu=slots.gpus > 0,
                # The trial itself holds a hundredth: whole ones would wait for ever on a machine that they fill.
                resources_per_worker=None if slots.gpus else {"CPU": 1 - TRIAL_CPU},
            ),
            run_config=RunConfig(name=config["trial_id"], storage_path=scratch, callbacks=[callback]),
        ).fit()


def _nested_worker(passed: Mapping[str, Any]) -> None:
    import ray.train

    run_trial(passed["config"], ray.get(passed["work"][0]), report=ray.train.report, team=train_team())


class LedgerSearcher(Searcher):
    """The search behind Ray Tune's searcher interface.

    Ray's own OptunaSearch tells a trial that was stopped early as complete, leaves one with NaN running, and crashes
    when it is resumed from storage; here each has its status, and the ledger is the one way to resume.
    """

    def __init__(
        self,
        search: Search,
        real_counts: np.ndarray,
        available: np.ndarray,
        slots: TrialSlots,
        shown: Callable[[Ledger, Mapping[str, Trial]], None],
    ):
        super().__init__(metric="accuracy", mode="max")
        self.search, self.real_counts, self.available = search, real_counts, available
        self.slots, self.shown = slots, shown
        self.running: dict[str, Start] = {}
        self.latest: dict[str, Trial] = {}
        self.deaths: Counter[str] = Counter()
        self.written = -math.inf  # when trials.csv was, on the monotonic clock

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Searcher.FINISHED
        start = self.search.propose() if self.search.left else None
        if start is None:
            return None if self.running else Searcher.FINISHED
        if (self._wanted(start) > self.available).any():
            self.search.again.append(start.trial_id)  # next, when its images are there
            return Searcher.FINISHED
        self.running[trial_id] = start
        self.latest[start.trial_id] = Trial(
            trial_id=start.trial_id, status="running", seconds=0.0, accuracy=math.nan, setting=start.setting
        )
        self.shown(self.search.ledger, self.latest)
        return {"trial_id": start.trial_id, "setting": start.setting.to_dict(), "cuts": dict(start.cuts)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        start = self.running[trial_id]
        self.latest[start.trial_id] = self._trial(start, result)
        self.shown(self.search.ledger, self.latest)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        start = self.running.pop(trial_id)
        self.latest.pop(start.trial_id, None)
        dead = error or "status" not in (result or {})
        if dead and self.deaths[start.trial_id] < TRIAL_DEATHS:
            # Not left to Tune: it gives a trial up whose worker dies before it has begun.
            self.deaths[start.trial_id] += 1
            self.search.again.insert(0, start.trial_id)
            return
        trial = self._trial(start, result or {}, dead=dead)
        self.search.ledger.end(trial)
        if time.monotonic() - self.written > TABLE_EVERY:
            self.search.ledger.write_table()
            self.written = time.monotonic()
        self.shown(self.search.ledger, self.latest)

    def _wanted(self, start: Start) -> np.ndarray:
        """Synthetic images of each class. [C]"""
        return start.setting.synthetic_counts(self.real_counts, self.search.experiment, self.available > 0)

    def _trial(self, start: Start, result: Mapping[str, Any], *, dead: bool = False) -> Trial:
        """A row from what a trial reported last. dead: it ended without its last word."""
        status: Status = "failed" if dead else result.get("status", "running")
        accuracy, error = float(result.get("accuracy", math.nan)), str(result.get("error", ""))
        if status == "complete" and not math.isfinite(accuracy):
            status, error = "failed", "its accuracy is not a number"
        failed = status == "failed"
        seconds = float(result.get("seconds", 0.0))
        return Trial(
            trial_id=start.trial_id,
            status=status,
            seconds=round(seconds, 3),
            accuracy=math.nan if failed else accuracy,
            accuracy_std=math.nan if failed else float(result.get("accuracy_std", math.nan)),
            balanced_accuracy=math.nan if failed else float(result.get("balanced_accuracy", math.nan)),
            gpu_seconds=round(seconds * self.slots.gpus, 3),
            num_synthetic=int(self._wanted(start).sum()),
            evaluations=len(result.get("history", ())),
            origin=start.origin,
            setting=start.setting,
            error=error,
            again=dead or bool(result.get("again", False)),
            history=tuple(float(value) for value in result.get("history", ())),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for its own restore, which is not used here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason: the ledger is the one way to resume."""

    def restore(self, checkpoint_path: str) -> None:
        raise WorkError("a sweep is resumed from its ledger: run the same command again")
