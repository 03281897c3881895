"""sweeps/imagenet.yaml in small, on one machine and on three, with images that no memory holds; the same tables out.

    python -m tests.benchmarks.imagenet_nodes [--images 24]

What `--smoke` makes of the file (tiny models, few images), on a folder of JPEGs of scikit-learn's digits in place of
its own, which no process holds. One machine of three CPUs, then a head without any and three machines of one
(ray.cluster_utils), each with a cache of its own, so that each packs what it trains on; final trainings by three
workers together. Compared: sets, chunks, estimate, trials but for their seconds, metrics, and the weights.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STORE = 150 * 2**20
# Loaded by every Python that starts: no set of images fits into the memory of the driver or of a worker.
WITNESS = """
import sys
if any("default_worker" in word or "ray_synth" in word for word in sys.orig_argv):
    import ray_synth.data.images as images
    images.SHARE = 0.0
"""


def write_images(folder: Path, each: int) -> None:
    from PIL import Image

    from ray_synth.data.images import rank_in_class
    from ray_synth.data.readers import read_digits

    digits = read_digits(16)
    rank = rank_in_class(digits.labels)
    for row, (image, label) in enumerate(zip(digits.pixels, digits.labels, strict=True)):
        if rank[row] < each:
            place = folder / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).convert("RGB").save(place / f"{row:04d}.jpg", quality=95)


def write_experiment(file: Path, images: Path) -> None:
    from ray_synth.config import load_experiment
    from ray_synth.config.yaml import as_yaml
    from ray_synth.smoke import shrunk, tiny_models

    whole = load_experiment(Path("sweeps/imagenet.yaml"))
    raw = shrunk(whole, tiny_models(whole)).model_dump(mode="json")
    raw["data"] |= {"kind": "folder", "path": str(images), "image_size": 16, "max_validation": 6, "max_test": 6}
    raw["classifier"] |= {"num_workers": 3, "batch_size": 12}
    file.write_text(as_yaml(raw))


def run(file: Path, out: Path, machines: list[int], place: Path) -> float:
    """Seconds of a run on machines of so many CPUs each, with packs of their own."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    try:
        for number, cpus in enumerate(machines):
            own = {"XDG_CACHE_HOME": str(place / f"{out.name}-{number}")}
            cluster.add_node(num_cpus=cpus, object_store_memory=STORE, env_vars=own)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "XDG_CACHE_HOME": str(place / "driver")}
        begin = time.monotonic()
        words = [sys.executable, "-m", "ray_synth.cli", "run", str(file), "--out", str(out)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        return time.monotonic() - begin
    finally:
        cluster.shutdown()


def found_in(out: Path) -> dict[str, Any]:
    with (out / "sweep" / "trials.csv").open(newline="") as file:
        trials = [{name: value for name, value in row.items() if "seconds" not in name} for row in csv.DictReader(file)]
    chunks = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (out / "synthetic").iterdir()}
    weights = {file.name: file.read_bytes() for file in (out / "model" / "runs").glob("*.safetensors")}
    plain = {name: json.loads((out / name).read_text()) for name in ("splits.json", "estimate.json", "metrics.json")}
    return {**plain, "chunks": chunks, "trials": trials, "weights": weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="real images of each class")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_images(place / "images", options.images)
        write_experiment(place / "imagenet.yaml", place / "images")
        (place / "witness").mkdir()
        (place / "witness" / "sitecustomize.py").write_text(WITNESS)
        paths = [str(place / "witness"), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        found = {}
        for machines in ([3], [1, 1, 1]):
            out = place / f"of-{len(machines)}"
            seconds = run(place / "imagenet.yaml", out, machines, place)
            found[len(machines)] = found_in(out)
            packs = [len(list(each.glob("ray_synth/packs/*.arrow"))) for each in sorted(place.glob(f"{out.name}-*"))]
            print(f"{len(machines)} machine(s): {seconds:.0f} s; packs on each: {packs}", flush=True)
        one, three = found.values()
        for part in one:
            sizes = f"{len(one[part])} entries"
            print(f"{part:14} {'the same' if one[part] == three[part] else 'DIFFERS'} ({sizes})")
        sys.exit(0 if one == three else 1)


if __name__ == "__main__":
    main()
