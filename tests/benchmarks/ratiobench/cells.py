"""A cell's name in, its arrays out: real training, synthetic and test images. A function of the name alone."""

from __future__ import annotations

import functools
import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_synth.allocation import ALLOCATIONS, Allocation, synthetic_counts
from ray_synth.seeding import derive_seed
from tests.benchmarks.ratiobench.generators import generator_of

RATIOS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
DRAWS = ("even", "natural", "1:20")
STEEP = 20.0  # real images of the commonest class for one of the rarest, where a draw is "1:20"
MAX_TEST = 2000
MAX_TRAIN = 8000  # images, half of them for generators

FILES = {
    "mnist": "mnist_full.npz",
    "fashion_mnist": "fashion_mnist_dev_20k5k.npz",
    "cifar10": "cifar10_dev_10k5k.npz",
}
OFFICIAL = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist lays it
ROWS = Path(__file__).with_name("fashion_mnist.npy")  # which of its 70,000 images cells draw from: train, then test
WHERE_DATA_IS = "set RAY_SYNTH_DATA to its folder (Fashion-MNIST is Debian's package dataset-fashion-mnist too)"
SIZES = {"digits": (30, 120), "mnist": (40, 100), "fashion_mnist": (40, 100, 400), "cifar10": (50, 100, 400)}

# What may be looked at while the estimator is made. The rest judges: other generators, on other real images.
TUNING = ("real", "gaussian-5", "collapsed-3", "labels-50", "noisy", "blends", "diffusion-600-0")
JUDGING = (
    "gaussian-20", "smote", "collapsed-10", "blurred", "shifted", "labels-20", "labels-80", "negative",
    "diffusion-300-0", "diffusion-600-0.5",
)  # fmt: skip
OF_EACH = {"tuning": 3, "judging": 4}  # generators of each half for one data set, size and draw, in turn
LARGEST_DIFFUSION = 100  # real images up to which there are samples of diffusion models


@dataclass(frozen=True, order=True)
class Cell:
    """Every cell draws its own real images."""

    dataset: str
    num_real: int
    draw: str
    generator: str

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.num_real}/{self.draw}/{self.generator}"

    @property
    def half(self) -> str:
        return "tuning" if self.generator in TUNING else "judging"

    @property
    def allocations(self) -> tuple[Allocation, ...]:
        """Those that are swept: where classes are even all are one."""
        return ("fill",) if self.draw == "even" else ("fill", "proportional")


@dataclass(frozen=True, eq=False)
class CellData:
    """uint8 images [.,H,W,C] and labels; of each class as many synthetic images as any allocation asks for."""

    real: np.ndarray
    y_real: np.ndarray
    synthetic: np.ndarray
    y_synthetic: np.ndarray
    test: np.ndarray
    y_test: np.ndarray
    num_classes: int

    @property
    def real_counts(self) -> np.ndarray:
        return np.bincount(self.y_real, minlength=self.num_classes)


def all_cells() -> Iterator[Cell]:
    """In the order in which they are built; of each half the generators take turns over data sets, sizes and draws."""
    turn = dict.fromkeys(OF_EACH, 0)
    for dataset, sizes in SIZES.items():
        for num_real in sizes:
            for draw in DRAWS:
                for half, names in (("tuning", TUNING), ("judging", JUDGING)):
                    there = [n for n in names if num_real <= LARGEST_DIFFUSION or not n.startswith("diffusion")]
                    for _ in range(OF_EACH[half]):
                        yield Cell(dataset, num_real, draw, there[turn[half] % len(there)])
                        turn[half] += 1


def asked_for(cell: Cell, generators: str) -> bool:
    """By a word: generators whose name starts like it; with a ! before it, all others."""
    return cell.generator.startswith(generators.lstrip("!")) != generators.startswith("!")


