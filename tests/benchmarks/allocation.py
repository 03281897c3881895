"""What the allocation is worth, and whether the estimate knows it: trained truth beside the prediction.

    python -m tests.benchmarks.allocation [--minutes 30]     # cells that are in allocation.csv are not done again
    python -m tests.benchmarks.allocation --table

Real sets of digits (60 and 150 images), and of Fashion-MNIST (100) where the measuring data are: drawn evenly by class,
as they come, or 1:20 over the classes in random order. Five generators on the other half of the set. Every cell draws
its own real set. The truth is the mean of two MLPs (digits) or CNNs at each allocation and ratio, on a test set with
its own class shares; the estimate sees the real images and a pilot of 8 synthetic ones for each.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import ray_synth as rs
from ray_synth.allocation import ALLOCATIONS, synthetic_counts
from ray_synth.seeding import derive_seed
from tests.benchmarks.ratiobench.cells import CellData, _dataset
from tests.benchmarks.ratiobench.generators import GENERATORS
from tests.benchmarks.ratiobench.truth import accuracies

TABLE = Path(__file__).with_name("allocation.csv")
RATIOS = (0.0, 1.0, 4.0, 16.0)
MADE_BY = ("real", "gaussian-20", "smote", "noisy", "labels-50")
DRAWS = ("1:20", "natural", "even")
PILOT = 8
FIELDS = ("dataset", "num_real", "draw", "generator", "allocation", "ratio", "accuracy", "predicted", "chosen")


@dataclass(frozen=True)
class Cell:
    dataset: str
    num_real: int
    draw: str
    generator: str

    @property
    def seed(self) -> int:
        return derive_seed("allocation", self.dataset, self.num_real, self.draw, self.generator)


def cells() -> list[Cell]:
    sets = [("digits", 60), ("digits", 150), ("fashion_mnist", 100)]
    return [Cell(*one, draw, made) for one, draw, made in itertools.product(sets, DRAWS, MADE_BY)]


def class_sizes(cell: Cell, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Real images of each class, at least one."""
    classes = int(y.max()) + 1
    if cell.draw == "natural":
        drawn = np.bincount(rng.choice(y, cell.num_real, replace=False), minlength=classes)
        return np.maximum(drawn, 1)
    share = np.ones(classes) if cell.draw == "even" else 20.0 ** (-rng.permutation(classes) / (classes - 1))
    return np.maximum(np.round(cell.num_real * share / share.sum()), 1).astype(np.int64)


def load(cell: Cell) -> CellData:
    """The real set, and as many synthetic images of each class as any allocation asks for at the largest ratio."""
    x, y, test, y_test = _dataset(cell.dataset)
    rng = np.random.default_rng(cell.seed)
    sizes = class_sizes(cell, y, rng)
    real, pool = [], []
    for c, size in enumerate(sizes):
        members = rng.permutation(np.flatnonzero(y == c))
        real.append(members[:size])
        pool.append(members[max(size, len(members) // 2) :])
    rows, rest = np.concatenate(real), np.concatenate(pool)
    most = max(int(synthetic_counts(sizes, RATIOS[-1], each).max()) for each in ALLOCATIONS)
    images, labels = GENERATORS[cell.generator](x[rest], y[rest], most, rng)
    return CellData(x[rows], y[rows], images, labels, test, y_test, len(sizes))


def measured(cell: Cell) -> list[list[object]]:
    """A row for each allocation and ratio: truth, prediction, and whether the estimate chose that allocation."""
    data = load(cell)
    sizes = np.bincount(data.y_real, minlength=data.num_classes)
    asked = list(itertools.product(ALLOCATIONS, RATIOS))
    counts = [synthetic_counts(sizes, ratio, allocation) for allocation, ratio in asked]
    truth = accuracies(data, "mlp" if cell.dataset == "digits" else "cnn", counts=counts, seeds=2).mean(axis=1)
    pilot = np.max([synthetic_counts(sizes, PILOT, each) for each in ALLOCATIONS], axis=0)
    rank = np.arange(len(data.y_synthetic)) % (len(data.y_synthetic) // data.num_classes)
    shown = rank < pilot[data.y_synthetic]
    found = rs.estimate_ratio(
        data.real,
        data.y_real,
        data.synthetic[shown],
        data.y_synthetic[shown],
        methods=("probe",),
        seed=cell.seed % 2**31,
    )
    return [
        [cell.dataset, cell.num_real, cell.draw, cell.generator, allocation, f"{ratio:g}", f"{value:.5f}",
         f"{found.allocations[allocation].accuracy:.5f}", int(found.allocation == allocation)]
        for (allocation, ratio), value in zip(asked, truth, strict=True)
    ]  # fmt: skip


def rows() -> list[dict[str, str]]:
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def table() -> str:
    """By data set and draw: accuracy at each ratio and allocation, and how far the chosen one is from the best."""
    by: dict[tuple[str, ...], dict[tuple[str, float], list[float]]] = defaultdict(lambda: defaultdict(list))
    best: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    chosen: dict[tuple[str, ...], str] = {}
    for row in rows():
        group, cell = (row["dataset"], row["num_real"], row["draw"]), tuple(row[name] for name in FIELDS[:4])
        by[group][row["allocation"], float(row["ratio"])].append(float(row["accuracy"]))
        best[cell][row["allocation"]] = max(best[cell].get(row["allocation"], 0.0), float(row["accuracy"]))
        if row["chosen"] == "1":
            chosen[cell] = row["allocation"]
    lines = ["| real images | allocation | " + " | ".join(f"ratio {ratio:g}" for ratio in RATIOS) + " |"]
    lines.append("|---" * (2 + len(RATIOS)) + "|")
    for group, values in by.items():
        for allocation in ALLOCATIONS:
            means = [f"{np.mean(values[allocation, ratio]):.3f}" for ratio in RATIOS]
            lines.append(f"| {group[0]}, {group[1]}, {group[2]} | {allocation} | " + " | ".join(means) + " |")
    uneven = [cell for cell in chosen if cell[2] != "even"]
    lost = np.array([max(best[cell].values()) - best[cell][chosen[cell]] for cell in uneven])
    if len(lost):
        lines.append(
            f"\nThe estimate's allocation, of {len(lost)} uneven cells: best or within .005 in "
            f"{np.mean(lost <= 0.005):.0%}; mean lost {lost.mean():.4f}, worst {lost.max():.4f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after the cell that ends past this")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    options = parser.parse_args()
    torch.set_num_threads(2)
    start = time.monotonic()
    done = {tuple(row[name] for name in FIELDS[:4]) for row in rows()}
    for cell in [] if options.table else cells():
        if (cell.dataset, str(cell.num_real), cell.draw, cell.generator) in done:
            continue
        found, fresh = measured(cell), not TABLE.exists()
        with TABLE.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([FIELDS, *found] if fresh else found)
        elapsed = (time.monotonic() - start) / 60
        print(f"{cell} {elapsed:.1f} min", flush=True)
        if elapsed > options.minutes:
            break
    print(table())


if __name__ == "__main__":
    main()
