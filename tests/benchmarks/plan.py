"""Plans against what happened: predicted and measured wall time, and the Monte-Carlo against clusters that lose nodes.

    python -m tests.benchmarks.plan runs
    python -m tests.benchmarks.plan nodes

`runs`: a plan with a calibration, then the real thing in a new folder: the demo, a few-shot sweep in small, and 5,000
images of the demo's generator in light settings, several times in turn. The bar: the ratio of the medians of predicted
and measured within 20 %.
`nodes`: light generation (chunks of 2 s that mostly wait) on clusters of one, two and three nodes of one CPU
(ray.cluster_utils), undisturbed, and with nodes killed at random moments and replaced. What a chunk and a replacement
take is measured on the cluster of one node. When each worker begins is measured by a short run on each cluster, as a
calibration on a cluster has it: here all nodes start on the same cores. The Monte-Carlo predicts the rest, each run of
it with the lives of nodes that the real one has. The bar: within 15 %. A machine that does other work at the same time
fails both.
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
from dataclasses import dataclass
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
# Of the clusters: 60 chunks that wait, as a driver waits for a GPU, so that three nodes have room on two cores.
CHUNKS = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 20,
    "generate.num_inference_steps": 2,
    "generate.images_per_class": 24,
    "generate.chunk_size": 4,
    "data.shots": 4,
}
SHORT = {"generate.images_per_class": 8}  # 20 chunks: enough to show when each worker begins
CHUNK_SECONDS = 2.0
# Loaded by every Python that starts; in Ray's workers a chunk is noted, and waits, before it is sampled.
LIGHT_WORK = """
import os, sys, time
if any("default_worker" in word for word in sys.orig_argv):
    from ray_synth.sampling import generate
    whole = generate.sample_chunk
    def waiting(*given):
        log = os.open(os.environ["CHUNKS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{os.getpid()} {time.time()}\\n".encode())
        os.close(log)
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


@dataclass(frozen=True, kw_only=True)
class Lived:
    """What happened on a cluster, in seconds from the command: when each worker began its first chunk, each chunk's
    file was there, nodes were killed, and the command ended."""

    begun: list[float]
    files: list[float]
    kills: list[float]
    end: float


class Clusters:
    """A generator that is trained once, and clusters of some nodes that sample from it."""

    def __init__(self, scratch: Path):
        self.scratch, self.trained, self.count = scratch, scratch / "trained", 0
        seconds_of([*RAY_SYNTH, "finetune", "sweeps/digits.yaml", "--out", str(self.trained), *words(CHUNKS)])
        (scratch / "light").mkdir()
        (scratch / "light" / "sitecustomize.py").write_text(LIGHT_WORK)
        paths = [f"{scratch}/light", *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # the nodes pass it on to their workers

    def run(self, lives: Sequence[Iterator[float]], replacement: float = 0.0, **settings: int) -> Lived:
        """A node for each of `lives`, the seconds that it works before it is killed, again and again: its first life
        begins with the first chunk, the others `replacement` after a death."""
        from ray.cluster_utils import Cluster

        self.count += 1
        out, log = self.scratch / f"run{self.count}", self.scratch / f"chunks{self.count}.log"
        os.environ["CHUNKS_LOG"] = str(log)
        shutil.copytree(self.trained, out)
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        head = {**node, "num_cpus": 0}  # it is never killed, and samples nothing
        cluster = Cluster(initialize_head=True, head_node_args=head)
        alive = [cluster.add_node(**node) for _ in lives]
        deaths, kills = [math.inf] * len(lives), []
        command = [*RAY_SYNTH, "generate", "sweeps/digits.yaml", "--out", str(out), *words(CHUNKS | settings)]
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
                if not begun and log.exists():
                    begun, deaths = True, [now + next(each) for each in lives]
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
        first: dict[str, float] = {}
        for line in log.read_text().splitlines():
            worker, at = line.split()
            first.setdefault(worker, float(at) - clock)
        files = sorted(file.stat().st_mtime - clock for file in out.glob("synthetic/*.parquet"))
        return Lived(begun=sorted(first.values()), files=files, kills=kills, end=end)


def drawn(nodes: int, mean: float | None, seed: int) -> list[Iterator[float]]:
    """The lives of each node; endless ones without a mean. None is so short that whether one more chunk is done before
    the next death, which one run cannot tell, makes half of the wall time."""

    def lives(chance: random.Random) -> Iterator[float]:
        while True:
            yield chance.uniform(0.4, 1.6) * mean if mean else math.inf

    return [lives(random.Random(f"{seed} {i}")) for i in range(nodes)]


def nodes(counts: Sequence[int], life: float, seeds: int) -> None:
    """Short runs say when workers begin, two on one node, the second with a kill, the other rates; the Monte-Carlo
    predicts the rest."""
    from ray_synth.planning.simulate import Pool, exact
    from ray_synth.sampling.generate import IN_FLIGHT

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["CHUNK_SECONDS"] = str(CHUNK_SECONDS)
    with tempfile.TemporaryDirectory() as scratch:
        clusters = Clusters(Path(scratch))
        alone = clusters.run(drawn(1, None, 0))
        gaps = np.diff(alone.files)
        chunk, jitter = float(gaps.mean()), float(np.std(np.log(np.maximum(gaps, 1e-3))))
        chunks, ending = len(alone.files), alone.end - alone.files[-1]
        disturbed = clusters.run([iter([chunks * chunk / 2, math.inf])])
        (kill,) = disturbed.kills
        replacement = disturbed.begun[1] - kill
        print(
            f"one node: {chunks} chunks of {chunk:.2f} s (jitter {jitter:.2f}); {replacement:.1f} s from a kill to the "
            f"next chunk's beginning; {ending:.1f} s from the last chunk to the end"
        )
        print(f"{'':34}{'predicted, s':>12}{'measured, s':>12}{'ratio':>9}", flush=True)
        for count in counts:
            begun = clusters.run(drawn(count, None, 0), **SHORT).begun
            print(f"{count} node(s): workers begin after {', '.join(f'{each:.1f}' for each in begun)} s", flush=True)
            free = np.array(begun[:count])
            pool = Pool(
                chunks=chunks,
                seconds=chunk,
                nodes=count,
                in_flight=IN_FLIGHT,
                node_start=float(free.min()),
                jitter=min(jitter, 0.5),
                replacement=replacement,
            )
            for mean, repetitions in ((None, 1), (life, seeds)):
                predicted, measured, kills = [], [], 0
                for seed in range(repetitions):
                    rng, lives = np.random.default_rng(seed), drawn(count, mean, seed)
                    wall, _, _ = exact(pool, rng, free, lives)
                    predicted.append(wall + ending)
                    lived = clusters.run(drawn(count, mean, seed), replacement)
                    measured.append(lived.end)
                    kills += len(lived.kills)
                name = f"{count} node(s)" + (f", {kills} kills in {len(measured)} runs" if mean else "")
                pairs = zip(predicted, measured, strict=True)
                each = "   " + ", ".join(f"{a:.0f}/{b:.0f}" for a, b in pairs) if mean else ""
                print(said(name, statistics.mean(predicted), statistics.mean(measured), 0.15, each), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["runs", "nodes"])
    parser.add_argument("--case", help="of runs: only cases whose name holds this")
    parser.add_argument("--rounds", type=int, default=3, help="of runs: plans and runs of each case")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 3], help="of nodes: how many")
    parser.add_argument("--life", type=float, default=45.0, help="of nodes: mean seconds that one lives")
    parser.add_argument("--seeds", type=int, default=3, help="of nodes: runs with kills")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    if options.what == "runs":
        runs(options.case, options.rounds)
    else:
        nodes(options.counts, options.life, options.seeds)


if __name__ == "__main__":
    main()
