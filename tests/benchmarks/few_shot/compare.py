"""Few-shot classification with synthetic images: the loss's terms apart and together, full against lightweight.

    python -m tests.benchmarks.few_shot.images digits --out runs/few_shot       # once; then fashion
    python -m tests.benchmarks.few_shot.compare digits fashion --images runs/few_shot

16 real images a class, 500 synthetic ones (64 for the lightweight settings) of our own diffusion model. A seed draws
the shots, the weights and the batches, and all settings share it: differences are paired. The pair of lambdas is chosen
from the paper's four by validation accuracy on seeds that are not judged. Every training is a row of `results.csv`;
those that are there are not trained again. `--table` prints what it says.
"""

from __future__ import annotations

import argparse
import csv
import functools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier.mixture import TrainingData, mix
from ray_synth.classifier.predict import accuracy_of
from ray_synth.classifier.train import fit
from ray_synth.config import Classifier, PartitionSettings
from ray_synth.data.images import ImageSet
from ray_synth.seeding import derive_seed
from ray_synth.torch_ops import keep_freed_memory

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = ("dataset", "setting", "seed", "lambda_1", "lambda_2", "clusters", "per_class", "validation", "test")
SHOTS, FULL, LIGHT = 16, 500, 64
PAIRS = ((0.1, 1.0), (2.0, 20.0), (20.0, 200.0), (50.0, 500.0))  # (Nguyen et al., 2025, appendix B)
PILOT, JUDGED = range(100, 103), range(10)
BUDGET: dict[str, dict[str, Any]] = {
    "digits": {"updates": 600, "batch_size": 64, "learning_rate": 2e-3},
    "fashion": {"updates": 600, "batch_size": 64, "learning_rate": 1e-3},
}


@dataclass(frozen=True)
class Setting:
    """One way to train. `terms` switches discrepancy and robustness; clusters are per class."""

    name: str
    per_class: int
    terms: tuple[int, int] = (1, 1)
    clusters: float = 2.0
    algorithm: str = "full"


SETTINGS = (
    Setting("real only", 0, (0, 0)),
    Setting("plain mixing", FULL, (0, 0)),
    Setting("+ robustness", FULL, (0, 1)),
    Setting("+ discrepancy", FULL, (1, 0)),
    Setting("+ both (full)", FULL),
    Setting("plain mixing, 64 a class", LIGHT, (0, 0)),
    Setting("both, 64 a class", LIGHT),
    Setting("lightweight, 64 a class", LIGHT, algorithm="lightweight"),
    Setting("both, 1 cluster", FULL, clusters=0.1),
    Setting("both, 1 x classes", FULL, clusters=1.0),
    Setting("both, 4 x classes", FULL, clusters=4.0),
)


@functools.cache
def sets(images: str, dataset: str) -> dict[str, ImageSet]:
    with np.load(Path(images) / f"{dataset}.npz", allow_pickle=False) as data:
        names = tuple(str(name) for name in data["class_names"])
        return {
            part: ImageSet(pixels=data[f"{part}_images"], labels=data[f"{part}_labels"], class_names=names)
            for part in ("pool", "validation", "test", "synthetic")
        }


def shots_of(pool: ImageSet, seed: int) -> ImageSet:
    rng = np.random.default_rng(derive_seed("shots", seed))
    rows = [rng.choice(np.flatnonzero(pool.labels == c), SHOTS, replace=False) for c in range(pool.num_classes)]
    return pool.take(np.concatenate(rows))


@functools.lru_cache(maxsize=2)
def mixture(images: str, dataset: str, seed: int, per_class: int, clusters: float, online: bool) -> TrainingData:
    data = sets(images, dataset)
    real = shots_of(data["pool"], seed)
    return mix(
        real,
        data["synthetic"],
        synthetic_counts(real.counts, per_class / SHOTS, "fill"),
        partition=PartitionSettings(clusters_per_class=clusters),
        seed=derive_seed("partition", seed),
        online=online,
    )


def train(images: str, dataset: str, seed: int, setting: Setting, pair: tuple[float, float]) -> dict[str, Any]:
    torch.set_num_threads(1)
    keep_freed_memory()
    lambda_1, lambda_2 = (weight * on for weight, on in zip(pair, setting.terms, strict=True))
    settings = Classifier(
        weighting="fixed",
        lambda_1=lambda_1,
        lambda_2=lambda_2,
        algorithm=setting.algorithm,  # type: ignore[arg-type]
        evaluations=1,
        keep="last",
        **BUDGET[dataset],
    )
    online = setting.algorithm == "lightweight"
    data = mixture(images, dataset, seed, setting.per_class, setting.clusters, online)
    fitted = fit(data, sets(images, dataset)["validation"], settings, seed=seed)
    row = (dataset, setting.name, seed, lambda_1, lambda_2, setting.clusters, setting.per_class)
    test = accuracy_of(fitted.model, sets(images, dataset)["test"])
    return dict(zip(COLUMNS, (*row, round(fitted.accuracy, 5), round(test, 5)), strict=True))


