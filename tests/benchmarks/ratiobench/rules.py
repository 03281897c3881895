"""The measured cells in, the table of rules out: how much accuracy each rule for choosing a ratio gives away.

    python -m tests.benchmarks.ratiobench.rules            (make ratiobench)

*Regret* = accuracy at the best ratio of a cell, under one allocation, minus accuracy at the ratio that the rule picks
(interpolated in log2(1 + ratio)), the measured curves of a group's families averaged: from scratch (MLP, CNN) with the
built-in features, or pretrained (linear probe, fine-tuning) with that network's. Rules see the real images and a pilot
of max(4 n, 400) synthetic ones, never the test set. Its class shares are the data set's own; `--shares real` judges
under the real images' instead, which is what the estimate predicts. Every cell has its own real images, so cells are
what is drawn again for the intervals of means (90 %).
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ray_synth
from ray_synth.allocation import Allocation
from ray_synth.bound.estimator import METRICS
from ray_synth.bound.result import RatioEstimate
from ray_synth.estimate import estimate_ratio
from tests.benchmarks.ratiobench.build import TABLE
from tests.benchmarks.ratiobench.cells import (
    DRAWS,
    RATIOS,
    SIZES,
    WHERE_DATA_IS,
    Cell,
    asked_for,
    at_hand,
    load_cell,
    pilot_of,
)
from tests.benchmarks.ratiobench.truth import FAMILIES, PRETRAINED, SCRATCH

FloatArray = NDArray[np.float64]
NEAR = 0.003  # accuracy within which a ratio counts as best
NEAR_ALLOCATION = 0.005
NOTICEABLE = 0.01
GROUPS = {"scratch": SCRATCH, "pretrained": PRETRAINED}
FEATURES = {"scratch": "auto", "pretrained": "timm:tf_efficientnet_lite0"}


@dataclass(frozen=True, order=True)
class Case:
    """What one estimate is asked."""

    cell: Cell
    group: str
    allocation: Allocation

    @property
    def half(self) -> str:
        return self.cell.half


Curves = dict[Case, dict[str, FloatArray]]


def curves(path: Path = TABLE, measure: str = "accuracy") -> Curves:
    """Case -> family -> mean accuracy over seeds at RATIOS, [R]; cases with all ratios. measure: accuracy or shared."""
    found: dict[tuple[Cell, str], dict[tuple[str, float], float]] = defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(row["dataset"], int(row["num_real"]), row["draw"], row["generator"])
            seeds = [float(value) for name, value in row.items() if name.startswith(measure)]
            found[cell, row["family"]][row["allocation"], float(row["ratio"])] = float(np.mean(seeds))
    by: Curves = defaultdict(dict)
    for (cell, family), values in found.items():
        group = next(name for name, families in GROUPS.items() if family in families)
        for allocation in cell.allocations:
            keys = [("none", 0.0), *((allocation, ratio) for ratio in RATIOS[1:])]
            by[Case(cell, group, allocation)][family] = np.array([values[key] for key in keys])
    return dict(by)


def at(curve: FloatArray, ratio: float) -> float:
    return float(np.interp(np.log2(1 + ratio), np.log2(1 + np.asarray(RATIOS)), curve))


def true_verdict(curve: FloatArray) -> str:
    if curve[1:].max() >= curve[0] + NOTICEABLE:
        return "helps"
    if min(at(curve, 1.0), at(curve, 2.0)) <= curve[0] - NOTICEABLE:
        return "hurts"
    return "no effect"


def estimate_case(case: Case, metric: str | None) -> tuple[Case, RatioEstimate, float]:
    data = load_cell(case.cell)
    start = time.process_time()
    estimate = estimate_ratio(
        data.real,
        data.y_real,
        *pilot_of(data),
        max_ratio=max(RATIOS),
        allocation=case.allocation,
        features=FEATURES[case.group],
        metric=metric,
    )
    return case, estimate, time.process_time() - start


RULES: dict[str, Callable[[RatioEstimate], float]] = {
    "real data only": lambda e: 0.0,
    "always 1": lambda e: 1.0,
    "always 4": lambda e: 4.0,
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
    parser.add_argument("--group", choices=list(GROUPS), default="scratch")
    parser.add_argument(
        "--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="whose curves are the truth"
    )
    parser.add_argument("--datasets", nargs="*", default=list(SIZES))
    parser.add_argument("--generators", default="", help="only generators whose name starts like this; !name: no such")
    parser.add_argument("--most-real", type=int, default=max(map(max, SIZES.values())), help="real images of a cell")
    parser.add_argument("--shares", choices=["test", "real"], default="test", help="class shares of the accuracy")
    parser.add_argument("--metric", choices=METRICS, help="that estimates are asked for; default: theirs")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--estimates", type=Path, help="JSON lines, read and added to")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--worst", type=int, default=0, help="list this many worst cases of the estimate")
    options = parser.parse_args()
    missing = sorted(set(options.datasets) - set(at_hand()))
    if missing:
        options.datasets = [name for name in options.datasets if name not in missing]
        print(f"left out, not on this machine: {', '.join(missing)}; {WHERE_DATA_IS}")
    truth = {
        case: {family: curve for family, curve in by.items() if family in options.families}
        for case, by in curves(options.table, "accuracy" if options.shares == "test" else "shared").items()
        if options.half in (case.half, "both")
        and case.group == options.group
        and case.cell.dataset in options.datasets
        and case.cell.num_real <= options.most_real
        and asked_for(case.cell, options.generators)
        and set(by) & set(options.families)
    }
    if not truth:
        parser.error("no swept cell is of this half, group, data set and generator; leave some of these words out")
    said = estimates(sorted(truth), options.metric, options.estimates, options.processes)
    for half in ("tuning", "judging"):
        rows = [(case, *said[case]) for case in sorted(truth) if case.half == half]
        if rows:
            print(report(half, rows, truth, options.worst))


def _source() -> str:
    """Digest of what estimates come from."""
    house = Path(ray_synth.__path__[0])
    files = [house / "estimate.py", *sorted(house.glob("bound/*.py")), *sorted(house.glob("features/*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def estimates(
    cases: list[Case], metric: str | None, kept: Path | None, processes: int
) -> dict[Case, tuple[RatioEstimate, float]]:
    """Estimates with their CPU seconds. kept: a file of JSON lines, read and added to; what was made by other source is
    made again."""
    found: dict[Case, tuple[RatioEstimate, float]] = {}
    source, names = f"{_source()} {metric}", {_name(case): case for case in cases}
    if kept is not None and kept.exists():
        for line in kept.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # torn by a kill
            if row["source"] == source and row["case"] in names:
                found[names[row["case"]]] = RatioEstimate.from_dict(row["estimate"]), row["seconds"]
    missing = [case for case in cases if case not in found]
    with ProcessPoolExecutor(processes) as pool:
        for number, (case, estimate, seconds) in enumerate(
            pool.map(functools.partial(estimate_case, metric=metric), missing), 1
        ):
            found[case] = estimate, seconds
            if kept is not None:
                row = {"case": _name(case), "source": source, "seconds": seconds, "estimate": estimate.to_dict()}
                with kept.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"\r{number}/{len(missing)} estimates", end="", file=sys.stderr, flush=True)
    return found


def _name(case: Case) -> str:
    return f"{case.cell.name} {case.group} {case.allocation}"


def report(half: str, rows: list[tuple[Case, RatioEstimate, float]], truth: Curves, worst: int) -> str:
    pooled = {case: np.mean(list(truth[case].values()), axis=0) for case, _, _ in rows}
    groups = {
        **{name: [c for c in pooled if c.cell.dataset == name] for name in SIZES},
        **{name: [c for c in pooled if c.cell.draw == name] for name in DRAWS},
        **{name: [c for c in pooled if c.allocation == name] for name in ("proportional",)},
    }
    groups = {name: cases for name, cases in groups.items() if cases}
    lines = [f"\n{half} half: {len({c.cell for c in pooled})} cells, {len(pooled)} cases"]
    lines.append(f"{'rule':32}{'mean':>7}{'(90 %)':>16}{'p95':>7}{'worst':>7}" + "".join(f"{n:>14}" for n in groups))
    for name, rule in RULES.items():
        regret = {case: float(pooled[case].max()) - at(pooled[case], rule(e)) for case, e, _ in rows}
        lines.append(_line(name, regret, groups))
    floor = {
        case: float(np.mean([pooled[case].max() - pooled[case][curve.argmax()] for curve in truth[case].values()]))
        for case in pooled
        if len(truth[case]) > 1
    }
    if floor:
        lines.append(_line("one family for all (floor)", floor, groups))
    unsure = {c: float(pooled[c].max()) - at(pooled[c], e.ratio) for c, e, _ in rows if e.verdict == "uncertain"}
    if unsure:
        lines.append(_line("estimate, where it is uncertain", unsure, groups))
    lines += [_of_intervals(rows, pooled), _of_verdicts(rows, pooled), _of_allocations(rows, pooled)]
    lines += [_of_other_allocations(rows, pooled)]
    seconds = [s for _, _, s in rows]
    lines.append(f"CPU seconds an estimate: median {np.median(seconds):.1f}, worst {max(seconds):.1f}")
    order = sorted(rows, key=lambda row: at(pooled[row[0]], row[1].ratio) - pooled[row[0]].max())
    for case, e, _ in order[:worst]:
        lost = pooled[case].max() - at(pooled[case], e.ratio)
        name = _name(case)
        lines.append(f"  {name:52} regret {lost:.3f} at {e.ratio:<6} {e.verdict:10} {pooled[case].round(3)}")
    return "\n".join(lines)


def _line(name: str, regret: dict[Case, float], groups: dict[str, list[Case]]) -> str:
    values = np.array(list(regret.values()))
    cells = sorted({case.cell for case in regret})
    of = {cell: [v for case, v in regret.items() if case.cell == cell] for cell in cells}
    rng = np.random.default_rng(0)
    means = [
        np.mean(np.concatenate([of[cells[i]] for i in rng.integers(len(cells), size=len(cells))])) for _ in range(500)
    ]
    low, high = np.quantile(means, [0.05, 0.95])
    own = [[regret[case] for case in cases if case in regret] for cases in groups.values()]
    return (
        f"{name:32}{values.mean():7.4f}{f'({low:.4f}, {high:.4f})':>16}{np.quantile(values, 0.95):7.3f}"
        f"{values.max():7.3f}" + "".join(f"{np.mean(v):14.4f}" if v else f"{'-':>14}" for v in own)
    )


def _of_intervals(rows: Iterable[tuple[Case, RatioEstimate, Any]], pooled: dict[Case, FloatArray]) -> str:
    covered, widths = [], []
    for case, estimate, _ in rows:
        grid = np.linspace(*np.log2(1 + np.asarray(estimate.interval)), 50)
        inside = max(at(pooled[case], 2**u - 1) for u in grid)
        covered.append(inside >= pooled[case].max() - NEAR)
        widths.append((grid[-1] - grid[0]) / np.log2(1 + max(RATIOS)))
    narrow = float(np.mean(np.asarray(widths) <= 0.5))
    return (
        f"interval: holds a ratio within {NEAR} of the best in {np.mean(covered):.1%}; at most half of the axis in "
        f"{narrow:.0%}, median width {np.median(widths):.2f}"
    )


def _of_verdicts(rows: Iterable[tuple[Case, RatioEstimate, Any]], pooled: dict[Case, FloatArray]) -> str:
    sure = [(case, e.verdict) for case, e, _ in rows if e.verdict != "uncertain"]
    right = [verdict == true_verdict(pooled[case]) for case, verdict in sure]
    return f"verdict: definite in {len(sure) / len(pooled):.0%}, right in {np.mean(right) if right else 0:.0%} of those"


def _of_allocations(rows: Iterable[tuple[Case, RatioEstimate, Any]], pooled: dict[Case, FloatArray]) -> str:
    """Of uneven cells: what is lost by the allocation that is recommended, at its best ratio."""
    lost = []
    for case, estimate, _ in rows:
        best = {c.allocation: float(curve.max()) for c, curve in pooled.items() if c.cell == case.cell}
        if case.allocation == "fill" and len(best) > 1:
            # `equal` is not swept, and is seldom far from `fill`.
            chosen = "proportional" if estimate.recommended == "proportional" else "fill"
            lost.append(max(best.values()) - best[chosen])
    if not lost:
        return "allocation: no uneven cell"
    good = float(np.mean(np.asarray(lost) <= NEAR_ALLOCATION))
    return (
        f"allocation: best or within {NEAR_ALLOCATION} in {good:.0%} of {len(lost)} uneven cells, mean lost "
        f"{np.mean(lost):.4f}, worst {max(lost):.3f}"
    )


def _of_other_allocations(rows: Iterable[tuple[Case, RatioEstimate, Any]], pooled: dict[Case, FloatArray]) -> str:
    """What is lost by the ratio that an estimate for `fill` says of `proportional` beside its answer."""
    lost = []
    for case, estimate, _ in rows:
        curve = pooled.get(Case(case.cell, case.group, "proportional"))
        if case.allocation == "fill" and curve is not None:
            lost.append(float(curve.max()) - at(curve, estimate.allocations["proportional"].ratio))
    if not lost:
        return "other allocation: no uneven cell"
    return f"other allocation's ratio, said beside: mean regret {np.mean(lost):.4f}, worst {max(lost):.3f}"


if __name__ == "__main__":
    main()
