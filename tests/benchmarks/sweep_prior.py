"""RatioBench's swept tables in, how many trials a sweep needs with and without the prediction out.

    python -m tests.benchmarks.sweep_prior [--estimates FILE] [--half tuning|judging|both]

The objective is a cell's measured accuracy, interpolated in log2(1 + ratio), with the noise that its seeds had.
Counted are the trials until one is within .005 of the best (without the noise), the first trial included, at most 100.
Rivals: Optuna's TPE and random search on log(1 + ratio) as they come, and the eight ratios of a grid in random order.
Ours is the product's search, one trial at a time (window 1) and as it proposes for two workers (window 4). `wrong`: the
prediction turned over, its pick at the worst ratio of the cell, an interval as wide as the true one around it.

Estimates take five to ten seconds a cell; `--estimates` keeps them in a file, with the digest of their source.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray

from ray_synth.bound.result import Curve, RatioEstimate
from ray_synth.config import load_experiment
from ray_synth.runs import RunFolder
from ray_synth.sweep.ledger import Ledger, Trial
from ray_synth.sweep.prior import Prior
from ray_synth.sweep.search import Search
from ray_synth.sweep.space import Space
from tests.benchmarks.ratiobench.build import TABLE
from tests.benchmarks.ratiobench.cells import RATIOS, Cell, at_hand
from tests.benchmarks.ratiobench.rules import Case, curves, estimates

FloatArray = NDArray[np.float64]
ROOT = Path(__file__).resolve().parent.parent.parent
NEAR = 0.005
CAP = 100
U = np.log2(1 + np.asarray(RATIOS))
ALONE = {"lambda_1": None, "lambda_2": None, "clusters_per_class": None}


def noise() -> dict[Cell, float]:
    """Standard deviation of a training's accuracy over seeds, in a cell."""
    variances: dict[Cell, list[float]] = defaultdict(list)
    with TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["family"] == "mlp":  # of which there are several
                seeds = [float(value) for name, value in row.items() if name.startswith("accuracy_")]
                cell = Cell(row["dataset"], int(row["num_real"]), row["draw"], row["generator"])
                variances[cell].append(float(np.var(seeds, ddof=1)))
    return {cell: float(np.sqrt(np.mean(values))) for cell, values in variances.items()}


class Objective:
    """One cell with the noise of one repetition."""

    def __init__(self, curve: FloatArray, deviation: float, repetition: int):
        self.curve, self.deviation, self.rng = curve, deviation, np.random.default_rng(repetition)

    def __call__(self, ratio: float) -> tuple[float, bool]:
        """The accuracy that a trial would report, and whether its ratio is near the best."""
        accuracy = float(np.interp(np.log2(1 + ratio), U, self.curve))
        return accuracy + self.rng.normal(0, self.deviation), accuracy >= self.curve.max() - NEAR


def ours(estimate: RatioEstimate, objective: Objective, seed: int, window: int) -> int:
    overrides = {"sweep.space": ALONE, "sweep.pruner": "none", "sweep.num_trials": CAP}
    experiment = load_experiment(ROOT / "sweeps" / "digits.yaml", overrides, seed=seed)
    space = Space(experiment, num_classes=10, max_ratio=max(RATIOS))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:  # noqa: S108
        search = Search(
            Ledger(RunFolder(folder)), experiment, space, prior=Prior.of(estimate, "distribution"), window=window
        )
        running = []
        for number in range(1, CAP + 1):
            start = search.propose()
            if start is None:  # the oldest ends first
                search.ledger.end(running.pop(0))
                start = search.propose()
            assert start is not None
            accuracy, near = objective(start.setting.synthetic_ratio)
            if near:
                return number
            running.append(Trial(trial_id=start.trial_id, status="complete", seconds=1.0, accuracy=accuracy,
                                 setting=start.setting))  # fmt: skip
            if window == 1:
                search.ledger.end(running.pop(0))
    return CAP


def optuna_trials(sampler: optuna.samplers.BaseSampler, objective: Objective) -> int:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {"u": optuna.distributions.FloatDistribution(0.0, float(np.log1p(max(RATIOS))))}
    for number in range(1, CAP + 1):
        trial = study.ask(space)
        accuracy, near = objective(float(np.expm1(trial.params["u"])))
        if near:
            return number
        study.tell(trial, accuracy)
    return CAP


