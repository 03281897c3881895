"""Throughput of generation, paired: two of our actors against two bare diffusers loops.

    python -m tests.benchmarks.generation

Same tiny Stable Diffusion, batch, steps, scheduler and threads (one each); rounds alternate in one run, because
machines are noisy. A bare loop calls the pipeline and keeps nothing; our actors also check, encode and write. Steady
state is from when both have made their first batches to when the first has none left; the time to the first image
stands apart, and so does what a bare loop takes to encode its images as PNG, which ours include.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

BATCH, STEPS, GUIDANCE = 8, 10, 2.0
WORKERS = 2


def bare_loop(model: str, images: int, first_seed: int, encode: bool, done: str) -> None:
    """One plain loop as anybody would write it; notes the time of every batch."""
    from ray_synth.torch_ops import import_torchvision

    import_torchvision()
    import torch
    from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
    from diffusers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, requires_safety_checker=False)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    times = []
    for start in range(0, images, BATCH):
        made = pipe(
            ["a photo of a cat"] * BATCH,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(first_seed + start + i) for i in range(BATCH)],
        ).images
        if encode:
            for image in made:
                image.save(io.BytesIO(), format="PNG")
        times.append(time.time())
    Path(done).write_text("\n".join(map(repr, times)))


def bare(model: Path, images: int, encode: bool) -> tuple[float, float]:
    """(images/s in steady state, seconds to the first batch) of two loops at once."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        spawn = multiprocessing.get_context("spawn")
        files = [f"{folder}/{worker}" for worker in range(WORKERS)]
        each = images // WORKERS
        processes = [
            spawn.Process(target=bare_loop, args=(str(model), each, worker * each, encode, file))
            for worker, file in enumerate(files)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        times = [[float(line) for line in Path(file).read_text().splitlines()] for file in files]
    return rate([(t, BATCH) for worker in times for t in worker]), min(min(t) for t in times) - start


def ours(model: Path, images: int, chunk: int) -> tuple[float, float]:
    """The same of `ray-synth generate`, by the times of its files."""
    with tempfile.TemporaryDirectory() as folder:
        generator = f"{{kind: stable_diffusion, model: {model}, prompt: a photo of a cat}}"
        settings = {
            "generator": generator,
            "generate.images_per_class": images // 10,
            "generate.chunk_size": chunk,
            "generate.batch_size": BATCH,
            "generate.num_inference_steps": STEPS,
            "generate.guidance_scale": GUIDANCE,
            "generate.num_actors": WORKERS,
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        start = time.time()
        subprocess.run(
            [sys.executable, "-m", "ray_synth.cli", "generate", "sweeps/digits.yaml", "--out", f"{folder}/run", *words],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        files = list(Path(folder).glob("run/synthetic/*.parquet"))
        made = [(file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in files]
    assert sum(count for _, count in made) == images // 10 * 10
    return rate(made), min(t for t, _ in made) - start


def rate(made: list[tuple[float, int]]) -> float:
    """Images per second between a tenth and nine tenths of the pieces of work."""
    made = sorted(made)
    first, last = len(made) // 10, len(made) * 9 // 10
    return sum(count for _, count in made[first + 1 : last + 1]) / (made[last][0] - made[first][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--chunk", type=int, default=16)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from ray_synth.torch_ops import import_torchvision

    import_torchvision()
    from ray_synth.generator.tiny import tiny_pipeline

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_pipeline(Path(folder) / "model", channels=32, sample_size=16)
        rows = []
        for number in range(arguments.rounds):
            plain, first_plain = bare(model, arguments.images, encode=False)
            mine, first_mine = ours(model, arguments.images, arguments.chunk)
            encoding, _ = bare(model, arguments.images, encode=True)
            rows.append((mine / plain, mine / encoding))
            print(
                f"round {number}: bare {plain:.2f} images/s, bare with PNG {encoding:.2f}, ours {mine:.2f}; "
                f"ratio {mine / plain:.3f}; first image after {first_plain:.1f} s bare, {first_mine:.1f} s ours",
                flush=True,
            )
    to_plain, to_encoding = zip(*rows, strict=True)
    print(
        f"ours / bare: median {statistics.median(to_plain):.3f} (from {min(to_plain):.3f}), bar 0.95\n"
        f"ours / bare with PNG: median {statistics.median(to_encoding):.3f}"
    )


if __name__ == "__main__":
    main()
