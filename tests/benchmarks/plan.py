"""Plans against what happened: predicted and measured wall time, and the Monte-Carlo against clusters that lose nodes.

    python -m tests.benchmarks.plan runs
    python -m tests.benchmarks.plan nodes

`runs`: a plan with a calibration, then the real thing in a new folder: the demo, a few-shot sweep in small, and 5,000
images of the demo's generator in light settings. The bar: the ratio of predicted to measured within 20 %.
`nodes`: light generation on clusters of one, two and three nodes of one CPU (ray.cluster_utils), undisturbed, and with
nodes killed at random moments and replaced; what a chunk and a start take is measured on the cluster of one node, and
the Monte-Carlo predicts the others. The bar: within 15 %. A machine that does other work at the same time fails both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RAY_SYNTH = [sys.executable, "-m", "ray_synth.cli"]
LIGHT = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 40,
    "generate.num_inference_steps": 10,
    "generate.images_per_class": 500,
}
CASES: dict[str, tuple[str, list[str]]] = {
    "the demo": ("run", ["sweeps/digits.yaml"]),
    "a smoke sweep": ("sweep", ["sweeps/few_shot/aircraft.yaml", "--smoke"]),
    "5,000 light images": ("generate", ["sweeps/digits.yaml"]),
}
# Of the clusters: chunks of some seconds, so that a kill costs something and a run takes a minute.
CHUNKS = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 20,
    "generate.num_inference_steps": 40,
    "generate.chunk_size": 40,
    "data.shots": 4,
}
REPETITIONS = 200


def words(settings: dict[str, Any]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def seconds_of(command: list[str], environment: dict[str, str] | None = None) -> float:
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}\n{done.stderr[-2000:]}")
    return time.monotonic() - start


def said(name: str, predicted: float, measured: float, bar: float, more: str = "") -> str:
    ratio = predicted / measured
    missed = "" if abs(ratio - 1) <= bar else f"   MISSED ({bar:.0%})"
    return f"{name:34}{predicted:12.1f}{measured:12.1f}{ratio:9.2f}{missed}{more}"


def runs(only: str | None) -> None:
    """Each case planned, then done."""
    print(f"{'':34}{'predicted, s':>12}{'measured, s':>12}{'ratio':>9}")
    for name, (verb, file) in CASES.items():
        if only is not None and only not in name:
            continue
        settings = words(LIGHT) if verb == "generate" else []
        with tempfile.TemporaryDirectory() as scratch:
            out = ["--out", f"{scratch}/out"]
            until = ["--until", verb] if verb != "run" else []
            planned = f"{scratch}/plan.json"
            start = time.monotonic()
            with open(planned, "w") as file_of_plan:
                command = [*RAY_SYNTH, "plan", *file, *out, *settings, *until, "--json"]
                subprocess.run(command, cwd=ROOT, check=True, stdout=file_of_plan, stderr=subprocess.DEVNULL)
            planning = time.monotonic() - start
            found = json.loads(Path(planned).read_text())
            measured = seconds_of([*RAY_SYNTH, verb, *file, *out, *settings])
            wall = found["scaling"][0]["wall"]
            inside = "inside" if wall["low"] <= measured <= wall["high"] else "outside"
            interval = f"   {inside} {wall['low']:.0f} to {wall['high']:.0f}; planned in {planning:.0f} s"
            print(said(name, wall["median"], measured, 0.2, interval), flush=True)
            by_stage(found, Path(scratch) / "out")


def by_stage(found: dict[str, Any], out: Path) -> None:
    """Where a prediction is wrong: each stage beside its record."""
    for stage in found["stages"]:
        record = out / "stages" / f"{stage['name']}.json"
        if record.exists():
            taken = json.loads(record.read_text())["seconds"]
            print(f"    {stage['name']:30}{stage['wall']['median']:12.1f}{taken:12.1f}")


class Clusters:
    """A generator that is trained once, and clusters of some nodes that sample from it."""

    def __init__(self, scratch: Path, images_per_class: int):
        self.scratch, self.settings = scratch, {**CHUNKS, "generate.images_per_class": images_per_class}
        self.trained = scratch / "trained"
        seconds_of([*RAY_SYNTH, "finetune", "sweeps/digits.yaml", "--out", str(self.trained), *words(self.settings)])
        self.count = 0

    def run(self, nodes: int, kill_every: float | None, seed: int) -> tuple[list[float], int]:
        """Seconds from the command to each chunk and to its end; how many nodes were killed."""
        import shutil

        from ray.cluster_utils import Cluster

        self.count += 1
        out = self.scratch / f"run{self.count}"
        shutil.copytree(self.trained, out)
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        head = {**node, "num_cpus": 0}  # it is never killed, and samples nothing
        cluster = Cluster(initialize_head=True, head_node_args=head)
        alive = [cluster.add_node(**node) for _ in range(nodes)]
        chance, killed = random.Random(seed), 0
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        command = [*RAY_SYNTH, "generate", "sweeps/digits.yaml", "--out", str(out), *words(self.settings)]
        clock, start = time.time(), time.monotonic()
        driver = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            pause = chance.expovariate(1 / kill_every) if kill_every else float("inf")
            last = start
            while driver.poll() is None:
                time.sleep(0.1)
                now = time.monotonic()
                if any(out.glob("synthetic/*.parquet")):  # a node that nothing is done on yet is no loss
                    pause -= now - last
                last = now
                if pause <= 0:
                    cluster.remove_node(alive.pop(chance.randrange(len(alive))), allow_graceful=False)
                    alive.append(cluster.add_node(**node))
                    killed += 1
                    pause = chance.expovariate(1 / (kill_every or 1.0))
            end = time.monotonic() - start
            if driver.returncode:
                raise SystemExit(f"the driver exited with {driver.returncode}")
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGTERM)
                driver.wait()
            cluster.shutdown()
        files = sorted(file.stat().st_mtime - clock for file in out.glob("synthetic/*.parquet"))
        return [*files, end], killed


def nodes(images_per_class: int, kill_every: float, seeds: int) -> None:
    """One node gives the rates, the Monte-Carlo the rest."""
    from ray_synth.planning.simulate import Pool, simulate

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as scratch:
        clusters = Clusters(Path(scratch), images_per_class)
        times, _ = clusters.run(1, None, 0)
        files, end = times[:-1], times[-1]
        gaps = np.diff(files)
        chunk, jitter = float(gaps.mean()), float(np.std(np.log(np.maximum(gaps, 1e-3))))
        ending = end - files[-1]
        print(f"one node: {len(files)} chunks of {chunk:.2f} s (jitter {jitter:.2f}), first after {files[0]:.1f} s")
        print(f"{'':34}{'predicted, s':>12}{'measured, s':>12}{'ratio':>9}")
        for count in (1, 2, 3):
            for every in (None, kill_every):
                pool = Pool(
                    chunks=len(files),
                    seconds=chunk,
                    nodes=count,
                    node_start=files[0] - chunk,
                    jitter=min(jitter, 0.5),
                    interruptions=1 / every / count if every else 0.0,
                    replacement=files[0] - chunk,  # a new node's actor starts as the first one did, without the driver
                )
                predicted = float(np.median(simulate(pool, REPETITIONS, np.random.default_rng(0)).wall)) + ending
                measured, kills = [], 0
                for seed in range(seeds if every else 1):
                    taken, killed = clusters.run(count, every, seed)
                    measured.append(taken[-1])
                    kills += killed
                name = f"{count} node(s)" + (f", {kills} kills in {len(measured)} runs" if every else "")
                print(said(name, predicted, statistics.mean(measured), 0.15), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["runs", "nodes"])
    parser.add_argument("--case", help="of runs: only cases whose name holds this")
    parser.add_argument("--images", type=int, default=240, help="of nodes: images per class")
    parser.add_argument("--every", type=float, default=25.0, help="of nodes: mean seconds between kills")
    parser.add_argument("--seeds", type=int, default=3, help="of nodes: runs with kills")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    if options.what == "runs":
        runs(options.case)
    else:
        nodes(options.images, options.every, options.seeds)


if __name__ == "__main__":
    main()
