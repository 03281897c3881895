"""Sizes in, seconds and peak memory of one estimate out, each size in a process of its own.

    python -m tests.benchmarks.estimate

Images are noise with a class pattern: the cost depends on their number and size, not on what they show. Start-up is the
import of the package, apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

import numpy as np

SIZES = (  # real images, synthetic images, side, channels
    (20, 400, 28, 1),
    (100, 400, 8, 1),
    (100, 400, 28, 1),
    (500, 2000, 28, 1),
    (500, 2000, 32, 3),
    (2000, 8000, 28, 1),
    (2000, 8000, 32, 3),
    (10_000, 10_000, 32, 3),
)
CLASSES = 10


def images(rng: np.random.Generator, number: int, side: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, CLASSES, number)
    patterns = np.random.default_rng(0).integers(60, 196, (CLASSES, side, side, channels))
    made = np.empty((number, side, side, channels), dtype=np.uint8)
    for start in range(0, number, 500):  # a float copy of all would count as the estimate's memory
        rows = labels[start : start + 500]
        made[start : start + 500] = np.clip(
            patterns[rows] + rng.normal(0, 120, (len(rows), side, side, channels)), 0, 255
        )
    return made, labels


def measure(num_real: int, num_synthetic: int, side: int, channels: int) -> None:
    start = time.perf_counter()
    from ray_synth.estimate import estimate_ratio

    imported = time.perf_counter() - start
    rng = np.random.default_rng(1)
    real, synthetic = images(rng, num_real, side, channels), images(rng, num_synthetic, side, channels)
    wall, cpu = time.perf_counter(), time.process_time()
    estimate_ratio(*real, *synthetic)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{num_real:>7,} real {num_synthetic:>7,} synthetic {side}x{side}x{channels}: "
        f"{wall:5.1f} s ({cpu:5.1f} s of CPU), peak {peak:.2f} GiB, import {imported:.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=4, type=int, help="num_real num_synthetic side channels")
    options = parser.parse_args()
    if options.one:
        measure(*options.one)
        return
    print(f"{os.cpu_count()} CPUs")
    for size in SIZES:
        command = [sys.executable, "-m", "tests.benchmarks.estimate", "--one", *map(str, size)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
