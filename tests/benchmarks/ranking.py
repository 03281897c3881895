"""Three generators for one real set in, how often the estimate ranks the best first out: trained truth beside it.

    python -m tests.benchmarks.ranking [--draws 20] [--datasets digits fashion_mnist]

Every draw has its own real images, evenly, as they come or 1:20, and three of RatioBench's generators on the other half
of the data set, in turn. The truth is the accuracy at each generator's best ratio of 0 to 16 (two MLPs, test set as it
comes), the estimate sees a pilot of max(4 n, 400) images of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch

import ray_synth as rs
from ray_synth.allocation import synthetic_counts
from tests.benchmarks.ratiobench.cells import DRAWS, JUDGING, RATIOS, TUNING, Cell, CellData, load_cell, pilot_of
from tests.benchmarks.ratiobench.truth import accuracies

SIZES = (30, 60, 120)
NEAR = 0.01
MADE_BY = tuple(name for name in (*TUNING, *JUDGING) if not name.startswith("diffusion"))
STEPS = (0, 5, 9)  # between the generators of a triple, in the order of MADE_BY


def triples(dataset: str, draws: int) -> Iterator[tuple[Cell, list[str]]]:
    """A cell that says what the real images are, and three generators."""
    for number in range(draws):
        names = [MADE_BY[(number + step) % len(MADE_BY)] for step in STEPS]
        yield Cell(dataset, SIZES[number % len(SIZES)], DRAWS[number // len(SIZES) % len(DRAWS)], names[0]), names


def loaded(cell: Cell, names: list[str]) -> dict[str, CellData]:
    return {name: load_cell(cell, generator=name) for name in names}


def best_accuracy(data: CellData) -> float:
    counts = [synthetic_counts(data.real_counts, ratio, "fill") for ratio in RATIOS]
    plain, _ = accuracies(data, "mlp", counts)
    return float(plain.mean(axis=1).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20, help="of each data set")
    parser.add_argument("--datasets", nargs="+", default=["digits"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    lost, said, apart = [], [], []
    for dataset in options.datasets:
        for number, (cell, names) in enumerate(triples(dataset, options.draws), 1):
            sets = loaded(cell, names)
            truth = {name: best_accuracy(data) for name, data in sets.items()}
            real = next(iter(sets.values()))
            pilots = {name: pilot_of(data) for name, data in sets.items()}
            ranked = rs.rank_generators(
                real.real,
                real.y_real,
                pilots,
                max_ratio=max(RATIOS),
                methods=("probe",),
                allocation="fill",
                seed=number,
            )
            first = ranked[0]
            lost.append(max(truth.values()) - truth[first.name])
            said.append(first.probability)
            apart.append(max(truth.values()) - min(truth.values()))
            shown = ", ".join(f"{name} {value:.3f}" for name, value in truth.items())
            print(f"{cell.dataset} {cell.num_real} {cell.draw}: {shown}; first {first.name} at {first.probability:.2f}")
    good = float(np.mean(np.asarray(lost) <= NEAR))
    print(f"{len(lost)} draws: the best, or one within {NEAR}, is first in {good:.0%}")
    print(
        f"mean lost {np.mean(lost):.4f}, worst {max(lost):.3f}; best and worst of three are {np.mean(apart):.3f} apart"
    )
    print(f"mean probability of the first {np.mean(said):.2f}")


if __name__ == "__main__":
    main()
