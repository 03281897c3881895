"""The measured cells in, the table of rules out: how much accuracy each rule for choosing a ratio gives away.

    python -m tests.benchmarks.ratiobench.rules            (make ratiobench)

*Regret* = accuracy at the best ratio of a cell minus accuracy at the ratio that the rule picks (interpolated in
log2(1 + ratio)), the families' measured curves averaged. Rules see the real images and a pilot of max(4 n, 400)
synthetic ones, never the test set.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ray_synth.bound.result import RatioEstimate
from ray_synth.data.images import first_per_class
from ray_synth.estimate import estimate_ratio
from tests.benchmarks.ratiobench.build import TABLE
from tests.benchmarks.ratiobench.cells import RATIOS, Cell, CellData, load_cell

NEAR = 0.003  # accuracy within which a ratio counts as best
NOTICEABLE = 0.01


def curves(path: Path = TABLE) -> dict[Cell, dict[str, np.ndarray]]:
    """Cell -> family -> mean accuracy over seeds at RATIOS, [R]."""
    found: dict[Cell, dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(row["dataset"], int(row["num_real"]), row["generator"])
            seeds = [float(value) for name, value in row.items() if name.startswith("accuracy_")]
            found[cell][row["family"]][float(row["ratio"])] = float(np.mean(seeds))
    return {c: {f: np.array([by[r] for r in RATIOS]) for f, by in fs.items()} for c, fs in found.items()}


def at(curve: np.ndarray, ratio: float) -> float:
    return float(np.interp(np.log2(1 + ratio), np.log2(1 + np.asarray(RATIOS)), curve))


def true_verdict(curve: np.ndarray) -> str:
    if curve[1:].max() >= curve[0] + NOTICEABLE:
        return "helps"
    if min(at(curve, 1.0), at(curve, 2.0)) <= curve[0] - NOTICEABLE:
        return "hurts"
    return "no effect"


def pilot_of(data: CellData) -> tuple[np.ndarray, np.ndarray]:
    """The synthetic images and labels that rules may see: 4 per real image, at least 400 in all."""
    counts = np.bincount(data.y_real, minlength=data.num_classes)
    share = max(4.0, 400 / len(data.real))
    rows = first_per_class(data.y_synthetic, np.floor(counts * share + 0.5).astype(np.int64))
    return data.synthetic[rows], data.y_synthetic[rows]


def estimate_cell(cell: Cell) -> tuple[Cell, RatioEstimate, float]:
    data = load_cell(cell)
    start = time.process_time()
    # The truth of this bench was swept with each class in proportion.
    estimate = estimate_ratio(data.real, data.y_real, *pilot_of(data), max_ratio=max(RATIOS), allocation="proportional")
    return cell, estimate, time.process_time() - start


RULES: dict[str, Callable[[RatioEstimate], float]] = {
    "real data only": lambda e: 0.0,
    "always 1": lambda e: 1.0,
    "always 2": lambda e: 2.0,
    "always 16": lambda e: 16.0,
    "closed form of Beyond Real Data": lambda e: float(e.methods["closed_form"]["ratio"]),
    "stability bound": lambda e: float(e.methods["stability"]["ratio"]),
    "exact risk": lambda e: float(e.methods["exact_risk"]["ratio"]),
    "scaling law": lambda e: float(e.methods["scaling_law"]["ratio"]),
    "estimate": lambda e: e.ratio,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=["tuning", "judging", "both"], default="both")
    parser.add_argument("--datasets", nargs="*", default=[], help="only these; default all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--worst", type=int, default=0, help="list this many worst cells of the estimate")
    options = parser.parse_args()
    truth = {
        c: fs
        for c, fs in curves().items()
        if options.half in (c.half, "both") and (not options.datasets or c.dataset in options.datasets)
    }
    if not os.environ.get("RAY_SYNTH_DATA"):
        truth = {c: fs for c, fs in truth.items() if c.dataset == "digits"}
        print("RAY_SYNTH_DATA is not set: digits only")
    results = []
    with ProcessPoolExecutor(options.processes) as pool:
        for number, result in enumerate(pool.map(estimate_cell, sorted(truth)), 1):
            results.append(result)
            print(f"\r{number}/{len(truth)} cells", end="", file=sys.stderr, flush=True)
    for half in ("tuning", "judging"):
        rows = [(c, e, s) for c, e, s in results if c.half == half]
        if rows:
            report(half, rows, truth, options.worst)


def report(
    half: str, rows: list[tuple[Cell, RatioEstimate, float]], truth: dict[Cell, dict[str, np.ndarray]], worst: int
) -> None:
    pooled = {cell: np.mean(list(truth[cell].values()), axis=0) for cell, _, _ in rows}
    datasets = sorted({cell.dataset for cell, _, _ in rows})
    print(f"\n{half} half: {len(rows)} cells")
    print(f"{'rule':28}{'mean':>8}{'p95':>8}{'worst':>8}" + "".join(f"{d:>16}" for d in datasets))
    for name, rule in RULES.items():
        regret = {c: pooled[c].max() - at(pooled[c], rule(e)) for c, e, _ in rows}
        values = np.array(list(regret.values()))
        means = [np.mean([v for c, v in regret.items() if c.dataset == d]) for d in datasets]
        print(
            f"{name:28}{values.mean():8.4f}{np.quantile(values, 0.95):8.4f}{values.max():8.4f}"
            + "".join(f"{m:16.4f}" for m in means)
        )
    floor = [
        pooled[c].max() - pooled[c][curve.argmax()]
        for c, _, _ in rows
        for curve in truth[c].values()
        if len(truth[c]) > 1
    ]
    print(f"{'one family for all (floor)':28}{np.mean(floor):8.4f}{np.quantile(floor, 0.95):8.4f}{np.max(floor):8.4f}")
    agree = [true_verdict(curve) == true_verdict(pooled[c]) for c, _, _ in rows for curve in truth[c].values()]
    covered, widths, definite, right = [], [], [], []
    for cell, estimate, _ in rows:
        grid = np.linspace(*np.log2(1 + np.asarray(estimate.interval)), 50)
        inside = max(at(pooled[cell], 2**u - 1) for u in grid)
        covered.append(inside >= pooled[cell].max() - NEAR)
        widths.append((grid[-1] - grid[0]) / np.log2(1 + max(RATIOS)))
        definite.append(estimate.verdict != "uncertain")
        right.append(estimate.verdict == true_verdict(pooled[cell]))
    sure = np.asarray(definite)
    seconds = [s for _, _, s in rows]
    narrow = float(np.mean(np.asarray(widths) <= 0.5))
    print(
        f"interval: holds a ratio within {NEAR} of the best in {np.mean(covered):.1%}; at most half of the axis in "
        f"{narrow:.0%}, median width {np.median(widths):.2f}"
    )
    correct = float(np.mean(np.asarray(right)[sure])) if sure.any() else 0.0
    print(
        f"verdict: definite in {sure.mean():.0%}, right in {correct:.0%} of those "
        f"(one family's truth agrees with all families' in {np.mean(agree):.0%})"
    )
    print(f"CPU seconds a cell: median {np.median(seconds):.1f}, worst {max(seconds):.1f}")
    if worst:
        order = sorted(rows, key=lambda row: at(pooled[row[0]], row[1].ratio) - pooled[row[0]].max())
        for cell, e, _ in order[:worst]:
            lost = pooled[cell].max() - at(pooled[cell], e.ratio)
            print(f"  {cell.name:34} regret {lost:.3f} at {e.ratio:<6} {e.verdict:10} {pooled[cell].round(3)}")


if __name__ == "__main__":
    main()
