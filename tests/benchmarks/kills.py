"""Nothing lost, nothing twice: random SIGKILLs while chunks are written, and the result beside an undisturbed run.

    python -m tests.benchmarks.kills

Two drivers generate into one folder, on a cluster of three nodes (ray.cluster_utils), with a light sampler. Every few
seconds something that is at work is killed: a sampling actor, a whole node (and another joins), or a driver (and it is
started again). At the end the chunks must be those of a run that nobody disturbed, byte for byte, each key once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

SETTINGS = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 20,
    "generate.num_inference_steps": 40,
    "generate.chunk_size": 20,
    "data.shots": 4,
}


def command(out: Path, images_per_class: int) -> list[str]:
    settings = {**SETTINGS, "generate.images_per_class": images_per_class}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return [sys.executable, "-m", "ray_synth.cli", "generate", "sweeps/digits.yaml", "--out", str(out), *words]


def chunk_digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("synthetic/*.parquet"))}


class Arena:
    """A cluster, its drivers, and what was done to them."""

    def __init__(self, out: Path, images_per_class: int, seed: int):
        from ray.cluster_utils import Cluster

        self.out, self.images_per_class = out, images_per_class
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **self.node()})
        self.nodes = [self.cluster.add_node(num_cpus=1, **self.node()) for _ in range(2)]
        self.environment = {**os.environ, "RAY_ADDRESS": self.cluster.address}
        self.drivers: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def node() -> dict[str, Any]:
        return {"object_store_memory": 80 * 2**20}

    def start_driver(self) -> None:
        with (self.out.parent / "drivers.log").open("ab") as log:
            self.drivers.append(
                subprocess.Popen(
                    command(self.out, self.images_per_class),
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def samplers(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or [])]

    def kill_something(self) -> bool:
        """True where something that was at work is dead now."""
        what = self.random.choices(["actor", "driver", "node"], weights=[6, 2, 2])[0]
        if what == "actor":
            victims = self.samplers()
            if not victims:
                return False
            self.random.choice(victims).kill()
        elif what == "driver":
            running = [driver for driver in self.drivers if driver.poll() is None]
            if not running:
                return False
            victim = self.random.choice(running)
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait()
            self.drivers.remove(victim)
            self.start_driver()
            self.counts["drivers started again"] += 1
        else:
            node = self.nodes.pop(self.random.randrange(len(self.nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1, **self.node()))
            self.counts["nodes started again"] += 1
        self.counts[f"killed {what}"] += 1
        return True

    def finished(self) -> bool:
        for driver in list(self.drivers):
            code = driver.poll()
            if code == 0:
                return True
            if code is not None:  # it lost its node or its cluster while something else was killed
                self.drivers.remove(driver)
                self.counts["drivers that gave up"] += 1
                self.start_driver()
                self.counts["drivers started again"] += 1
        return False

    def close(self) -> None:
        for driver in self.drivers:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGTERM)
                driver.wait()
        self.cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--every", type=float, default=4.0, help="mean seconds between kills, at work")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    per_class = arguments.images // 10
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "witness").mkdir()
        (Path(folder) / "witness" / "sitecustomize.py").write_text(WITNESS)
        os.environ["PYTHONPATH"] = f"{folder}/witness"
        os.environ["SAMPLED_LOG"] = f"{folder}/sampled.log"
        quiet = Path(folder) / "quiet"
        start = time.monotonic()
        subprocess.run(command(quiet, per_class), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expected = chunk_digests(quiet)
        print(f"undisturbed: {len(expected)} chunks in {time.monotonic() - start:.0f} s", flush=True)
        total: Counter[str] = Counter()
        run, number = 0, 0
        while number < arguments.kills:
            out = Path(folder) / f"run{run}" / "out"
            out.parent.mkdir()
            killed, counts = one_run(out, quiet, per_class, arguments, number, expected)
            number += killed
            total += counts
            run += 1
        print(f"{run} run(s) of {arguments.images:,} images, two drivers each, three nodes: {number} kills")
        print(", ".join(f"{name} {count}" for name, count in sorted(total.items())))
        print("every run: each key once, every chunk byte for byte as in the undisturbed run")


def one_run(
    out: Path, quiet: Path, per_class: int, arguments: argparse.Namespace, before: int, expected: dict[str, str]
) -> tuple[int, Counter[str]]:
    """One run under fire, compared with the undisturbed one; (kills, counts)."""
    import shutil

    shutil.copytree(quiet, out)  # the generator is the same; its images are made anew
    shutil.rmtree(out / "synthetic")
    (out / "stages" / "generate.json").unlink()
    already = sampled(Path(os.environ["SAMPLED_LOG"]))
    arena = Arena(out, per_class, arguments.seed + before)
    start, killed = time.monotonic(), 0
    try:
        arena.start_driver()
        arena.start_driver()
        pause = 0.0
        while not arena.finished():
            time.sleep(0.25)
            pause -= 0.25
            there = len(list(out.glob("synthetic/*.parquet")))
            at_work = arena.samplers() and 0 < there < len(expected)
            if at_work and pause <= 0 and before + killed < arguments.kills:
                killed += arena.kill_something()
                pause = arena.random.expovariate(1 / arguments.every)
    finally:
        arena.close()
    found = chunk_digests(out)
    assert found == expected, f"{len(found)} chunks, {sum(found.get(k) != v for k, v in expected.items())} differ"
    keys = [key for file in out.glob("synthetic/*.parquet") for key in pq.read_table(file)["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == per_class * 10
    made = sampled(Path(os.environ["SAMPLED_LOG"])) - already
    arena.counts["images sampled"] += made
    arena.counts["images sampled again"] += made - len(keys)
    print(
        f"run: {killed} kills in {time.monotonic() - start:.0f} s; {dict(arena.counts)}; chunks as expected", flush=True
    )
    return killed, arena.counts


# Loaded by every Python that starts; in Ray's workers it notes how many images each call of a sampler takes in hand.
WITNESS = """
import os, sys
if any("default_worker" in word for word in sys.orig_argv):
    from ray_synth.sampling import batches
    whole = batches.InBatches.__call__
    def noted(self, batch):
        line = f"{len(batch['key'])}\\n".encode()
        log = os.open(os.environ["SAMPLED_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, line)
        os.close(log)
        return whole(self, batch)
    batches.InBatches.__call__ = noted
"""


def sampled(log: Path) -> int:
    return sum(int(line) for line in log.read_text().split()) if log.exists() else 0


if __name__ == "__main__":
    main()
