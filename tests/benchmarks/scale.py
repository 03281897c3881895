"""Many images: what the driver holds in memory while 100,000 large ones pass, and how long 13 million take to plan.

    python -m tests.benchmarks.scale pass
    python -m tests.benchmarks.scale resume

`pass`: 100,000 flat JPEG images of 512x512 go through the generator of images that exist (as light as a sampler can
be), with the driver's peak memory and whether Ray's object store spilled. `resume`: a run of 13 million images in 1,000
classes of which 99 % are there (files of the right names; planning reads no more of them); the time from the command to
the first new chunk, and the driver's peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def command(out: Path, settings: dict[str, object]) -> list[str]:
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return [sys.executable, "-m", "ray_synth.cli", "generate", "sweeps/digits.yaml", "--out", str(out), *words]


def write_classes(folder: Path, classes: int, each: int, side: int) -> None:
    """Small random images, for a real side that the experiment asks for."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        place = folder / f"class{label:04d}"
        place.mkdir(parents=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(place / f"{i}.png")


def peak_bytes(pid: int) -> int:
    """The most that a process ever had in memory (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def spilled() -> int:
    """Files that Ray's object store put on disk, in the session that began last."""
    sessions = sorted(Path("/tmp/ray").glob("session_2*"), key=lambda p: p.stat().st_mtime)  # noqa: S108
    return len(list(sessions[-1].glob("ray_spilled_objects*/*"))) if sessions else 0


def pass_through(folder: Path, images: int) -> None:
    classes = 10
    write_classes(folder / "real", classes, 12, 16)
    flat = folder / "flat"
    flat.mkdir()
    for label in range(classes):
        Image.new("RGB", (512, 512), (20 * label, 255 - 20 * label, 128)).save(flat / f"{label}.jpg", quality=80)
        place = folder / "images" / f"class{label:04d}"
        place.mkdir(parents=True)
        for i in range(images // classes):
            os.link(flat / f"{label}.jpg", place / f"{i:06d}.jpg")
    settings = {
        "data.kind": "folder",
        "data.path": str(folder / "real"),
        "data.shots": 2,
        "generator": {"kind": "folder", "path": str(folder / "images")},
        "generate": {"images_per_class": images // classes, "format": "jpeg", "filter": {"blank": False}},
    }
    start, peak, most_spilled = time.monotonic(), 0, 0
    with subprocess.Popen(command(folder / "run", settings), cwd=ROOT) as driver:
        while driver.poll() is None:
            peak = max(peak, peak_bytes(driver.pid))
            most_spilled = max(most_spilled, spilled())
            time.sleep(0.5)
    assert driver.returncode == 0
    disk = sum(file.stat().st_size for file in (folder / "run").rglob("*") if file.is_file())
    seconds = time.monotonic() - start
    print(
        f"{images:,} images of 512x512 in {seconds:.0f} s ({images / seconds:.0f} a second); driver at most "
        f"{peak / 2**30:.2f} GiB (bar 1); {most_spilled} files spilled (bar 0); {disk / 1e9:.2f} GB on disk"
    )


def resume(folder: Path, images: int) -> None:
    from ray_synth.config import load_experiment
    from ray_synth.pipeline import Run
    from ray_synth.progress import Reporter
    from ray_synth.runs import RunFolder
    from ray_synth.sampling.chunks import work_left
    from ray_synth.stages import Generate

    classes = 1000
    write_classes(folder / "real", classes, 8, 8)
    settings: dict[str, object] = {
        "data.kind": "folder",
        "data.path": str(folder / "real"),
        "data.shots": 1,
        "generator.block_out_channels": [8, 16],
        "generator.steps": 1,
        "generate.images_per_class": images // classes,
        "generate.num_inference_steps": 1,
        "generate.chunk_size": 80,
    }
    out = folder / "run"
    subprocess.run([*command(out, settings)[:3], "finetune", *command(out, settings)[4:]], cwd=ROOT, check=True)
    plan = Run(load_experiment(ROOT / "sweeps/digits.yaml", settings), RunFolder(out), Reporter()).of(Generate).images
    (out / "synthetic").mkdir()
    missing = work_left([], plan).missing
    there = [chunk for i, chunk in enumerate(missing) if i % 100]
    for chunk in there:
        (out / "synthetic" / chunk.name).touch()
    left = images - sum(map(len, there))
    print(f"{len(there):,} of {len(missing):,} chunks are there; {left:,} of {images:,} images to make", flush=True)
    start, peak, first = time.monotonic(), 0, 0.0
    with subprocess.Popen(command(out, settings), cwd=ROOT, start_new_session=True) as driver:
        process = psutil.Process(driver.pid)
        while driver.poll() is None and not first and time.monotonic() - start < 300:
            peak = max(peak, peak_bytes(driver.pid))
            with os.scandir(out / "synthetic") as entries:
                if sum(1 for _ in entries) > len(there):
                    first = time.monotonic() - start
            time.sleep(0.5)
        for _ in range(20):  # under way
            peak = max(peak, peak_bytes(driver.pid))
            time.sleep(0.5)
        family = process.children(recursive=True)
        os.killpg(driver.pid, signal.SIGINT)
        driver.wait()
        for one in family:
            if one.is_running():
                one.kill()
    print(
        f"from the command to the first new chunk {first:.0f} s (bar 60 for planning and resuming); driver at most "
        f"{peak / 2**30:.2f} GiB (bar 2)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pass", "resume"])
    parser.add_argument("--images", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "pass":
            pass_through(Path(folder), arguments.images or 100_000)
        else:
            resume(Path(folder), arguments.images or 13_000_000)


if __name__ == "__main__":
    main()
