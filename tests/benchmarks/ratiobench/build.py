"""Cells in, `truth.csv` out, a row per cell, family, allocation and ratio; what stands there is not measured again.

    python -m tests.benchmarks.ratiobench.build --minutes 30
    python -m tests.benchmarks.ratiobench.build --part 0/2 --table part-0.csv     # one of two processes

Resumable cell by cell: stop it at any time and start it again. Diffusion models whose samples are not there are
trained, which takes hours without a GPU: leave them out with --generators '!diffusion'.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from ray_synth.allocation import synthetic_counts
from tests.benchmarks.ratiobench.cells import RATIOS, Cell, CellData, all_cells, asked_for, at_hand, load_cell
from tests.benchmarks.ratiobench.truth import FAMILIES, SCRATCH, SEEDS, accuracies

TABLE = Path(__file__).with_name("truth.csv")
MOST = max(SEEDS.values())  # where there is one seed it stands for both
KEY = ("dataset", "num_real", "draw", "generator", "half", "family", "allocation", "ratio")
FIELDS = (*KEY, *(f"{kind}_{seed}" for kind in ("accuracy", "shared") for seed in range(MOST)))
TURNS = 3  # what is measured after any time is a fair share of all
LIKE_PHOTOGRAPHS = ("fashion_mnist", "cifar10")  # where a network pretrained on photographs is worth its while


def families_of(cell: Cell) -> tuple[str, ...]:
    return FAMILIES if cell.dataset in LIKE_PHOTOGRAPHS else SCRATCH


def measured(table: Path) -> set[tuple[str, str]]:
    if not table.exists():
        return set()
    with table.open(newline="") as file:
        return {(Cell(r["dataset"], int(r["num_real"]), r["draw"], r["generator"]).name, r["family"])
                for r in csv.DictReader(file)}  # fmt: skip


def rows_of(cell: Cell, data: CellData, families: list[str], device: str) -> Iterator[list[object]]:
    mixes = [("none", 0.0)] + [(each, ratio) for each in cell.allocations for ratio in RATIOS[1:]]
    counts = [synthetic_counts(data.real_counts, r, "fill" if name == "none" else name) for name, r in mixes]  # type: ignore[arg-type]
    for family in families:
        plain, shared = accuracies(data, family, counts, device=device)
        for place, (allocation, ratio) in enumerate(mixes):
            key = [cell.dataset, cell.num_real, cell.draw, cell.generator, cell.half, family, allocation, f"{ratio:g}"]
            yield key + [f"{v:.4f}" for kind in (plain, shared) for v in np.resize(kind[place], MOST)]


def _loaded(cells: list[Cell], loaders: int) -> Iterator[tuple[Cell, CellData]]:
    """loaders: processes that load ahead, all cells; 0 loads each when its turn comes."""
    if not loaders:
        yield from ((cell, load_cell(cell)) for cell in cells)
        return
    with ProcessPoolExecutor(loaders, mp_context=get_context("spawn")) as pool:
        yield from zip(cells, pool.map(load_cell, cells), strict=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=180.0, help="stop after the cell that ends past this")
    parser.add_argument("--part", default="0/1", help="I/N: every Nth cell from I")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--generators", default="", help="only generators whose name starts like this; !name: no such")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--loaders", type=int, default=0, help="processes that load cells ahead, where memory is ample")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start, done = time.monotonic(), measured(options.table)
    part, parts = map(int, options.part.split("/"))
    chosen = [c for c in all_cells() if c.dataset in at_hand() and asked_for(c, options.generators)]
    chosen = [cell for start in range(TURNS) for cell in chosen[start::TURNS]]
    left = {
        c: [f for f in families_of(c) if f in options.families and (c.name, f) not in done] for c in chosen[part::parts]
    }
    left = {cell: families for cell, families in left.items() if families}
    for number, (cell, data) in enumerate(_loaded(list(left), options.loaders), 1):
        rows = list(rows_of(cell, data, left[cell], device))
        fresh = not options.table.exists()
        with options.table.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([FIELDS, *rows] if fresh else rows)
        elapsed = (time.monotonic() - start) / 60
        print(f"{number}/{len(left)} {cell.name} {elapsed:.1f} min", flush=True)
        if elapsed > options.minutes:
            break


if __name__ == "__main__":
    main()
