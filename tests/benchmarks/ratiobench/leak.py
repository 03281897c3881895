"""How often the leak warning is right: generators fitted on the very real images given, and on others.

    python -m tests.benchmarks.ratiobench.leak

Digits, Fashion-MNIST and CIFAR-10, 50 and 200 real images, nine generators, 40 synthetic images a class.
"""

from __future__ import annotations

import numpy as np

from ray_synth.bound.leak import leak_warning
from ray_synth.features.families import linear_families
from tests.benchmarks.ratiobench.cells import Cell, load_cell
from tests.benchmarks.ratiobench.generators import GENERATORS

DATASETS = ("digits", "fashion_mnist", "cifar10")
SIZES = (50, 200)
FITTED = (
    "real", "gaussian-5", "gaussian-20", "smote", "collapsed-3", "blurred", "noisy", "shifted", "labels-50",
)  # fmt: skip


def warned(real: np.ndarray, y_real: np.ndarray, images: np.ndarray, labels: np.ndarray) -> bool:
    features = linear_families([real, images], encoder=None, seed=0)["raw"]
    return leak_warning(features[0], y_real, features[1], labels) is not None


def main() -> None:
    alarms, generators = 0, 0
    print("recognised where the generator was fitted on the real images given:")
    for name in FITTED:
        found = []
        for dataset in DATASETS:
            for size in SIZES:
                data = load_cell(Cell(dataset, size, "even", name))
                keep = np.concatenate([np.flatnonzero(data.y_synthetic == c)[:40] for c in range(data.num_classes)])
                alarms += warned(data.real, data.y_real, data.synthetic[keep], data.y_synthetic[keep])
                generators += 1
                own, labels = GENERATORS[name](data.real, data.y_real, 40, np.random.default_rng(0))
                if warned(data.real, data.y_real, own, labels):
                    found.append(f"{dataset}/{size}")
        print(f"  {name:12} {len(found)} of {len(DATASETS) * len(SIZES)}: {', '.join(found) or '-'}", flush=True)
    print(f"false alarms where it was fitted on other images: {alarms} of {generators}")


if __name__ == "__main__":
    main()
