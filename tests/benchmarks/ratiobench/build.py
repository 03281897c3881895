"""Cells in, `truth.csv` out, a row per cell, family and ratio; what stands there is not measured again.

    python -m tests.benchmarks.ratiobench.build --datasets digits --minutes 30

Resumable cell by cell: stop it at any time and start it again.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch

from tests.benchmarks.ratiobench.cells import RATIOS, all_cells, load_cell
from tests.benchmarks.ratiobench.truth import SEEDS, accuracies

TABLE = Path(__file__).with_name("truth.csv")
FIELDS = ("dataset", "num_real", "generator", "half", "family", "ratio", *(f"accuracy_{i}" for i in range(SEEDS)))
FAMILIES = {"cifar10": ("cnn", "linear")}  # the others: all three


def measured() -> set[tuple[str, str]]:
    if not TABLE.exists():
        return set()
    with TABLE.open(newline="") as file:
        return {(f"{r['dataset']}/{r['num_real']}/{r['generator']}", r["family"]) for r in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["digits"], help="digits fashion_mnist cifar10 pneumoniamnist")
    parser.add_argument("--minutes", type=float, default=150.0, help="stop after the cell that ends past this")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start, done = time.monotonic(), measured()
    wanted = [cell for cell in all_cells() if cell.dataset in options.datasets]
    for number, cell in enumerate(wanted, 1):
        families = [f for f in FAMILIES.get(cell.dataset, ("mlp", "cnn", "linear")) if (cell.name, f) not in done]
        if not families:
            continue
        data = load_cell(cell)
        rows = []
        for family in families:
            values = accuracies(data, family, device=device)
            for ratio, row in zip(RATIOS, values, strict=True):
                rows.append(
                    [
                        cell.dataset,
                        cell.num_real,
                        cell.generator,
                        cell.half,
                        family,
                        f"{ratio:g}",
                        *(f"{v:.5f}" for v in row),
                    ]
                )
        fresh = not TABLE.exists()
        with TABLE.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if fresh:
                writer.writerow(FIELDS)
            writer.writerows(rows)
        elapsed = (time.monotonic() - start) / 60
        print(f"{number}/{len(wanted)} {cell.name} {elapsed:.1f} min", flush=True)
        if elapsed > options.minutes:
            break


if __name__ == "__main__":
    main()