@functools.lru_cache(maxsize=4)
def dataset_of(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images and labels, test images and labels."""
    if name == "digits":
        from ray_synth.data.readers import read_digits

        digits = read_digits()
        order = np.random.default_rng(derive_seed("ratiobench", "digits")).permutation(len(digits))
        train, test = order[:1200], order[1200:]
        return digits.images()[train], digits.labels[train], digits.images()[test], digits.labels[test]
    file = _measuring_file(name)
    if file is None:
        if name in at_hand():
            return _official_fashion_mnist()
        raise SystemExit(f"{name} is not on this machine; {WHERE_DATA_IS}")
    with np.load(file, allow_pickle=False) as data:
        names = [str(n) for n in data["split_names"]]
        images, labels, split = data["images"], data["labels"], data["split"]
    train, test = split == names.index("train"), split == names.index("test")
    return images[train][:MAX_TRAIN], labels[train][:MAX_TRAIN], images[test][:MAX_TEST], labels[test][:MAX_TEST]


def at_hand() -> tuple[str, ...]:
    """Data sets that this machine has."""
    elsewhere = {"digits"} | ({"fashion_mnist"} if OFFICIAL.is_dir() else set())
    return tuple(name for name in SIZES if name in elsewhere or _measuring_file(name) is not None)


def _measuring_file(name: str) -> Path | None:
    folder = os.environ.get("RAY_SYNTH_DATA")
    file = Path(folder) / FILES[name] if folder else None
    return file if file is not None and file.is_file() else None


def _official_fashion_mnist() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The very images of the measuring data, which split the official set in another way."""
    parts = []
    for kind, ahead, shape in (("images-idx3", 16, (-1, 28, 28, 1)), ("labels-idx1", 8, (-1,))):
        files = [OFFICIAL / f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k")]
        raw = [np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=ahead) for file in files]
        parts.append(np.concatenate([part.reshape(shape) for part in raw])[np.load(ROWS, allow_pickle=False)])
    images, labels = parts[0], parts[1].astype(np.int64)
    return images[:MAX_TRAIN], labels[:MAX_TRAIN], images[MAX_TRAIN:], labels[MAX_TRAIN:]


@functools.lru_cache(maxsize=4)
def halves(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training images that real sets are drawn from, and rows that generators see: classes in halves."""
    _, y, _, _ = dataset_of(name)
    rng = np.random.default_rng(derive_seed("ratiobench", name, "halves"))
    members = [rng.permutation(np.flatnonzero(y == c)) for c in np.unique(y)]
    ours = np.concatenate([rows[: len(rows) // 2] for rows in members])
    return ours, np.concatenate([rows[len(rows) // 2 :] for rows in members])


def class_sizes(draw: str, num_real: int, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Real images of each class, at least one. "1:20" falls evenly in its logarithm, over classes in random order."""
    classes = int(y.max()) + 1
    if draw == "natural":
        return np.maximum(np.bincount(rng.choice(y, num_real, replace=False), minlength=classes), 1)
    share = np.ones(classes) if draw == "even" else STEEP ** (-rng.permutation(classes) / (classes - 1))
    return np.maximum(np.round(num_real * share / share.sum()), 1).astype(np.int64)


def load_cell(cell: Cell, *, generator: str = "") -> CellData:
    """generator: another one for the cell's real images."""
    x, y, test, y_test = dataset_of(cell.dataset)
    rng = np.random.default_rng(derive_seed("ratiobench", cell.name))
    ours, pool = halves(cell.dataset)
    sizes = class_sizes(cell.draw, cell.num_real, y[ours], rng)
    drawn = [rng.permutation(ours[y[ours] == c])[:size] for c, size in enumerate(sizes)]
    real = np.concatenate(drawn)
    most = np.max([synthetic_counts(sizes, max(RATIOS), each) for each in ALLOCATIONS], axis=0)
    images, labels = generator_of(generator or cell.generator)(x[pool], y[pool], int(most.max()), rng)
    # By class in order: each class's first.
    rank = np.arange(len(images)) % (len(images) // len(sizes))
    keep = rank < most[labels]
    return CellData(x[real], y[real], images[keep], labels[keep], test, y_test, len(sizes))


def pilot_of(data: CellData, share: float = 4.0, fewest: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic images and labels that an estimate may see: `share` per real image, at least `fewest` in all, and of
    each class as many as any allocation asks for."""
    ratio = min(max(share, fewest / len(data.real)), max(RATIOS))
    wanted = np.max([synthetic_counts(data.real_counts, ratio, each) for each in ALLOCATIONS], axis=0)
    first = np.concatenate([np.flatnonzero(data.y_synthetic == c)[:k] for c, k in enumerate(wanted)])
    rows = np.sort(first)
    return data.synthetic[rows], data.y_synthetic[rows]
