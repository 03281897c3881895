"""A pool of synthetic images in, what choosing among them is worth out: by covariance against as they come.

    python -m tests.benchmarks.selection [--datasets digits fashion_mnist]

RatioBench's cells, each pool as large as ratio 16 asks for, `fill`. Both orders take equal counts of each class; MLPs
are trained on either, with the same seeds, and tested on the test set as it comes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch

from ray_synth.allocation import synthetic_counts
from ray_synth.data.images import ImageSet
from ray_synth.estimate import leading_features
from ray_synth.sampling.selection import covariance_order
from tests.benchmarks.ratiobench.cells import SIZES, Cell, CellData, load_cell
from tests.benchmarks.ratiobench.truth import accuracies

RATIOS = (0.5, 1.0, 2.0, 4.0)
GENERATORS = {
    "wrong labels": ("labels-20", "labels-50"),
    "worse images": ("noisy", "blurred", "gaussian-5"),
    "good images": ("real", "smote", "blends", "diffusion-600-0"),
}
DRAWS = ("even", "natural", "1:20")


def ordered(data: CellData) -> CellData:
    sets = [
        ImageSet(pixels=images, labels=labels, class_names=())
        for images, labels in ((data.real, data.y_real), (data.synthetic, data.y_synthetic))
    ]
    real, synthetic = leading_features(sets)
    order = covariance_order(real, data.y_real, synthetic, data.y_synthetic)
    return replace(data, synthetic=data.synthetic[order], y_synthetic=data.y_synthetic[order])


def gains(cell: Cell) -> np.ndarray:
    """Accuracy by covariance less that as they come, at RATIOS."""
    data = load_cell(cell)
    counts = [synthetic_counts(data.real_counts, ratio, "fill") for ratio in RATIOS]
    plain, chosen = (accuracies(each, "mlp", counts)[0].mean(axis=1) for each in (data, ordered(data)))
    gain: np.ndarray = chosen - plain
    return gain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=list(SIZES), default=["digits"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind, names in GENERATORS.items():
        found = []
        for dataset in options.datasets:
            for number, name in enumerate(names * 2):
                size = SIZES[dataset][number >= len(names)]
                if size <= 100 or not name.startswith("diffusion"):
                    found.append(gains(Cell(dataset, size, DRAWS[number % 3], name)))
        values = np.array(found)
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        shown = ", ".join(f"{r:g}: {m:+.3f} ± {e:.3f}" for r, m, e in zip(RATIOS, values.mean(0), error, strict=True))
        print(f"{kind} ({len(values)} cells): {shown}", flush=True)


if __name__ == "__main__":
    main()
