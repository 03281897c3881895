"""Plans against what happened: predicted and measured wall time, and the Monte-Carlo against clusters that lose nodes.

    python -m tests.benchmarks.plan runs
    python -m tests.benchmarks.plan nodes

`runs`: a plan with a calibration, then the real thing in a new folder: the demo, a few-shot sweep in small, and 5,000
images of the demo's generator in light settings, several times in turn. The bar: the ratio of the medians of predicted
and measured within 20 %.
`nodes`: light generation (chunks of 2 s that mostly wait) on clusters of one, two and three nodes of one CPU
(ray.cluster_utils), undisturbed, and with nodes killed at random moments and replaced; what a chunk, a start and a
replacement take is measured on the cluster of one node, and the Monte-Carlo predicts the others: each run of it has the
lives of nodes that the real one has. The bar: within 15 %. A machine that does other work at the same time fails both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
# Of the clusters: 40 chunks that wait, as a driver waits for a GPU, so that three nodes have room on two cores.
CHUNKS = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 20,
    "generate.num_inference_steps": 2,
    "generate.images_per_class": 16,
    "generate.chunk_size": 4,
    "data.shots": 4,
}
CHUNK_SECONDS = 2.0
# Loaded by every Python that starts; in Ray's workers a chunk waits before it is sampled.
LIGHT_WORK = """
import os, sys, time
if any("default_worker" in word for word in sys.orig_argv):
    from ray_synth.generator import generate
    whole = generate.sample_chunk
    def waiting(*given):
        time.sleep(float(os.environ["CHUNK_SECONDS"]))
        return whole(*given)
    generate.sample_chunk = waiting
