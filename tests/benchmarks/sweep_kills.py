"""Sweeps killed at random moments and resumed, beside one that nobody disturbed.

    python -m tests.benchmarks.sweep_kills [--sweeps 20] [--trials 10]

Each sweep runs in a copy of one run folder, on a cluster that stays up (ray.cluster_utils). After a random time its
driver is killed (SIGKILL) and started again, or one of the processes that train; twice a sweep. At the end its
table must be that of the undisturbed sweep in every column but the seconds: `sweep.num_trials` rows, no setting lost,
none twice, the same best one. The objective is deterministic: real trainings on scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

SETTINGS = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 30,
    "generate.images_per_class": 32,
    "generate.num_inference_steps": 4,
    "data.shots": 4,
    "classifier.updates": 100,
    "sweep.max_ratio": 8,
}
COLUMNS = ("trial_id", "status", "accuracy", "balanced_accuracy", "synthetic_ratio", "lambda_1", "lambda_2",
           "num_clusters", "evaluations", "origin", "error")  # fmt: skip
KILLS = 2
PATIENCE = 600  # seconds a sweep may take


def start(out: Path, trials: int, environment: dict[str, str], stage: str = "sweep") -> subprocess.Popen[bytes]:
    settings = {**SETTINGS, "sweep.num_trials": trials}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    with (out.parent / "drivers.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ray_synth.cli", stage, "sweeps/digits.yaml", "--out", str(out), *words],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def table(out: Path) -> list[tuple[str, ...]]:
    with (out / "sweep" / "trials.csv").open(newline="") as file:
        return [tuple(row[name] for name in COLUMNS) for row in csv.DictReader(file)]


def trainers() -> list[psutil.Process]:
    """The processes of this cluster that train; another sweep on the machine is left alone."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ray::ImplicitFunc" in " ".join(process.cmdline()):
                found.append(process)
    return found


def disturbed(out: Path, trials: int, environment: dict[str, str], dice: random.Random) -> Counter[str]:
    """Run a sweep to its end, with kills on the way."""
    counts: Counter[str] = Counter()
    driver = start(out, trials, environment)
    begun, left = time.monotonic(), KILLS
    ledger = out / "sweep" / "ledger.jsonl"
    while True:
        if left:
            lines = ledger.read_text().count("\n") if ledger.exists() else 0
            target = lines + dice.randint(1, 6)  # a few lines later, and a moment
            while driver.poll() is None and (ledger.read_text().count("\n") if ledger.exists() else 0) < target:
                time.sleep(0.02)
            time.sleep(dice.uniform(0, 0.8))
        else:
            driver.wait(timeout=PATIENCE)
        if driver.poll() is not None:
            if driver.returncode != 0:
                raise SystemExit(f"a driver ended with {driver.returncode}; see {out.parent}/drivers.log")
            return counts
        if time.monotonic() - begun > PATIENCE:
            raise SystemExit("a sweep hangs")
        if dice.random() < 0.5:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            driver = start(out, trials, environment)
            counts["drivers"] += 1
        else:
            victims = trainers()
            if not victims:
                continue
            dice.choice(victims).kill()
            counts["workers"] += 1
        left -= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=20)
    parser.add_argument("--trials", type=int, default=10)
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    place = Path(tempfile.mkdtemp(prefix="ray_synth-kills-"))
    node: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    total: Counter[str] = Counter()
    try:
        base = place / "base"
        if start(base, options.trials, environment, "estimate").wait() != 0:
            raise SystemExit(f"the stages before the sweep failed; see {place}/drivers.log")
        quiet = place / "quiet"
        shutil.copytree(base, quiet)
        if start(quiet, options.trials, environment).wait() != 0:
            raise SystemExit(f"the undisturbed sweep failed; see {place}/drivers.log")
        expected = table(quiet)
        same = 0
        for number in range(options.sweeps):
            out = place / f"sweep-{number}"
            shutil.copytree(base, out)
            total += disturbed(out, options.trials, environment, random.Random(number))
            found = table(out)
            same += found == expected
            settings = {row[4:8] for row in found}
            print(
                f"sweep {number + 1}: {len(found)} rows, {len(settings)} settings, "
                f"{'as undisturbed' if found == expected else 'DIFFERENT'}; killed so far: {dict(total)}",
                flush=True,
            )
            shutil.rmtree(out)
    finally:
        cluster.shutdown()
    print(f"{same} of {options.sweeps} sweeps have the undisturbed table; killed: {dict(total)}")
    if same == options.sweeps:
        shutil.rmtree(place)
    else:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
