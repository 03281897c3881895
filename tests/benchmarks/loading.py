"""A folder of JPEGs in, images a second of ways to feed a training out, each in a process of its own.

    python -m tests.benchmarks.loading make FOLDER --images 65000        (CIFAR-10 enlarged to 256 pixels and moved)
    python -m tests.benchmarks.loading compare FOLDER [--repeats 3] [--seconds 20]
    python -m tests.benchmarks.loading costs FOLDER --sizes 5000 20000 65000

bare: files are read, decoded and brought to 224 pixels in as many threads, in order. ours: batches of a training's
side (`classifier.sides`), bytes before they go to a GPU, shuffled, out of packs that are there. data loader: torch's
DataLoader over an ImageFolder, one process a CPU, shuffled, bytes. ray data: read_images and iter_torch_batches, not
shuffled. Each prints images a second, the seconds to the first batch, and of its process the memory at most and that of
its own in the end, without the pages of mapped files; ways take turns in every repeat.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SIDE, SHAPE, BATCH, CLASSES = 256, (224, 224, 3), 128, 1000


def make(folder: Path, count: int) -> None:
    """Images that are there stay. CLASSES folders, a hundred of each of CIFAR-10's classes."""
    from PIL import Image

    with np.load(Path(os.environ["RAY_SYNTH_DATA"]) / "cifar10_dev_10k5k.npz", allow_pickle=False) as file:
        images, labels = file["images"][:10_000], file["labels"][:10_000]

    grain = np.random.default_rng(0).integers(0, 13, (2 * SIDE, 2 * SIDE, 1), dtype=np.uint8)

    def one(row: int) -> None:
        number = row % len(images)
        place = folder / f"{labels[number] * (CLASSES // 10) + row // 10 % (CLASSES // 10):04d}" / f"{row:07d}.jpg"
        if place.exists():
            return
        rng = np.random.default_rng(row)
        moved, (top, left) = np.roll(images[number], rng.integers(-4, 5, 2), axis=(0, 1)), rng.integers(0, SIDE, 2)
        large = np.asarray(Image.fromarray(moved).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        noisy = np.minimum(large, 255 - 12) + grain[top : top + SIDE, left : left + SIDE]
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, format="jpeg", quality=90)
        place.write_bytes(buffer.getvalue())

    for label in range(CLASSES):
        (folder / f"{label:04d}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(one, range(count), chunksize=100):
            pass


def source_of(folder: Path, count: int | None = None):  # type: ignore[no-untyped-def]
    from ray_synth.data.listing import FileImages

    files = sorted(folder.glob("*/*.jpg"), key=lambda file: file.name)[:count]
    items = np.array([str(file) for file in files], dtype=object)
    labels = np.array([int(file.parent.name) for file in files])
    names = tuple(map(str, range(CLASSES)))
    return FileImages(items=items, sources=items, labels=labels, class_names=names, shape=SHAPE, crop=True)


def bare(folder: Path) -> Iterator[int]:
    from PIL import Image

    from ray_synth.data.decoding import THREADS

    def one(file: Path) -> np.ndarray:
        with Image.open(file) as image:
            return np.asarray(image.resize(SHAPE[:2], Image.Resampling.BICUBIC))

    files = sorted(folder.glob("*/*.jpg"))
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = deque(pool.submit(one, file) for file in files[: 4 * BATCH])
        for start in range(4 * BATCH, 10**9, BATCH):
            batch = [waiting.popleft() for _ in range(BATCH)]
            waiting.extend(pool.submit(one, files[row % len(files)]) for row in range(start, start + BATCH))
            yield len(np.stack([each.result() for each in batch]))


def ours(folder: Path) -> Iterator[int]:
    import torch

    from ray_synth.classifier import sides
    from ray_synth.classifier.sides import Side
    from ray_synth.data.packed import packed
    from ray_synth.training.team import Team

    images = packed(source_of(folder), folder.with_name(f"{folder.name}-packs"))
    sides.held = lambda source: source  # as if memory did not hold them
    side = Side(images, np.zeros(len(images), np.int64), BATCH, 10**6, 0, torch.device("cpu"))
    for step in range(10**6):
        yield len(side._read(step, Team())[1])


def data_loader(folder: Path) -> Iterator[int]:
    from torch.utils.data import DataLoader

    from ray_synth.torch_ops import import_torchvision

    import_torchvision()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    change = v2.Compose([v2.Resize(SHAPE[:2], v2.InterpolationMode.BICUBIC), v2.PILToTensor()])
    loader = DataLoader(
        ImageFolder(str(folder), change), BATCH, shuffle=True, num_workers=os.cpu_count() or 1, persistent_workers=True
    )
    while True:
        for images, _ in loader:
            yield len(images)


def ray_data(folder: Path) -> Iterator[int]:
    import ray

    ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    images = ray.data.read_images(str(folder), size=SHAPE[:2], mode="RGB")
    while True:
        for batch in images.iter_torch_batches(batch_size=BATCH):
            yield len(batch["image"])


WAYS: dict[str, Callable[[Path], Iterator[int]]] = {
    "bare": bare, "ours": ours, "data loader": data_loader, "ray data": ray_data,
}  # fmt: skip


def measured(way: str, folder: Path, seconds: float) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    begin = time.monotonic()
    batches = WAYS[way](folder)
    next(batches)
    first = time.monotonic() - begin
    images, begin = 0, time.monotonic()
    for number in batches:
        images += number
        if time.monotonic() - begin > seconds:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    status = Path("/proc/self/status").read_text()
    own = int(status.split("RssAnon:")[1].split()[0]) / 2**20
    return {
        "images a second": images / (time.monotonic() - begin),
        "first batch, s": first,
        "GiB": peak,
        "GiB of its own": own,
    }


def compare(folder: Path, ways: list[str], repeats: int, seconds: float) -> None:
    """bare is among the ways: others are measured against it."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(repeats):
        for way in ways[:: 1 if number % 2 == 0 else -1]:
            command = [sys.executable, "-m", "tests.benchmarks.loading", "one", str(folder), "--way", way]
            done = subprocess.run(
                [*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True, check=True, timeout=1800
            )
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(number, way, {name: round(value, 2) for name, value in found[way][-1].items()}, flush=True)
    for way, rows in found.items():
        ratios = [
            row["images a second"] / other["images a second"] for row, other in zip(rows, found["bare"], strict=True)
        ]
        shown = ", ".join(f"{name} {statistics.median(row[name] for row in rows):.3g}" for name in rows[0])
        print(
            f"{way:12} {shown}; against bare {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def costs(folder: Path, sizes: list[int]) -> None:
    """CPU seconds of packing and of opening packs that are there, by the number of images."""
    import shutil

    from ray_synth.data.packed import packed

    place = folder.with_name(f"{folder.name}-costs")
    for size in sizes:
        shutil.rmtree(place, ignore_errors=True)
        source, taken = source_of(folder, size), []
        for _ in range(2):
            begin = time.process_time()
            packed(source, place)
            taken.append(time.process_time() - begin)
        print(f"{size:,} images: packing {taken[0]:.2f} CPU seconds, opening {taken[1]:.2f}", flush=True)
    shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "compare", "one", "costs"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=65_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000, 65_000])
    parser.add_argument("--way", choices=list(WAYS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    if options.what == "make":
        make(options.folder, options.images)
    elif options.what == "compare":
        compare(options.folder, list(dict.fromkeys(["bare", *options.ways])), options.repeats, options.seconds)
    elif options.what == "costs":
        costs(options.folder, options.sizes)
    else:
        print(json.dumps(measured(options.way, options.folder, options.seconds)))


if __name__ == "__main__":
    main()
