"""Training images and a prediction in, a table of trials out: Ray Tune runs, Optuna proposes, a ledger remembers.

The ledger (`sweep/ledger.jsonl`: a line when a trial starts, a line when it ends) is the one way to resume. From it the
Optuna study is rebuilt, trials that were cut off are run again with the same settings, and the budget is what is left.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from ray_synth.classifier.mixture import TrainingData, mix, partition_features
from ray_synth.classifier.train import Fitted, fit
from ray_synth.config import Experiment, Range
from ray_synth.data.images import ImageSet, synthetic_counts
from ray_synth.errors import WorkError
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed

LEDGER, TRIALS = "sweep/ledger.jsonl", "sweep/trials.csv"
OUTPUTS = ("sweep",)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one trial trains with."""

    synthetic_ratio: float
    lambda_1: float
    lambda_2: float
    num_clusters: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of trials.csv. `accuracy` is on the validation set: the last for a pruned trial, NaN for a failed one."""

    trial_id: str
    status: Literal["complete", "pruned", "failed"]
    seconds: float
    accuracy: float
    setting: Setting
    num_synthetic: int
    evaluations: int
    error: str = ""


def default_setting(experiment: Experiment, num_classes: int, synthetic_ratio: float) -> Setting:
    """The classifier's own settings at a ratio: what one would train with when nothing is searched."""
    return Setting(
        synthetic_ratio=synthetic_ratio,
        lambda_1=experiment.classifier.lambda_1,
        lambda_2=experiment.classifier.lambda_2,
        num_clusters=experiment.partition.clusters(num_classes),
    )


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Highest validation accuracy among the complete trials; of equals, the one with the fewest synthetic images."""
    complete = [trial for trial in trials if trial.status == "complete"]
    if not complete:
        first = next((trial.error for trial in trials if trial.error), "every trial was stopped early")
        raise WorkError(f"no trial of the sweep is complete ({first}); look at sweep/trials.csv")
    return max(complete, key=lambda trial: (trial.accuracy, -trial.setting.synthetic_ratio, trial.trial_id))


def known_features(experiment: Experiment, real: ImageSet, synthetic: ImageSet) -> np.ndarray | None:
    """An encoder's features of all images, taken once for all trials. Pixels cost nothing: each trial takes its own."""
    encoder = experiment.partition.encoder
    return partition_features([real, synthetic], experiment.partition.features) if encoder else None


def mix_setting(
    setting: Setting, experiment: Experiment, real: ImageSet, synthetic: ImageSet, features: np.ndarray | None = None
) -> TrainingData:
    """The training data of a setting, with its regions. Without a synthetic image real ones are used in any case."""
    synthetic_images = synthetic_counts(np.bincount(real.labels), setting.synthetic_ratio).any()
    return mix(
        real,
        synthetic,
        synthetic_ratio=setting.synthetic_ratio,
        num_clusters=setting.num_clusters,
        partition=experiment.partition,
        seed=derive_seed("partition", experiment.seed),
        use_real=experiment.data.use_real or not synthetic_images,
        online=experiment.classifier.algorithm == "lightweight",
        features=features,
    )


def train_setting(
    setting: Setting,
    experiment: Experiment,
    real: ImageSet,
    synthetic: ImageSet,
    validation: ImageSet,
    *,
    seed: int,
    features: np.ndarray | None = None,
    **how: Any,
) -> Fitted:
    """`fit` at a setting: the mix, its regions, and the classifier section with the setting's lambdas."""
    data = mix_setting(setting, experiment, real, synthetic, features)
    classifier = experiment.classifier.model_copy(update={"lambda_1": setting.lambda_1, "lambda_2": setting.lambda_2})
    return fit(data, validation, classifier, seed=seed, **how)


