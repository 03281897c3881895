"""Numbers of photographs in, seconds and peak memory of their estimate out, beside bare decoding of the same files.

    python -m tests.benchmarks.photographs --folder DIR [--number 3000]

It makes JPEGs of 4000x3000, half of them in DIR/real and half in DIR/synthetic, where they are not there yet: windows
at random places of a few large pictures (noise of falling power around a colour of the class), so that no two have the
same pixels. 3,000 take 4.4 GiB. Bare decoding is Pillow's draft mode at 256x192 in as many threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ray_synth.data.decoding import THREADS

WIDTH, HEIGHT, MARGIN = 4000, 3000, 400
CLASSES, PICTURES = 10, 4
QUALITY = 85
MOST_SECONDS, MOST_GIB = 90.0, 1.5  # beyond bare decoding; in all


def picture(label: int, number: int) -> np.ndarray:
    """uint8 [HEIGHT + MARGIN, WIDTH + MARGIN, 3] of a class."""
    rng = np.random.default_rng([label, number])
    height, width = HEIGHT + MARGIN, WIDTH + MARGIN
    total = np.zeros((height, width, 3), dtype=np.float32)
    for side in (8, 32, 128, 512, 2048):  # octaves: amplitude falls as 1/frequency
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        grown = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        total += (grown - 128) * (8 / side) ** 0.5
    colour = np.random.default_rng(label).uniform(70, 186, 3).astype(np.float32)
    return np.asarray(np.clip(total * 0.7 + colour, 0, 255).astype(np.uint8))


def make(folder: Path, number: int) -> None:
    """Half of the files in `real`, half in `synthetic`; those that are there stay."""
    each = number // (2 * CLASSES)
    wanted = [
        (label, side, row, folder / side / f"class-{label}" / f"{row:05d}.jpg")
        for label in range(CLASSES)
        for side in ("real", "synthetic")
        for row in range(each)
    ]
    for label in range(CLASSES):
        missing = [one for one in wanted if one[0] == label and not one[3].exists()]
        if not missing:
            continue
        pictures = [picture(label, each) for each in range(PICTURES)]

        def write(one: tuple[int, str, int, Path], pictures: list[np.ndarray] = pictures) -> None:
            label, side, row, file = one
            rng = np.random.default_rng([label, len(side), row])
            top, left = rng.integers(0, MARGIN, 2)
            window = pictures[row % PICTURES][top : top + HEIGHT, left : left + WIDTH]
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_suffix(".part")
            shifted = Image.fromarray(np.roll(window, int(rng.integers(WIDTH)), axis=1))
            shifted.save(aside, "JPEG", quality=QUALITY)
            aside.rename(file)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write, missing))


def decode(folder: Path) -> None:
    """Nothing but draft decoding of all files."""

    def one(file: Path) -> None:
        with Image.open(file) as image:
            image.draft(None, (256, 192))
            image.load()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, sorted(folder.rglob("*.jpg"))))


def estimate(folder: Path) -> None:
    from ray_synth.folders import estimate_folders

    found = estimate_folders(folder / "real", folder / "synthetic")
    for note in found.notes:
        print(f"    note: {note}")
    print(f"    ratio {found.estimate.ratio:g}, {found.estimate.verdict}")


def peak_gib() -> float:
    """Of this process (Linux). `ru_maxrss` would remember that of the process that started it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def measure(step: str, folder: Path) -> None:
    begin, cpu = time.perf_counter(), time.process_time()
    {"decode": decode, "estimate": estimate}[step](folder)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(f"{wall:.1f} {cpu:.1f} {peak_gib():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the photographs are made, and kept")
    parser.add_argument("--number", type=int, default=3000)
    parser.add_argument("--one", choices=("decode", "estimate"), help="this step alone, in this process")
    options = parser.parse_args()
    if options.one:
        measure(options.one, options.folder)
        return
    make(options.folder, options.number)
    files = list(options.folder.rglob("*.jpg"))
    size = sum(file.stat().st_size for file in files) / 2**30
    print(f"{os.cpu_count()} CPUs; {len(files):,} photographs of {WIDTH}x{HEIGHT}, {size:.1f} GiB", flush=True)
    found = {}
    for step in ("decode", "estimate"):
        command = [sys.executable, "-m", "tests.benchmarks.photographs", "--folder", str(options.folder), "--one", step]
        *said, last = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        print("\n".join(said) + ("\n" if said else ""), end="")
        wall, cpu, peak = found[step] = [float(word) for word in last.split()]
        print(f"{step:10} {wall:6.1f} s ({cpu:6.1f} s of CPU), peak {peak:.2f} GiB", flush=True)
    beyond, peak = found["estimate"][0] - found["decode"][0], found["estimate"][2]
    for name, value, most in (("seconds beyond decoding", beyond, MOST_SECONDS), ("peak GiB", peak, MOST_GIB)):
        print(f"{name}: {value:.2f}, at most {most:g}: {'met' if value <= most else 'NOT MET'}")


if __name__ == "__main__":
    main()
