"""Nothing in, what a sweep costs beside its trainings out, and beside plain Optuna with two processes.

    python -m tests.benchmarks.sweep_overhead [--trials 40] [--seconds 2] [--rounds 2]
    python -m tests.benchmarks.sweep_overhead memory [--trials 1000]

The first trains the small CNN on scikit-learn's digits (real digits that the classifier does not know stand in for
synthetic ones) for about two seconds a trial. Ours and two processes of plain Optuna, which share a journal file, train
the same settings in turn. Wall time runs from the start of the first training to the end of the last; what comes before
is the start-up. The second runs light trials (a few updates) and samples the driver's memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from ray_synth.config import Experiment, load_experiment
from ray_synth.data.splits import Splits, read_splits

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = {"sweep.sampler": "random", "sweep.prior": "none", "sweep.pruner": "none", "sweep.max_ratio": 3}


def experiment_of(trials: int, updates: int) -> Experiment:
    evaluations = {"classifier.evaluations": 1} if updates < 5 else {}
    overrides = {**SETTINGS, "sweep.num_trials": trials, "classifier.updates": updates, **evaluations}
    return load_experiment(ROOT / "sweeps" / "digits.yaml", overrides)


def train(setting: dict[str, Any], experiment: Experiment, splits: Splits) -> float:
    """The objective: what one trial trains."""
    from ray_synth.classifier.experiment_data import ExperimentData
    from ray_synth.classifier.setting import Setting
    from ray_synth.classifier.train import fit
    from ray_synth.seeding import derive_seed

    data = ExperimentData.of(experiment, splits.train, splits.generator, splits.validation)
    return fit(*data.at(Setting.from_dict(setting)), seed=derive_seed("trial", 0)).accuracy


def updates_for(seconds: float, splits: Splits) -> int:
    """Updates that one thread makes in so many seconds."""
    import torch

    from ray_synth.classifier.setting import default_setting

    torch.set_num_threads(1)
    times = {}
    for updates in (40, 240):
        e = experiment_of(1, updates)
        setting = default_setting(e, 10, 2.0).to_dict()
        train(setting, e, splits)
        start = time.perf_counter()
        train(setting, e, splits)
        times[updates] = time.perf_counter() - start
    each = (times[240] - times[40]) / 200
    return max(20, round((seconds - times[40]) / each) + 40)


def ours(experiment: Experiment, splits: Splits, folder: Path) -> dict[str, Any]:
    """Wall seconds, training seconds and start-up of a sweep, and its settings."""
    from ray_synth.runs import RunFolder
    from ray_synth.runtime import ray_session
    from ray_synth.sweep.tuner import run_sweep

    begun = time.perf_counter()
    with ray_session():
        up = time.perf_counter()
        ends: dict[str, float] = {}

        def shown(ledger: Any, running: Any) -> None:
            for trial_id in ledger.ended.keys() - ends.keys():
                ends[trial_id] = time.perf_counter()

        trials = run_sweep(
            RunFolder(folder), experiment, splits.train, splits.validation, lambda ratio: splits.generator,
            prior=None, max_ratio=3.0, shown=shown,
        )  # fmt: skip
    first = min(ends[t.trial_id] - t.seconds for t in trials)
    return {
        "wall": max(ends.values()) - first,
        "training": sum(t.seconds for t in trials),
        "ray": up - begun,
        "first": first - up,
        "settings": [t.setting.to_dict() for t in trials],
    }


def plain_worker(journal: str, experiment: Experiment, splits: Splits, out: Any) -> None:
    import optuna
    import torch
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    study = optuna.load_study(study_name="plain", storage=JournalStorage(JournalFileBackend(journal)))
    spans = []

    def objective(trial: optuna.Trial) -> float:
        start = time.time()
        accuracy = train(
            json.loads(trial.suggest_categorical("setting", trial.study.user_attrs["all"])), experiment, splits
        )
        spans.append((start, time.time()))
        return accuracy

    while any(t.state == optuna.trial.TrialState.WAITING for t in study.get_trials(deepcopy=False)):
        study.optimize(objective, n_trials=1)
    out.put(spans)


def plain(experiment: Experiment, splits: Splits, settings: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The same settings by two processes that share an Optuna study."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = str(folder / "journal.log")
    study = optuna.create_study(
        study_name="plain", storage=JournalStorage(JournalFileBackend(journal)), direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )  # fmt: skip
    texts = [json.dumps(setting) for setting in settings]
    study.set_user_attr("all", texts)
    for text in texts:
        study.enqueue_trial({"setting": text})
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    begun = time.time()
    workers = [context.Process(target=plain_worker, args=(journal, experiment, splits, out)) for _ in range(2)]
    for worker in workers:
        worker.start()
    spans = [span for _ in workers for span in out.get()]
    for worker in workers:
        worker.join()
    return {
        "wall": max(end for _, end in spans) - min(start for start, _ in spans),
        "training": sum(end - start for start, end in spans),
        "first": min(start for start, _ in spans) - begun,
        "trials": len(spans),
    }


def overhead(options: argparse.Namespace, splits: Splits) -> None:
    updates = updates_for(options.seconds, splits)
    experiment = experiment_of(options.trials, updates)
    print(f"{options.trials} trials of {updates} updates, {os.cpu_count()} CPUs")
    print(f"{'':16}{'wall':>8}{'training':>10}{'wall / (training / 2)':>24}{'start-up':>10}")
    ratios, own = [], []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            a = ours(experiment, splits, folder / "sweep")
            b = plain(experiment, splits, a["settings"], folder)
        assert b["trials"] == options.trials
        for label, r in (("ours", a), ("plain Optuna", b)):
            start = r["first"] + r.get("ray", 0.0)
            print(f"{label:16}{r['wall']:8.1f}{r['training']:10.1f}{2 * r['wall'] / r['training']:24.3f}{start:10.1f}")
        ratios.append(a["wall"] / b["wall"])
        own.append(2 * a["wall"] / a["training"])
        print(f"  round {number + 1}: ours / plain Optuna, wall {ratios[-1]:.3f}", flush=True)
    print(f"wall over training / 2: median {statistics.median(own):.3f} (bar 1.2)")
    print(f"ours over plain Optuna: median {statistics.median(ratios):.3f} (bar 1.1)")


def memory(options: argparse.Namespace, splits: Splits) -> None:
    experiment = experiment_of(options.trials, 2)
    process, peak, over = psutil.Process(), [0], threading.Event()

    def sample() -> None:
        while not over.wait(0.5):
            peak[0] = max(peak[0], process.memory_info().rss)

    before = process.memory_info().rss
    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        result = ours(experiment, splits, Path(name))
        seconds = time.perf_counter() - start
    over.set()
    sampler.join()
    print(
        f"{options.trials} light trials: driver at most {peak[0] / 2**30:.2f} GiB ({before / 2**30:.2f} before); "
        f"{seconds:.0f} s, of which training {result['training'] / 2:.0f} s on two workers"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "memory"], nargs="?", default="overhead")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    options.trials = options.trials or (40 if options.what == "overhead" else 1000)
    experiment = experiment_of(1, 5)
    splits = read_splits(experiment.data, experiment.seed)
    {"overhead": overhead, "memory": memory}[options.what](options, splits)


if __name__ == "__main__":
    main()