def run_sweep(
    folder: RunFolder,
    experiment: Experiment,
    real: ImageSet,
    synthetic: ImageSet,
    validation: ImageSet,
    *,
    first: Sequence[Setting],
    max_ratio: float,
    progress: Callable[[int], None] = lambda ended: None,
) -> list[Trial]:
    """Run what is left of the sweep. Ray must be up.

    Args:
        first: settings tried before the sampler has its say (ratio 0 and the prediction).
        max_ratio: upper end of the searched ratios.
        progress: called with the number of trials that ended.
    """
    import ray

    real_counts = np.bincount(real.labels, minlength=real.num_classes)
    search = LedgerSearch(folder, experiment, real_counts, first=first, max_ratio=max_ratio, progress=progress)
    if search.left:
        gpus = ray.cluster_resources().get("GPU", 0)
        slots = int(gpus or ray.cluster_resources().get("CPU", 1))
        settings = experiment.sweep
        trainable = tune.with_parameters(
            _trial,
            experiment=experiment,
            real=real,
            synthetic=synthetic,
            validation=validation,
            features=known_features(experiment, real, synthetic),
        )
        with tempfile.TemporaryDirectory(prefix="ray_synth-sweep-") as scratch:
            results = tune.Tuner(
                tune.with_resources(trainable, {"gpu": 1} if gpus else {"cpu": 1}),
                tune_config=tune.TuneConfig(
                    metric="accuracy",
                    mode="max",
                    num_samples=search.left,
                    search_alg=search,
                    max_concurrent_trials=min(settings.concurrency or slots, slots),
                    reuse_actors=True,
                    scheduler=ASHAScheduler(
                        max_t=experiment.classifier.evaluations,
                        grace_period=min(settings.grace, experiment.classifier.evaluations),
                        reduction_factor=settings.reduction_factor,
                    ),
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    name="sweep",
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=1),
                ),
            ).fit()
        for result in results:
            if result.error is not None:
                search.record_error(result.config["trial_id"], str(result.error))
    trials = read_ledger(folder)[1]
    write_trials(folder, trials)
    if len(trials) < experiment.sweep.num_trials:
        raise WorkError(f"the sweep stopped after {len(trials)} of {experiment.sweep.num_trials} trials")
    best_trial(trials)  # a sweep without a complete trial has failed
    return trials


def _trial(
    config: Mapping[str, Any],
    *,
    experiment: Experiment,
    real: ImageSet,
    synthetic: ImageSet,
    validation: ImageSet,
    features: np.ndarray | None,
) -> None:
    import torch

    torch.set_num_threads(1)
    train_setting(
        Setting(**config["setting"]),
        experiment,
        real,
        synthetic,
        validation,
        seed=derive_seed("trial", experiment.seed),
        features=features,
        report=lambda accuracy: tune.report({"accuracy": accuracy}),
    )