def grid_trials(objective: Objective, seed: int) -> int:
    order = np.random.default_rng([seed, 1]).permutation(len(RATIOS))
    return next(number for number, i in enumerate(order, 1) if objective(RATIOS[i])[1])


def turned_over(estimate: RatioEstimate, curve: FloatArray) -> RatioEstimate:
    """The opposite prediction, as sure of itself as the true one."""
    said = {name: np.asarray(values) for name, values in vars(estimate.curve).items()}
    error = said["error"].max() + said["error"].min() - said["error"]
    worst, half = U[int(np.argmin(curve))], float(np.diff(np.log2(1 + np.asarray(estimate.interval)))[0]) / 2
    band = {"low": error - (said["error"] - said["low"]), "high": error + (said["high"] - said["error"])}
    turned = {"ratio": said["ratio"], "error": error, **band}
    return replace(
        estimate,
        ratio=2**worst - 1,
        interval=(2 ** max(0.0, worst - half) - 1, 2 ** min(U[-1], worst + half) - 1),
        curve=Curve(**{name: tuple(values.tolist()) for name, values in turned.items()}),
    )


RULES = ("prior", "prior, window 4", "wrong prior", "wrong prior, window 4", "TPE", "random", "grid of 8")


def cell_trials(task: tuple[Case, FloatArray, float, RatioEstimate, int]) -> tuple[Case, dict[str, list[int]]]:
    case, curve, deviation, estimate, repetitions = task
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    wrong = turned_over(estimate, curve)
    counts: dict[str, list[int]] = {name: [] for name in RULES}
    for seed in range(repetitions):

        def objective(seed: int = seed) -> Objective:
            return Objective(curve, deviation, seed)

        for name, prior, window in (
            ("prior", estimate, 1),
            ("prior, window 4", estimate, 4),
            ("wrong prior", wrong, 1),
            ("wrong prior, window 4", wrong, 4),
        ):
            counts[name].append(ours(prior, objective(), seed, window))
        counts["TPE"].append(optuna_trials(optuna.samplers.TPESampler(seed=seed), objective()))
        counts["random"].append(optuna_trials(optuna.samplers.RandomSampler(seed=seed), objective()))
        counts["grid of 8"].append(grid_trials(objective(), seed))
    return case, counts


def report(half: str, rows: list[tuple[Case, dict[str, list[int]]]]) -> None:
    means = {name: np.array([np.mean(counts[name]) for _, counts in rows]) for name in RULES}
    repetitions = len(rows[0][1]["TPE"])
    print(f"\n{half} half: {len(rows)} cases, {repetitions} repetitions; trials until within {NEAR} of the best")
    print(f"{'':24}{'median':>8}{'mean':>8}{'worst cell':>12}{'cells above TPE + 3':>22}")
    for name in RULES:
        above = [case.cell.name for case, _ in rows]
        above = [name for name, over in zip(above, means[name] > means["TPE"] + 3, strict=True) if over]
        print(
            f"{name:24}{np.median(means[name]):8.2f}{means[name].mean():8.2f}{means[name].max():12.1f}{len(above):22}"
            + (f"   {', '.join(above[:3])}" if above and name.startswith(("prior", "wrong")) else "")
        )
    for name in ("prior", "prior, window 4"):
        fewer = np.median(means["TPE"]) / np.median(means[name])
        print(f"TPE over {name}: median of the cells' means {fewer:.1f} (bar 3)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=["tuning", "judging", "both"], default="both")
    parser.add_argument("--estimates", type=Path, help="JSON lines, read and added to")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    truth = {
        case: np.mean(list(by.values()), axis=0)
        for case, by in curves().items()
        if options.half in (case.half, "both") and case.group == "scratch" and case.cell.dataset in at_hand()
    }
    said, deviations = estimates(sorted(truth), None, options.estimates, options.processes), noise()
    tasks = [(c, truth[c], deviations[c.cell], said[c][0], options.repetitions) for c in sorted(truth)]
    with ProcessPoolExecutor(options.processes) as pool:
        results = list(pool.map(cell_trials, tasks))
    for half in ("tuning", "judging"):
        rows = [(case, counts) for case, counts in results if case.half == half]
        if rows:
            report(half, rows)


if __name__ == "__main__":
    main()
