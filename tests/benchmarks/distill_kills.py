"""A distillation that is killed at random, and the images and figures of one that nobody disturbed.

    python -m tests.benchmarks.distill_kills [--kills 10]

Every few seconds, while something is at work, an actor or the driver is killed (SIGKILL), and the driver begun again by
the same command. In the end images and results must be those of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from ray_synth.config.yaml import as_yaml

EXPERIMENT = {
    "name": "kills",
    "data": {"kind": "digits", "generator_split": "shared"},
    "distill": {
        "images_per_class": 4,
        "compare": ["sre2l", "random", "herding", "k_center"],
        "teacher": {"model": "resnet8", "epochs": 6, "evaluations": 6},
        "recover": {"iterations": 300, "batch_size": 8},
        "posttrain": {"models": ["resnet8"], "epochs": 20, "repeats": 1},
    },
}


def command(file: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "ray_synth.cli", "distill", str(file), "--out", str(out)]


def digests(out: Path) -> dict[str, str]:
    found = [*out.glob("distilled/images/*"), *out.glob("distilled/classes/*"), *out.glob("distilled/*.safetensors")]
    found += [*out.glob("distilled/students/*.json"), out / "metrics" / "distillation.json"]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(found)}


def actors(driver: int) -> list[psutil.Process]:
    """Of the Ray that this driver started."""
    try:
        below = psutil.Process(driver).children(recursive=True)
        return [p for p in below if "MapWorker" in " ".join(p.cmdline())]
    except psutil.NoSuchProcess:
        return []


class Run:
    """One run folder and the driver that works on it."""

    def __init__(self, file: Path, out: Path):
        self.file, self.out = file, out
        self.log = (out.parent / "driver.log").open("ab")
        self.start()

    def start(self) -> None:
        self.driver = subprocess.Popen(
            command(self.file, self.out), stdout=self.log, stderr=self.log, start_new_session=True
        )

    def kill_driver(self) -> None:
        """And what it started: a Ray that lost its driver goes by itself, and not at once."""
        started = psutil.Process(self.driver.pid).children(recursive=True)
        os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        for process in started:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.start()


def disturbed(run: Run, kills: int, rng: random.Random) -> Counter[str]:
    counts, pause = Counter[str](), rng.uniform(1, 8)
    while run.driver.poll() is None:
        time.sleep(0.1)
        victims = actors(run.driver.pid)
        if not victims or counts.total() >= kills:
            continue
        pause -= 0.1
        if pause > 0:
            continue
        if rng.random() < 0.5:
            rng.choice(victims).kill()
            counts["actor"] += 1
        else:
            run.kill_driver()
            counts["driver"] += 1
        pause = rng.uniform(1, 8)
    assert run.driver.returncode == 0, f"the driver ended with {run.driver.returncode}; see {run.log.name}"
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    rng, counts, runs = random.Random(a.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="ray_synth-kills-") as scratch:
        file = Path(scratch) / "kills.yaml"
        file.write_text(as_yaml(EXPERIMENT))
        begin = time.monotonic()
        whole = Path(scratch) / "whole"
        subprocess.run(command(file, whole), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expected = digests(whole)
        print(f"undisturbed: {len(expected)} files in {time.monotonic() - begin:.0f} s", flush=True)
        while counts.total() < a.kills:
            out = Path(scratch) / f"run-{runs}" / "out"
            out.parent.mkdir()
            counts += disturbed(Run(file, out), a.kills - counts.total(), rng)
            found, runs = digests(out), runs + 1
            wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
            assert not wrong, f"{len(wrong)} files differ, such as {wrong[0]}"
            print(f"run {runs}: {dict(counts)} so far; every file as in the undisturbed run", flush=True)
    print(f"{counts.total()} kills in {runs} run(s): {dict(counts)}; images and results byte for byte the same")


if __name__ == "__main__":
    main()