class LedgerSearch(Searcher):
    """Optuna's study behind Ray Tune's searcher interface; every trial is written to the ledger as it starts and ends.

    Ray's own OptunaSearch tells a trial that ASHA stopped as complete, and crashes when it is resumed from storage;
    here a stopped trial is told as pruned, a NaN or a crash as failed, and the study is rebuilt from the ledger.
    """

    def __init__(
        self,
        folder: RunFolder,
        experiment: Experiment,
        real_counts: np.ndarray,
        *,
        first: Sequence[Setting],
        max_ratio: float,
        progress: Callable[[int], None],
    ):
        super().__init__(metric="accuracy", mode="max")
        self.folder, self.experiment, self.real_counts, self.progress = folder, experiment, real_counts, progress
        space = experiment.sweep.space
        self.ranges = {
            "synthetic_ratio": Range(low=0.0, high=max_ratio, scale="log1p"),
            "lambda_1": space.lambda_1,
            "lambda_2": space.lambda_2,
            "clusters_per_class": space.clusters_per_class,
        }
        self.distributions = {
            name: FloatDistribution(_to_scale(r.low, r.scale), _to_scale(r.high, r.scale))
            for name, r in self.ranges.items()
        }
        self.running: dict[str, tuple[optuna.Trial, str, Setting]] = {}
        if folder.exists(LEDGER) and not folder.read(LEDGER).endswith(b"\n"):
            folder.append(LEDGER, "\n")  # a kill cut the last line short; what follows must not join it
        started, ended = read_ledger(folder)
        self.trials = [trial for trial in ended if trial.status != "failed"]  # what failed is tried again
        done = {trial.trial_id for trial in self.trials}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        seed = derive_seed("sweep", experiment.seed, len(self.trials)) % 2**32
        sampler: Any = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)
            if experiment.sweep.sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in self.trials:
            self.study.add_trial(self._frozen(trial))
        cut_off = [(trial_id, setting) for trial_id, setting in started.items() if trial_id not in done]
        tried = list(started.values())
        self.queue = cut_off + [("", setting) for setting in first if setting not in tried]
        self.next_number = 1 + max((int(trial_id[1:]) for trial_id in started), default=-1)
        self.left = max(0, experiment.sweep.num_trials - len(done))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        name = ""
        setting = None
        if self.queue:
            name, setting = self.queue.pop(0)
            self.study.enqueue_trial(self._params(setting))
        trial = self.study.ask(self.distributions)
        setting = setting or self._setting(trial.params)
        if not name:
            name = f"t{self.next_number:05d}"
            self.next_number += 1
            self._record({"event": "started", "trial_id": name, "setting": asdict(setting)})
        self.running[trial_id] = (trial, name, setting)
        return {"trial_id": name, "setting": asdict(setting)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        trial, _, _ = self.running[trial_id]
        if math.isfinite(result["accuracy"]):
            trial.report(result["accuracy"], result["training_iteration"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial, name, setting = self.running.pop(trial_id)
        accuracy = float(result["accuracy"]) if result and "accuracy" in result else math.nan
        evaluations = int(result["training_iteration"]) if result else 0
        status: Literal["complete", "pruned", "failed"] = "complete"
        if error or not math.isfinite(accuracy):
            status = "failed"
        elif evaluations < self.experiment.classifier.evaluations:
            status = "pruned"
        ended = Trial(
            trial_id=name,
            status=status,
            seconds=round(float(result["time_total_s"]), 3) if result else 0.0,
            accuracy=accuracy if status != "failed" else math.nan,
            setting=setting,
            num_synthetic=int(synthetic_counts(self.real_counts, setting.synthetic_ratio).sum()),
            evaluations=evaluations,
            error="its accuracy is not a number" if status == "failed" and not error else "",
        )
        self._record({"event": "ended", **asdict(ended), "accuracy": None if status == "failed" else ended.accuracy})
        self.trials.append(ended)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.study.tell(trial, accuracy if status == "complete" else None, state=states[status])
        self.progress(len(self.trials))

    def record_error(self, trial_id: str, error: str) -> None:
        """Why a trial failed: the last line of what its worker raised."""
        lines = [line for line in error.strip().splitlines() if line.strip()] or ["unknown"]
        self._record({"event": "error", "trial_id": trial_id, "error": lines[-1].strip()})

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for its own restore, which is not used here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason: the ledger is the one way to resume."""

    def restore(self, checkpoint_path: str) -> None:
        raise WorkError("a sweep is resumed from its ledger: run the same command again")

    def _record(self, row: Mapping[str, Any]) -> None:
        self.folder.append(LEDGER, json.dumps(row, allow_nan=False) + "\n")

    def _params(self, setting: Setting) -> dict[str, float]:
        """A setting as Optuna's parameters, clipped into the searched ranges (a first setting may lie outside)."""
        values = {
            "synthetic_ratio": setting.synthetic_ratio,
            "lambda_1": setting.lambda_1,
            "lambda_2": setting.lambda_2,
            "clusters_per_class": setting.num_clusters / len(self.real_counts),
        }
        return {
            name: _to_scale(min(max(value, self.ranges[name].low), self.ranges[name].high), self.ranges[name].scale)
            for name, value in values.items()
        }

    def _setting(self, params: Mapping[str, float]) -> Setting:
        value = {name: _from_scale(params[name], self.ranges[name].scale) for name in self.ranges}
        return Setting(
            synthetic_ratio=round(min(value["synthetic_ratio"], self.ranges["synthetic_ratio"].high), 4),
            lambda_1=float(f"{value['lambda_1']:.4g}"),
            lambda_2=float(f"{value['lambda_2']:.4g}"),
            num_clusters=max(1, round(value["clusters_per_class"] * len(self.real_counts))),
        )

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial:
        common: dict[str, Any] = {"params": self._params(trial.setting), "distributions": self.distributions}
        if trial.status == "complete":
            return optuna.create_trial(value=trial.accuracy, **common)
        if trial.status == "pruned":
            return optuna.create_trial(
                state=TrialState.PRUNED, intermediate_values={trial.evaluations: trial.accuracy}, **common
            )
        return optuna.create_trial(state=TrialState.FAIL, **common)


def read_ledger(folder: RunFolder) -> tuple[dict[str, Setting], list[Trial]]:
    """Settings of the trials that were started, and the trials that ended. A line cut short by a kill is left out."""
    started: dict[str, Setting] = {}
    ended: dict[str, Trial] = {}
    lines = folder.read(LEDGER).decode(errors="replace").splitlines() if folder.exists(LEDGER) else []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        event = row.pop("event")
        if event == "error":
            if row["trial_id"] in ended:
                ended[row["trial_id"]] = replace(ended[row["trial_id"]], error=row["error"])
            continue
        row["setting"] = Setting(**row["setting"])
        if event == "started":
            started[row["trial_id"]] = row["setting"]
        else:
            row["accuracy"] = math.nan if row["accuracy"] is None else row["accuracy"]
            ended[row["trial_id"]] = Trial(**row)
    return started, list(ended.values())


def write_trials(folder: RunFolder, trials: Sequence[Trial]) -> None:
    """trials.csv, by trial_id."""
    rows: list[dict[str, Any]] = []
    for trial in sorted(trials, key=lambda trial: trial.trial_id):
        row = asdict(trial)
        rows.append({**{name: row[name] for name in ("trial_id", "status", "seconds", "accuracy")}, **row["setting"],
                     **{name: row[name] for name in ("num_synthetic", "evaluations", "error")}})  # fmt: skip
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else ["trial_id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    folder.write(TRIALS, buffer.getvalue().encode())


def _to_scale(value: float, scale: str) -> float:
    return {"linear": lambda v: v, "log": math.log, "log1p": math.log1p}[scale](value)


def _from_scale(value: float, scale: str) -> float:
    return {"linear": lambda v: v, "log": math.exp, "log1p": math.expm1}[scale](value)