"""


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


def runs(only: str | None, rounds: int) -> None:
    """Each case planned, then done, in turn."""
    print(f"{'':34}{'predicted, s':>12}{'measured, s':>12}{'ratio':>9}")
    for name, (verb, file) in CASES.items():
        if only is not None and only not in name:
            continue
        found = [planned_and_done(name, verb, file) for _ in range(rounds)]
        predicted, measured = (statistics.median(column) for column in zip(*found, strict=True))
        print(said(f"{name}, median of {rounds}", predicted, measured, 0.2), flush=True)


def planned_and_done(name: str, verb: str, file: list[str]) -> tuple[float, float]:
    """Predicted and measured wall seconds, printed with those of each stage."""
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
        return wall["median"], measured


def by_stage(found: dict[str, Any], out: Path) -> None:
    """Where a prediction is wrong: each stage beside its record."""
    for stage in found["stages"]:
        record = out / "stages" / f"{stage['name']}.json"
        if record.exists():
            taken = json.loads(record.read_text())["seconds"]
            print(f"    {stage['name']:30}{stage['wall']['median']:12.1f}{taken:12.1f}")


class Clusters:
    """A generator that is trained once, and clusters of some nodes that sample from it."""

    def __init__(self, scratch: Path):
        self.scratch, self.trained, self.count = scratch, scratch / "trained", 0
        seconds_of([*RAY_SYNTH, "finetune", "sweeps/digits.yaml", "--out", str(self.trained), *words(CHUNKS)])
        (scratch / "light").mkdir()
        (scratch / "light" / "sitecustomize.py").write_text(LIGHT_WORK)
        paths = [f"{scratch}/light", *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # the nodes pass it on to their workers

    def run(self, lives: Sequence[Iterator[float]], replacement: float) -> tuple[list[float], list[float]]:
        """A node for each of `lives`, the seconds that it works before it is killed, again and again: its first life
        begins about with the first chunk, the others `replacement` after a death. Seconds from the command to each
        chunk and to its end; those to each kill."""
        from ray.cluster_utils import Cluster

        self.count += 1
        out = self.scratch / f"run{self.count}"
        shutil.copytree(self.trained, out)
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        head = {**node, "num_cpus": 0}  # it is never killed, and samples nothing
        cluster = Cluster(initialize_head=True, head_node_args=head)
        alive = [cluster.add_node(**node) for _ in lives]
        deaths, kills = [math.inf] * len(lives), []
        command = [*RAY_SYNTH, "generate", "sweeps/digits.yaml", "--out", str(out), *words(CHUNKS)]
        clock, start = time.time(), time.monotonic()
        driver = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            begun = False
            while driver.poll() is None:
                time.sleep(0.05)
                now = time.monotonic() - start
                if not begun and any(out.glob("synthetic/*.parquet")):
                    begun, deaths = True, [now - CHUNK_SECONDS + next(each) for each in lives]
                for i, death in enumerate(deaths):
                    if death <= now:
                        kills.append(now)
                        cluster.remove_node(alive[i], allow_graceful=False)
                        alive[i] = cluster.add_node(**node)
                        deaths[i] = now + replacement + next(lives[i])
            end = time.monotonic() - start
            if driver.returncode:
                raise SystemExit(f"the driver exited with {driver.returncode}")
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGTERM)
                driver.wait()
            cluster.shutdown()
        files = sorted(file.stat().st_mtime - clock for file in out.glob("synthetic/*.parquet"))
        return [*files, end], kills


def drawn(nodes: int, mean: float | None, seed: int) -> list[Iterator[float]]:
    """The lives of each node; endless ones without a mean."""

    def lives(chance: random.Random) -> Iterator[float]:
        while True:
            yield chance.expovariate(1 / mean) if mean else math.inf

    return [lives(random.Random(f"{seed} {i}")) for i in range(nodes)]


def nodes(kill_every: float, seeds: int) -> None:
    """Two runs on one node give the rates, the second with a kill in its middle; the Monte-Carlo gives the rest."""
    from ray_synth.planning.simulate import Pool, exact

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["CHUNK_SECONDS"] = str(CHUNK_SECONDS)
    with tempfile.TemporaryDirectory() as scratch:
        clusters = Clusters(Path(scratch))
        (*files, end), _ = clusters.run(drawn(1, None, 0), 0.0)
        gaps = np.diff(files)
        chunk, jitter = float(gaps.mean()), float(np.std(np.log(np.maximum(gaps, 1e-3))))
        start, ending = files[0] - chunk, end - files[-1]
        (*files, _), (kill,) = clusters.run([iter([len(files) * chunk / 2, math.inf])], 0.0)
        replacement = next(time for time in files if time > kill) - chunk - kill
        print(
            f"one node: {len(files)} chunks of {chunk:.2f} s (jitter {jitter:.2f}), begun after {start:.1f} s; "
            f"{replacement:.1f} s from a kill to the next chunk's beginning; {ending:.1f} s "
            "from the last chunk to the end"
        )
        print(f"{'':34}{'predicted, s':>12}{'measured, s':>12}{'ratio':>9}", flush=True)
        for count in (1, 2, 3):
            pool = Pool(
                chunks=len(files),
                seconds=chunk,
                nodes=count,
                node_start=start,
                jitter=min(jitter, 0.5),
                replacement=replacement,
            )
            for mean, repetitions in ((None, 1), (kill_every * count, seeds)):
                predicted, measured, kills = [], [], 0
                for seed in range(repetitions):
                    wall, _, _ = exact(pool, np.random.default_rng(seed), lives=drawn(count, mean, seed))
                    predicted.append(wall + ending)
                    taken, killed = clusters.run(drawn(count, mean, seed), replacement)
                    measured.append(taken[-1])
                    kills += len(killed)
                name = f"{count} node(s)" + (f", {kills} kills in {len(measured)} runs" if mean else "")
                pairs = zip(predicted, measured, strict=True)
                each = "   " + ", ".join(f"{a:.0f}/{b:.0f}" for a, b in pairs) if mean else ""
                print(said(name, statistics.mean(predicted), statistics.mean(measured), 0.15, each), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["runs", "nodes"])
    parser.add_argument("--case", help="of runs: only cases whose name holds this")
    parser.add_argument("--rounds", type=int, default=3, help="of runs: plans and runs of each case")
    parser.add_argument(
        "--every", type=float, default=25.0, help="of nodes: mean seconds between kills, over all nodes"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of nodes: runs with kills")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    if options.what == "runs":
        runs(options.case, options.rounds)
    else:
        nodes(options.every, options.seeds)


if __name__ == "__main__":
    main()
