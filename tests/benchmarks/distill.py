"""Distilled CIFAR-10 against honest baselines: accuracy of classifiers that are trained on 1 and 10 images a class.

    RAY_SYNTH_DATA=... python -m tests.benchmarks.distill --folder runs/distill --out tests/benchmarks/distill.csv
    python -m tests.benchmarks.distill --table --out tests/benchmarks/distill.csv

Every method's images train the same network, alike, from nothing: random real images, herding, k-center, patches chosen
by the teacher (as RDED does), SRe2L-style, WMDD with uniform and with free weights; with soft and with hard labels;
three seeds, which draw noise, baselines and the students' weights. One teacher for all.

Reduced, against sweeps/wmdd/cifar10.yaml, so that a CPU core takes an hour: 10,000 training and 5,000 test images
of cifar10_dev_10k5k.npz; a ResNet-8 as teacher (20 epochs) and student; 300 iterations of recovering in place of 2,000.

A row of the file is a cell; cells that it has are left out, so the same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.models import build_model, load_trainable
from ray_synth.classifier.predict import accuracy_of
from ray_synth.classifier.train import fit
from ray_synth.config import Distill, Method
from ray_synth.data.arrays import list_npz
from ray_synth.data.images import ImageSet
from ray_synth.data.transforms import to_model_range
from ray_synth.distill.barycenter import wasserstein_barycenter
from ray_synth.distill.chosen import chosen_images
from ray_synth.distill.posttrain import train_student
from ray_synth.distill.recover import Recovery, Target, Weights
from ray_synth.distill.relabel import Views, labels_of
from ray_synth.distill.results import Outcome, metrics_of, table_of
from ray_synth.distill.squeeze import ClassSummary, Tapped, summary_of_class
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.training.checkpoint import FolderCheckpoints, read_tensors, sealed, trainable_state

NETWORK = "resnet8"
VIEWS = {"flip": 0.5, "resized_crop": [0.5, 1.0]}
SETTINGS = Distill.model_validate(
    {
        "teacher": {"model": NETWORK, "epochs": 20, "evaluations": 1, "augment": VIEWS},
        "recover": {"iterations": 300, "jitter": 4},
        "relabel": {"augment": VIEWS},
        "posttrain": {"models": [NETWORK]},
    }
)
EPOCHS, BATCH = {1: 400, 10: 120}, {1: 10, 10: 20}  # of students, by images a class
METHODS = ("random", "sre2l", "wmdd_uniform", "wmdd_free", "herding", "k_center", "rded")
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """images: a class. accuracy: on the test images."""

    images: int
    method: str
    labels: str
    seed: int
    accuracy: float
    seconds: float

    @property
    def key(self) -> tuple[int, str, str, int]:
        return self.images, self.method, self.labels, self.seed


def read_cells(file: Path) -> list[Cell]:
    if not file.exists():
        return []
    with file.open() as rows:
        kinds = {"images": int, "seed": int, "accuracy": float, "seconds": float}
        return [
            Cell(**{name: kinds.get(name, str)(value) for name, value in row.items()}) for row in csv.DictReader(rows)
        ]


def write_cell(file: Path, cell: Cell) -> None:
    new = not file.exists()
    with file.open("a", newline="") as rows:
        writer = csv.DictWriter(rows, [one.name for one in fields(Cell)])
        if new:
            writer.writeheader()
        writer.writerow({**asdict(cell), "accuracy": f"{cell.accuracy:.4f}", "seconds": f"{cell.seconds:.1f}"})


class Bench:
    """The data, the teacher and what it sees, made once and kept in a folder. iterations: of recovering."""

    def __init__(self, folder: Path, iterations: int = SETTINGS.recover.iterations):
        self.recover = SETTINGS.recover.model_copy(update={"iterations": iterations})
        self.kept = "" if iterations == SETTINGS.recover.iterations else f"-{iterations}"
        listing = list_npz(Path(os.environ["RAY_SYNTH_DATA"]) / "cifar10_dev_10k5k.npz")
        assert listing.parts is not None
        self.names = tuple(listing.class_names)
        self.sets = {
            part: ImageSet(pixels=listing.items[rows], labels=listing.labels[rows], class_names=self.names)
            for part in ("train", "test")
            for rows in [np.flatnonzero(listing.parts == part)]
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = RunFolder(folder)
        self.shape = self.sets["train"].shape

    @cached_property
    def teacher(self) -> torch.nn.Module:
        train, name = self.sets["train"], "teacher.safetensors"
        if not self.folder.exists(name):
            fitted = fit(
                TrainingData.of_real(train),
                self.sets["test"].take(slice(0, 500)),  # shown, not chosen by: the last weights are kept
                SETTINGS.teacher,
                seed=0,
                checkpoints=FolderCheckpoints(self.folder, "teacher.checkpoint"),
            )
            self.folder.write(name, sealed(trainable_state(fitted.model)))
        model = build_model(SETTINGS.teacher, self.shape, self.names, seed=0)
        load_trainable(model, read_tensors(self.folder, name)[0])
        return model.eval()

    @cached_property
    def tapped(self) -> Tapped:
        return Tapped(self.teacher)

    def of_class(self, label: int) -> ImageSet:
        return self.sets["train"].take(np.flatnonzero(self.sets["train"].labels == label))

    @cached_property
    def summaries(self) -> list[ClassSummary]:
        return [summary_of_class(self.tapped, self.of_class(label)) for label in range(10)]

    def made(self, method: str, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [10 m,H,W,C], class by class, and the weights of the images."""
        file = Path(self.folder.url) / f"{method}-{images}-{seed}{self.kept}.npz"
        if not file.exists():
            pixels, weights = self._make(method, images, seed)
            aside = file.with_suffix(".tmp.npz")
            np.savez(aside, pixels=pixels, weights=weights)
            aside.rename(file)
        with np.load(file) as kept:
            return kept["pixels"], kept["weights"]

    def _make(self, method: str, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if method in ("random", "herding", "k_center", "rded"):
            kind: Method = method  # type: ignore[assignment]
            each = [
                chosen_images(kind, self.of_class(c), images, self.summaries[c], self.teacher, seed=seed * 1000 + c)[0]
                for c in range(10)
            ]
            return np.concatenate(each), np.ones(10 * images)
        labels, weights = torch.arange(10).repeat_interleave(images), np.ones(10 * images)
        if method == "sre2l":
            mean, variance = self.tapped.global_statistics
            target, kind = Target(labels=labels, means=mean[None], variances=variance[None]), "sre2l"
        else:
            free = "free" if method == "wmdd_free" else "uniform"
            found = [wasserstein_barycenter(s.features, images, weights=free, seed=seed) for s in self.summaries]  # type: ignore[arg-type]
            weights = np.concatenate([each.weights * images for each in found])
            target, kind = (
                Target(
                    labels=labels,
                    means=torch.stack([s.mean for s in self.summaries]),
                    variances=torch.stack([s.variance for s in self.summaries]),
                    points=torch.from_numpy(np.concatenate([each.positions for each in found])).float(),
                ),
                "wmdd",
            )
        seeds = np.array([derive_seed("bench", seed, row) % 2**62 for row in range(10 * images)])
        recovery = Recovery(
            self.tapped,
            target,
            Weights.of(kind, self.recover),
            self.recover,
            seeds=seeds,
            shape=self.shape,
        )
        return recovery.run(), weights

    def cell(self, images: int, method: str, labels: str, seed: int) -> Cell:
        begin = time.monotonic()
        pixels, weights = self.made(method, images, seed)
        views = Views(
            pixels,
            np.arange(10).repeat(images),
            weights,
            SETTINGS.relabel,
            num_classes=10,
            batch_size=BATCH[images],
            seed=seed,
            device=CPU,
        )
        student = train_student(
            views,
            SETTINGS.student(NETWORK),
            SETTINGS.posttrain.model_copy(update={"epochs": EPOCHS[images]}),
            shape=self.shape,
            class_names=self.names,
            seed=seed,
            labels=labels_of(self.teacher, None) if labels == "soft" else None,
        )
        accuracy = accuracy_of(student, self.sets["test"])
        seconds = time.monotonic() - begin
        return Cell(images=images, method=method, labels=labels, seed=seed, accuracy=accuracy, seconds=seconds)


def asked(methods: list[str], seeds: list[int], sizes: list[int]) -> Iterator[tuple[int, str, str, int]]:
    for seed in seeds:
        for images in sizes:
            for method in methods:
                for labels in ("soft", "hard"):
                    yield images, method, labels, seed


def print_table(cells: list[Cell]) -> None:
    for images in (1, 10):
        outcomes = [
            Outcome(
                method=c.method,
                labels=c.labels,
                model=NETWORK,
                repeat=c.seed,
                accuracy=c.accuracy,
                validation_accuracy=0,
            )
            for c in cells
            if c.images in (images, 0)
        ]
        metrics = metrics_of(outcomes)
        teacher = metrics.get("accuracy/real", float("nan"))
        print(f"\n{images} a class; all 10,000 real images (the teacher): {teacher:.4f}\n")
        print("| images | labels | accuracy | IOR | HLR |\n|---|---|---|---|---|")
        for row in sorted(table_of(metrics), key=lambda row: (METHODS.index(row.method), row.labels)):
            ior = "" if row.ior is None else f"{row.ior:+.3f}"
            hlr = "" if row.hlr is None else f"{row.hlr:.3f}"
            print(f"| {row.method} | {row.labels} | {row.accuracy:.3f} ± {row.std:.3f} | {ior} | {hlr} |")


def picture(bench: Bench, file: Path, *, classes: tuple[int, ...] = (0, 1, 4, 8), images: int = 10) -> None:
    """As Liu et al., 2025, Figure 6: real images (dots) and distilled ones (triangles) where the teacher sees them, on
    the two axes on which the real ones are spread most."""
    import matplotlib.pyplot as plt
    from sklearn.decomposition import PCA

    real = [bench.summaries[label].features[:400] for label in classes]
    plane = PCA(n_components=2, random_state=0).fit(np.concatenate(real))
    shown = {
        "random": "random real images",
        "sre2l": "SRe2L",
        "wmdd_uniform": "WMDD, uniform",
        "wmdd_free": "WMDD, free",
    }
    figure, panels = plt.subplots(1, len(shown), figsize=(11, 3.1), sharex=True, sharey=True, layout="constrained")
    for axes, (method, title) in zip(panels, shown.items(), strict=True):
        pixels, _ = bench.made(method, images, 0)
        with torch.no_grad():
            seen = bench.tapped(to_model_range(torch.from_numpy(pixels))).features.numpy()
        for number, label in enumerate(classes):
            color = f"C{number}"
            axes.scatter(*plane.transform(real[number]).T, s=3, color=color, alpha=0.25, linewidths=0)
            own = plane.transform(seen[label * images : (label + 1) * images])
            axes.scatter(*own.T, s=42, marker="^", color=color, edgecolors="black", linewidths=0.7,
                         label=bench.names[label])  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set(xticks=[], yticks=[])
    panels[0].legend(frameon=False, fontsize=7)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/distill"), help="where the teacher and images are kept"
    )
    parser.add_argument("--out", type=Path, default=Path("tests/benchmarks/distill.csv"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(EPOCHS), default=list(EPOCHS), help="a class")
    parser.add_argument("--iterations", type=int, default=SETTINGS.recover.iterations, help="of recovering")
    parser.add_argument("--table", action="store_true", help="show what the file holds")
    parser.add_argument("--picture", type=Path, help="where the teacher sees the images of seed 0, ten a class")
    arguments = parser.parse_args()
    if arguments.table:
        print_table(read_cells(arguments.out))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    bench = Bench(arguments.folder, arguments.iterations)
    if arguments.picture:
        picture(bench, arguments.picture)
        return
    there = {cell.key for cell in read_cells(arguments.out)}
    if (0, "real", "hard", 0) not in there:
        begin = time.monotonic()
        accuracy = accuracy_of(bench.teacher, bench.sets["test"])
        write_cell(
            arguments.out,
            Cell(images=0, method="real", labels="hard", seed=0, accuracy=accuracy, seconds=time.monotonic() - begin),
        )
    for key in asked(arguments.methods.split(","), arguments.seeds, arguments.sizes):
        if key not in there:
            cell = bench.cell(*key)
            write_cell(arguments.out, cell)
            print(cell, flush=True)


if __name__ == "__main__":
    main()