def rows() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def run(images: str, tasks: list[tuple[str, int, Setting, tuple[float, float]]], workers: int) -> None:
    """Train what has no row yet, and write each row as it comes."""
    key = ("dataset", "setting", "seed", "lambda_1", "lambda_2")  # a changed BUDGET wants the file removed
    there = {tuple(row[name] for name in key) for row in rows()}
    left = []
    for dataset, seed, setting, pair in tasks:
        weights = [str(float(weight * on)) for weight, on in zip(pair, setting.terms, strict=True)]
        if (dataset, setting.name, str(seed), *weights) not in there:
            left.append((dataset, seed, setting, pair))
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file, ProcessPoolExecutor(workers) as pool:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for done, row in enumerate(pool.map(train, [images] * len(left), *zip(*left, strict=True)) if left else (), 1):
            writer.writerow(row | {"lambda_1": float(row["lambda_1"]), "lambda_2": float(row["lambda_2"])})
            file.flush()
            print(f"{done} of {len(left)}: {row}", flush=True)


def pilot_of(dataset: str) -> list[tuple[str, int, Setting, tuple[float, float]]]:
    return [(dataset, seed, SETTINGS[4], pair) for seed in PILOT for pair in PAIRS]


def chosen_pair(dataset: str) -> tuple[float, float]:
    """The paper's pair with the best mean validation accuracy over the pilot's seeds."""
    found: dict[tuple[float, float], list[float]] = {pair: [] for pair in PAIRS}
    for row in rows():
        if row["dataset"] == dataset and int(row["seed"]) in PILOT:
            found[float(row["lambda_1"]), float(row["lambda_2"])].append(float(row["validation"]))
    return max(PAIRS, key=lambda pair: np.mean(found[pair]))


def judged(dataset: str) -> dict[str, dict[int, float]]:
    """Setting -> seed -> test accuracy in %."""
    found: dict[str, dict[int, float]] = {}
    pair = chosen_pair(dataset)
    for row in rows():
        weights = (float(row["lambda_1"]), float(row["lambda_2"]))
        ours = all(weight in (0.0, chosen) for weight, chosen in zip(weights, pair, strict=True))
        if row["dataset"] == dataset and int(row["seed"]) in JUDGED and ours:
            found.setdefault(row["setting"], {})[int(row["seed"])] = 100 * float(row["test"])
    return found


def table(dataset: str) -> None:
    found = judged(dataset)
    pair = chosen_pair(dataset)
    print(f"\n{dataset}: lambda_1, lambda_2 = {pair}; test accuracy in %, mean with its 95 % interval")
    for setting in SETTINGS:
        values = found.get(setting.name, {})
        if len(values) < 2:
            continue
        against = found.get("plain mixing, 64 a class" if setting.per_class == LIGHT else "plain mixing", {})
        differences = [values[seed] - against[seed] for seed in values if seed in against]
        (mean, half), (gain, gain_half) = interval(list(values.values())), interval(differences)
        gained = f"minus plain {gain:+6.2f} ± {gain_half:.2f}"
        print(f"  {setting.name:26} {mean:6.2f} ± {half:.2f}   {gained}   n={len(values)}")


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def plot(datasets: list[str], path: str) -> None:
    """Settings of Table 2 beside each other, and accuracy over the number of clusters (Figure 3)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(datasets)), layout="constrained")
    for dataset, (left, right) in zip(datasets, figure.subplots(len(datasets), 2, squeeze=False), strict=True):
        found = judged(dataset)
        shown = [setting.name for setting in SETTINGS[:8] if setting.name in found]
        points = [interval(list(found[name].values())) for name in shown]
        left.errorbar(
            *zip(*[(m, i) for i, (m, _) in enumerate(points)], strict=True), xerr=[h for _, h in points], fmt="o"
        )
        left.set_yticks(range(len(shown)), shown)
        left.invert_yaxis()
        left.set_title(f"{dataset}: test accuracy, %", fontsize=10)
        curve = [("both, 1 cluster", 0.1), ("both, 1 x classes", 1), ("+ both (full)", 2), ("both, 4 x classes", 4)]
        values = [(x, *interval(list(found[name].values()))) for name, x in curve if name in found]
        x, means, halves = zip(*values, strict=True)
        right.errorbar(x, means, yerr=halves, fmt="o-")
        right.axhline(np.mean(list(found["plain mixing"].values())), ls=":", color="grey", label="plain mixing")
        right.set_xscale("log")
        right.set_xticks(x, [f"{value:g}" for value in x])
        right.set_xlabel("clusters per class")
        right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", choices=list(BUDGET))
    parser.add_argument("--images", default="runs/few_shot")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    for dataset in arguments.datasets:
        if not arguments.table:
            run(arguments.images, pilot_of(dataset), arguments.workers)
            pair = chosen_pair(dataset)
            tasks = [(dataset, seed, setting, pair) for seed in JUDGED for setting in SETTINGS]
            run(arguments.images, tasks, arguments.workers)
        table(dataset)
    if arguments.plot:
        plot(arguments.datasets, arguments.plot)


if __name__ == "__main__":
    main()
