"""Real sweeps with and without the prediction, at the same budget: accuracy over trials and seconds.

    python -m tests.benchmarks.sweep_real --out DIR [--datasets digits fashion] [--seeds 3] [--trials 16]

For each dataset and seed the generator is trained, images are made and the ratio is estimated once; then the same sweep
runs three times: `prior: none` (ratio 0, then TPE), `points` and `distribution`. Each ends in three final trainings of
its best setting and one look at the test set. Fashion-MNIST is that of the measuring data (RAY_SYNTH_DATA), at 16x16.
The seconds of an arm are those of its trainings, on two processes, and with a prior those of the estimate too. Rows go
to DIR/results.csv; a run that is repeated keeps what is there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

import ray_synth as rs

matplotlib.use("Agg")
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent.parent
ARMS = ("none", "points", "distribution")
COLORS = {"none": "#9aa1ab", "points": "#d9822b", "distribution": "#2f6fb2"}
SLOTS = 2


def settings(dataset: str, trials: int) -> dict[str, Any]:
    common = {"sweep.num_trials": trials, "evaluate.repeats": 3}
    if dataset == "digits":
        return common
    return {
        **common,
        "data.kind": "npz",
        "data.path": str(Path(os.environ["RAY_SYNTH_DATA"]) / "fashion_mnist_dev_20k5k.npz"),
        "data.image_size": 16,
        "data.max_generator": 500,
        "data.max_validation": 60,
        "generator.steps": 500,
    }


def arm(base: Path, out: Path, dataset: str, seed: int, prior: str, trials: int) -> dict[str, Any]:
    """The sweep's curve and its end."""
    from ray_synth.runs import RunFolder
    from ray_synth.sweep.ledger import Ledger

    if not out.exists():
        shutil.copytree(base, out)
    overrides = {**settings(dataset, trials), "sweep.prior": prior}
    summary = rs.run(ROOT / "sweeps" / "digits.yaml", out=out, overrides=overrides, seed=seed, until="evaluate")
    rows = Ledger(RunFolder(out)).trials
    values = np.array([t.accuracy if t.status == "complete" else np.nan for t in rows])
    seconds = np.cumsum([t.seconds for t in rows]) / SLOTS
    return {
        "dataset": dataset,
        "seed": seed,
        "prior": prior,
        "curve": np.fmax.accumulate(values).tolist(),
        "seconds": (seconds + (summary["seconds"]["estimate"] if prior != "none" else 0)).tolist(),
        "test": summary["accuracy"]["best"],
        "test_std": summary["accuracy_std"]["best"],
        "ratio": summary["best_ratio"],
        "predicted": summary["predicted_ratio"],
        "at_predicted": summary["accuracy"]["at_predicted"],
        "real_only": summary["accuracy"]["real_only"],
    }


def draw(results: list[dict[str, Any]], file: Path) -> None:
    datasets = list(dict.fromkeys(row["dataset"] for row in results))
    figure = Figure(figsize=(4.6 * len(datasets), 3.6), layout="constrained")
    for axes, dataset in zip(np.atleast_1d(figure.subplots(1, len(datasets))), datasets, strict=True):
        for prior in ARMS:
            rows = [row for row in results if row["dataset"] == dataset and row["prior"] == prior]
            curves = np.array([row["curve"] for row in rows])
            seconds = np.mean([row["seconds"] for row in rows], axis=0)
            axes.step(seconds, curves.mean(0), where="post", color=COLORS[prior], label=f"prior: {prior}")
            for curve in curves:
                axes.step(seconds, curve, where="post", color=COLORS[prior], alpha=0.25, lw=0.8)
        axes.set_title(dataset)
        axes.set_xlabel("seconds, estimate included")
        axes.set_ylabel("best validation accuracy so far")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--datasets", nargs="*", default=["digits", "fashion"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for dataset in options.datasets:
        for seed in range(options.seeds):
            base = options.out / f"{dataset}-{seed}-base"
            overrides = settings(dataset, options.trials)
            rs.run(ROOT / "sweeps" / "digits.yaml", out=base, overrides=overrides, seed=seed, until="estimate")
            for prior in ARMS:
                out = options.out / f"{dataset}-{seed}-{prior}"
                results.append(arm(base, out, dataset, seed, prior, options.trials))
                print(json.dumps(results[-1]), flush=True)
    with (options.out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(results[0]))
        writer.writeheader()
        writer.writerows(results)
    points = [n for n in (1, 2, 4, 8, options.trials) if n <= options.trials]
    print(f"\nbest validation accuracy after so many trials, mean over {options.seeds} seeds; then test accuracy")
    for dataset in options.datasets:
        for prior in ARMS:
            rows = [row for row in results if row["dataset"] == dataset and row["prior"] == prior]
            curves = np.array([row["curve"] for row in rows])
            tests = np.array([row["test"] for row in rows])
            cells = "  ".join(f"{n}: {np.nanmean(curves[:, n - 1]):.4f}" for n in points)
            spread = tests.std(ddof=1) if len(tests) > 1 else 0.0
            seconds = np.mean([row["seconds"][-1] for row in rows])
            print(f"{dataset:8} {prior:13} {cells}   test {tests.mean():.4f} ± {spread:.4f}, {seconds:.0f} s")
    if options.picture:
        draw(results, options.picture)


if __name__ == "__main__":
    main()
