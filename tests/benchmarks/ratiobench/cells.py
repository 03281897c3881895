"""A cell's name in, its arrays out: real training, synthetic and test images. A function of the name alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_synth.seeding import derive_seed
from tests.benchmarks.ratiobench.generators import DIFFUSION, GENERATORS

RATIOS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
MAX_TEST = 1500

# Tuning half: what may be looked at while the estimator is made. The rest judges.
TUNING_GENERATORS = ("real", "gaussian-5", "collapsed-3", "labels-50", "noisy", "negative", "diffusion-600")
TUNING_DATASETS = ("digits", "fashion_mnist")
FILES = {
    "fashion_mnist": "fashion_mnist_dev_20k5k.npz",
    "cifar10": "cifar10_dev_10k5k.npz",
    "pneumoniamnist": "pneumoniamnist28_imbalanced.npz",
}


@dataclass(frozen=True, order=True)
class Cell:
    dataset: str
    num_real: int
    generator: str

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.num_real}/{self.generator}"

    @property
    def half(self) -> str:
        tuning = self.dataset in TUNING_DATASETS and self.generator.startswith(TUNING_GENERATORS)
        return "tuning" if tuning else "judging"


@dataclass(frozen=True, eq=False)
class CellData:
    """uint8 images [.,H,W,C] and labels; synthetic images by class, max(RATIOS) times the class's real ones."""

    real: np.ndarray
    y_real: np.ndarray
    synthetic: np.ndarray
    y_synthetic: np.ndarray
    test: np.ndarray
    y_test: np.ndarray
    num_classes: int


def all_cells() -> Iterator[Cell]:
    """In the order in which they are built: cheap datasets first."""
    sizes = [
        *[("digits", n) for n in (20, 50, 100, 200, 400)],
        *[("fashion_mnist", n) for n in (100, 500, 20)],
        *[("cifar10", n) for n in (100, 500)],
        ("pneumoniamnist", 100),
        ("fashion_mnist", 2000),
    ]
    for dataset, num_real in sizes:
        for generator in (*GENERATORS, *(DIFFUSION if dataset == "digits" else ())):
            yield Cell(dataset, num_real, generator)


@functools.lru_cache(maxsize=2)
def _dataset(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images and labels, test images and labels."""
    if name == "digits":
        from ray_synth.data.readers import read_digits

        digits = read_digits()
        order = np.random.default_rng(derive_seed("ratiobench", "digits")).permutation(len(digits))
        train, test = order[:1200], order[1200:]
        return digits.images()[train], digits.labels[train], digits.images()[test], digits.labels[test]
    folder = os.environ.get("RAY_SYNTH_DATA")
    if not folder:
        raise SystemExit(f"{name} needs the measuring data; set RAY_SYNTH_DATA to its folder")
    with np.load(Path(folder) / FILES[name], allow_pickle=False) as data:
        names = [str(n) for n in data["split_names"]]
        images, labels, split = data["images"], data["labels"], data["split"]
    train, test = split == names.index("train"), split == names.index("test")
    return images[train], labels[train], images[test][:MAX_TEST], labels[test][:MAX_TEST]


def load_cell(cell: Cell) -> CellData:
    """Real images drawn by class in the dataset's proportions; the generator sees the other half of the set."""
    x, y, test, y_test = _dataset(cell.dataset)
    rng = np.random.default_rng(derive_seed("ratiobench", cell.dataset, cell.num_real))
    classes = np.unique(y)
    share = np.bincount(y, minlength=len(classes)) / len(y)
    chosen, pool = [], []
    for c in classes:
        members = rng.permutation(np.flatnonzero(y == c))
        wanted = max(2, round(cell.num_real * share[c]))
        chosen.append(members[:wanted])
        pool.append(members[max(wanted, len(members) // 2) :])
    real, rest = np.concatenate(chosen), np.concatenate(pool)
    counts = np.bincount(y[real])
    draw = np.random.default_rng(derive_seed("ratiobench", cell.name))
    make = GENERATORS.get(cell.generator) or DIFFUSION[cell.generator]
    images, labels = make(x[rest], y[rest], int(counts.max() * max(RATIOS)), draw)
    per_class = len(images) // len(classes)
    # The order within a class is the generator's; keep each class's first max ratio x n_c.
    rank = np.arange(len(images)) % per_class
    keep = rank < counts[labels] * max(RATIOS)
    return CellData(x[real], y[real], images[keep], labels[keep], test, y_test, len(classes))


def prefix_counts(y_real: np.ndarray, ratio: float, num_classes: int) -> np.ndarray:
    return np.floor(np.bincount(y_real, minlength=num_classes) * ratio + 0.5).astype(np.int64)
