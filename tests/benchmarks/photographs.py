"""Numbers of photographs in, seconds and peak memory of their estimate out, beside bare decoding of the same files.

    python -m tests.benchmarks.photographs --folder DIR [--number 3000]

It makes JPEGs of 4000x3000, half of them in DIR/real and half in DIR/synthetic, where they are not there yet: a few
large pictures a class (noise of falling power around a colour of the class), each rolled upwards by another number of
pixels, so that no two files show the same. That is done on the encoded rows, which stand between restart markers:
nothing is encoded twice. Bare decoding is Pillow's draft mode at 256x192 in as many threads.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ray_synth.data.decoding import THREADS

WIDTH, HEIGHT = 4000, 3000
CLASSES, PICTURES = 10, 4
QUALITY = 90
MOST_SECONDS, MOST_GIB = 90.0, 1.5  # beyond bare decoding; in all


def noise(number: int) -> np.ndarray:
    """float32 [HEIGHT,WIDTH,3] around 0: octaves whose amplitude falls with the frequency, and grain."""
    rng = np.random.default_rng(number)
    total = rng.normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)
    for side in (8, 32, 128, 512):
        octave = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        grown = np.asarray(octave.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        total += (grown - 128) * 0.7 * (8 / side) ** 0.5
    return total


def encoded(pixels: np.ndarray) -> tuple[bytes, list[bytes]]:
    """A JPEG as its head and its rows of blocks, each between two restart markers."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY, restart_marker_rows=1)
    data = out.getvalue()
    scan = data.index(b"\xff\xda")
    begin = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    return data[:begin], re.split(rb"\xff[\xd0-\xd7]", data[begin : data.rindex(b"\xff\xd9")])


def rolled(head: bytes, rows: list[bytes], by: int) -> bytes:
    """The file whose picture begins at another row of blocks."""
    moved = [*rows[by:], *rows[:by]]
    markers = [bytes([0xFF, 0xD0 + place % 8]) for place in range(len(moved) - 1)] + [b"\xff\xd9"]
    return head + b"".join(part for pair in zip(moved, markers, strict=True) for part in pair)


def make(folder: Path, number: int) -> None:
    """Half of the files in `real`, half in `synthetic`; those that are there stay."""
    each = number // (2 * CLASSES)
    if len(list(folder.rglob("*.jpg"))) >= 2 * CLASSES * each:
        return
    for picture in range(PICTURES):
        plain = noise(picture)
        for label in range(CLASSES):
            colour = np.random.default_rng(label).uniform(70, 186, 3).astype(np.float32)
            head, rows = encoded(np.clip(plain + colour, 0, 255).astype(np.uint8))
            for row in range(picture, 2 * each, PICTURES):
                file = folder / ("real", "synthetic")[row % 2] / f"class-{label}" / f"{row:05d}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(rolled(head, rows, row // PICTURES))  # 188 rows of blocks are enough for 7,500 files


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
