"""One node and two in, how much faster two make images out, and how much of their time goes to Ray itself.

    python -m tests.benchmarks.nodes [--images 3000] [--rounds 3]

Clusters of one and of two nodes of one CPU each, and a head without any (ray.cluster_utils), make the same images in
turn, with the small pixel model. Wall time runs from the first chunk's beginning to the last chunk's end; what comes
before is the start-up. The rest of the nodes' time that no chunk was in the making is what Ray, and the waiting for the
last chunk, cost.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = {
    "generator.block_out_channels": [16, 32],
    "generator.steps": 20,
    "generate.num_inference_steps": 40,
    "generate.chunk_size": 25,
    "data.shots": 4,
}
# Loaded by every Python that starts; in Ray's workers it notes when each chunk's sampling began and ended.
WITNESS = """
import os, sys, time
if any("default_worker" in word for word in sys.orig_argv):
    from ray_synth.sampling import generate
    whole = generate.sample_chunk
    def timed(*given):
        start = time.time()
        sampled = whole(*given)
        line = f"{start} {time.time()}\\n".encode()
        log = os.open(os.environ["CHUNKS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, line)
        os.close(log)
        return sampled
    generate.sample_chunk = timed
"""


def generate(out: Path, images: int, environment: dict[str, str]) -> None:
    settings = {**SETTINGS, "generate.images_per_class": images // 10}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    subprocess.run(
        [sys.executable, "-m", "ray_synth.cli", "generate", "sweeps/digits.yaml", "--out", str(out), *words],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip


def measured(folder: Path, nodes: int, images: int) -> dict[str, float]:
    """Seconds of a generation on so many nodes: start-up, wall, and those in which a chunk was in the making."""
    from ray.cluster_utils import Cluster

    log = folder / f"chunks-{time.monotonic_ns()}.log"
    os.environ["CHUNKS_LOG"] = str(log)  # the nodes pass it on to their workers
    memory = 150 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": memory})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, object_store_memory=memory)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        out = folder / f"run-{time.monotonic_ns()}"
        generate(out, 10, environment)  # the generator's training, and what a first start costs
        log.unlink()
        begun = time.time()
        generate(out, images, environment)
    finally:
        cluster.shutdown()
    spans = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    busy = sum(end - start for start, end in spans)
    return {"start": first - begun, "wall": last - first, "busy": busy, "lost": 1 - busy / (nodes * (last - first))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ratios, lost = [], []
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "witness").mkdir()
        (Path(name) / "witness" / "sitecustomize.py").write_text(WITNESS)
        os.environ["PYTHONPATH"] = os.pathsep.join([f"{name}/witness", *filter(None, [os.environ.get("PYTHONPATH")])])
        print(f"{'nodes':>5}{'start-up':>10}{'wall':>8}{'in chunks':>11}{'lost':>8}")
        for number in range(options.rounds):
            rows = {nodes: measured(Path(name), nodes, options.images) for nodes in (1, 2)}
            for nodes, row in rows.items():
                print(f"{nodes:5}{row['start']:10.1f}{row['wall']:8.1f}{row['busy']:11.1f}{row['lost']:8.1%}")
            ratios.append(rows[1]["wall"] / rows[2]["wall"])
            lost.append(rows[2]["lost"])
            print(f"  round {number + 1}: two nodes over one {ratios[-1]:.2f}", flush=True)
    print(f"two nodes over one: median {statistics.median(ratios):.2f} (bar 1.8)")
    print(f"of two nodes' time lost to Ray and to the last chunk: median {statistics.median(lost):.1%}")


if __name__ == "__main__":
    main()
