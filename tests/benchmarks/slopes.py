"""Numbers of images in; seconds and peak memory of what a run does with all of them out, and how they grow.

    python -m tests.benchmarks.slopes images FOLDER [--sizes 5000 25000 100000]
    python -m tests.benchmarks.slopes classes [--sizes 100 300 1000]

images: JPEGs of 64 pixels of 1,000 classes are made in FOLDER and stay. splits is all that a run does with them before
it starts: they are listed, hashed in one pass, split and compared; again, the same in the next run. packing is without
what is packed already; an epoch is every packed image decoded once, in the order of a training. classes: what an
estimate computes from 10 real and 10 synthetic images of each class, seen as 384 numbers that are made up. Each in a
process of its own. slope: of log CPU seconds over log images; 1 is linear. MiB: what the process came to beyond what it
had before.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

CLASSES, SIDE, BATCH = 1000, 64, 128
Measured = dict[str, float]


def make(folder: Path, count: int) -> None:
    """Images that are there stay."""
    from PIL import Image

    for label in range(min(CLASSES, count // 5)):
        (folder / f"{label:04d}").mkdir(parents=True, exist_ok=True)
    for row in range(count):
        place = folder / f"{row % min(CLASSES, count // 5):04d}" / f"{row:07d}.jpg"
        if place.exists():
            continue
        rng = np.random.default_rng(row)
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(buffer, format="jpeg", quality=90)
        place.write_bytes(buffer.getvalue())


@contextmanager
def measuring(found: Measured) -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.monotonic(), time.process_time()
    yield
    found["seconds"], found["CPU seconds"] = time.monotonic() - wall, time.process_time() - cpu
    found["MiB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def splits(folder: Path, count: int) -> Measured:
    """What an earlier measurement left is taken away."""
    shutil.rmtree(_looks(folder), ignore_errors=True)
    return again(folder, count)


def again(folder: Path, count: int) -> Measured:
    from ray_synth.config import Data
    from ray_synth.data import images, looks
    from ray_synth.data.splits import key_rows, read_splits

    images.SHARE, looks.looks_folder = 0.0, lambda: _looks(folder)  # as if memory did not hold them
    found: Measured = {}
    data = Data(kind="folder", path=str(folder), shots=None, image_size=SIDE, generator_split="shared")
    with measuring(found):
        sets = read_splits(data, 0).named()
        keys = key_rows(sets)
    found["splits.parquet, MB"] = len(keys) / 1e6
    return found


def _looks(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-looks")


def _listed(folder: Path):  # type: ignore[no-untyped-def]
    from ray_synth.data.readers import list_folder

    return list_folder(folder).source((SIDE, SIDE), 3)


def packing(folder: Path, count: int) -> Measured:
    from ray_synth.data.packed import packed

    source, found, place = _listed(folder), Measured(), folder.with_name(f"{folder.name}-packs")
    shutil.rmtree(place, ignore_errors=True)
    with measuring(found):
        packed(source, place)
    return found


def epoch(folder: Path, count: int) -> Measured:
    """Of packs that `packing` has made."""
    import torch

    from ray_synth.classifier import sides
    from ray_synth.data.packed import packed
    from ray_synth.training.team import Team

    sides.held = lambda source: source
    found, steps = Measured(), -(-count // BATCH)
    images = packed(_listed(folder), folder.with_name(f"{folder.name}-packs"))
    with measuring(found):
        side = sides.Side(images, np.zeros(len(images), np.int64), BATCH, steps, 0, torch.device("cpu"))
        for step in range(steps):
            side._read(step, Team())
    return found


def estimate(folder: Path, classes: int) -> Measured:
    from ray_synth.bound.estimator import Question, predicted_from_features
    from ray_synth.bound.samples import numbered_samples
    from ray_synth.features.families import families_of, whole_features
    from ray_synth.metrics.spectrum import pixel_stats

    rng, labels, found = np.random.default_rng(0), np.repeat(np.arange(classes), 10), Measured()
    means = rng.normal(size=(classes, 384))
    real = means[labels] + 2 * rng.normal(size=(len(labels), 384))
    synthetic = means[labels] + 2 * rng.normal(size=(len(labels), 384)) + 0.3 * rng.normal(size=384)
    stats = pixel_stats(rng.integers(0, 256, (256, 32, 32, 3), dtype=np.uint8), count=len(labels))
    with measuring(found):
        families = families_of([real, synthetic], seed=0)
        asked = Question(num_given=len(labels), num_real=130 * len(labels))
        samples, whole = numbered_samples((stats, labels), (stats, labels)), whole_features([real, synthetic])
        predicted_from_features(samples, families, asked, whole)
    return found


WORK: dict[str, Callable[[Path, int], Measured]] = {
    "splits": splits, "again": again, "packing": packing, "epoch": epoch, "estimate": estimate,
}  # fmt: skip


def compare(names: list[str], sizes: list[int], folder: Path) -> None:
    rows: dict[str, list[Measured]] = {name: [] for name in names}
    for size in sizes:
        place = folder / str(size)
        if names != ["estimate"]:
            make(place, size)
        for name in names:
            command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.slopes", "one", str(place)]
            done = subprocess.run(
                [*command, "--work", name, "--sizes", str(size)], stdout=subprocess.PIPE, text=True, check=True
            )
            rows[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name:9} {size:>9,}", {key: round(value, 1) for key, value in rows[name][-1].items()}, flush=True)
    for name, found in rows.items():
        cpu = np.log([row["CPU seconds"] for row in found])
        slopes = np.diff(cpu) / np.diff(np.log(sizes))
        whole = np.polyfit(np.log(sizes), cpu, 1)[0]
        print(f"{name:9} slope {whole:.2f} ({', '.join(f'{each:.2f}' for each in slopes)} from size to size)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["images", "classes", "one"])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(tempfile.gettempdir()) / "slopes")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--work", choices=list(WORK))
    options = parser.parse_args()
    if options.what == "images":
        compare(["splits", "again", "packing", "epoch"], options.sizes or [5_000, 25_000, 100_000], options.folder)
    elif options.what == "classes":
        compare(["estimate"], options.sizes or [100, 300, 1000], options.folder)
    else:
        print(json.dumps(WORK[options.work](options.folder, options.sizes[0])))


if __name__ == "__main__":
    main()
