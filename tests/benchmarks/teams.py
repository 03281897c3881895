"""One, two and four Ray Train workers in, killed at random; their order of images and their weights beside one's, out.

    python -m tests.benchmarks.teams [--workers 1 2 4] [--kills 3] [--updates 300] [--seed 0]

scikit-learn's digits, as JPEGs of 32 pixels that count as more than memory holds, so that workers read them out of
packs. Each number of workers trains once undisturbed and once while its processes are killed (SIGKILL), one at a time,
at random moments after the first checkpoint. Every worker notes which rows it draws at which step. Weights: the largest
difference over the largest weight, from those of as many undisturbed workers and from those of one; "to the bit" where
there is none. Batch normalisation is done on each worker's share, so a model with it ends elsewhere on two.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

# Loaded by every Python that starts; in Ray's workers no set of images fits into memory, and what is drawn is noted.
WITNESS = """
import json, os, sys
if any("default_worker" in word for word in sys.orig_argv):
    from ray_synth.classifier import sides
    from ray_synth.data import images
    images.SHARE = 0.0
    whole = sides.Side._read
    def noted(self, step, team):
        found = whole(self, step, team)
        row = json.dumps([self.seed, step, team.rank, team.size, found[0].tolist()]) + "\\n"
        log = os.open(os.environ["ORDER_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, row.encode())
        os.close(log)
        return found
    sides.Side._read = noted
"""
CLASSES = 10


def write_images(folder: Path) -> None:
    from PIL import Image

    from ray_synth.data.readers import read_digits

    digits = read_digits(32)
    for row, (image, label) in enumerate(zip(digits.pixels, digits.labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place / f"{row:04d}.jpg", quality=95)


def data_of(folder: Path, updates: int):  # type: ignore[no-untyped-def]
    from ray_synth.classifier.experiment_data import ExperimentData
    from ray_synth.config import load_experiment
    from ray_synth.data import images
    from ray_synth.data.splits import read_splits

    overrides = {
        "data": {"kind": "folder", "path": str(folder), "shots": 20, "image_size": 32},
        "classifier": {"updates": updates, "evaluations": 12, "batch_size": 32, "keep": "last"},
    }
    experiment = load_experiment(Path("sweeps/digits.yaml"), overrides)
    images.SHARE = 0.0
    splits = read_splits(experiment.data, 0)
    return ExperimentData.of(experiment, splits.train, splits.generator, splits.validation)


@contextmanager
def killing(checkpoint: Path, kills: int, rng: random.Random, said: list[str]) -> Iterator[None]:
    """While the block runs, kill that many of the processes that train, one at a time."""
    over = threading.Event()

    def work() -> None:
        while len(said) < kills and not over.is_set():
            if checkpoint.exists() and (training := _training()):
                version = checkpoint.stat().st_mtime_ns
                over.wait(rng.uniform(0.2, 3.0))
                with suppress(psutil.NoSuchProcess):
                    rng.choice(training).kill()
                    said.append("killed")
                while not over.is_set() and checkpoint.exists() and checkpoint.stat().st_mtime_ns == version:
                    time.sleep(0.1)  # it goes on from there, and gets further before the next one
            time.sleep(0.1)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _training() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, IndexError):
            if "RayTrainWorker" in process.cmdline()[0]:
                found.append(process)
    return found


def order_of(log: Path) -> tuple[dict[tuple[int, int], list[int]], int]:
    """Rows of each side (its seed) and step, of all workers together; how often a step was drawn otherwise later."""
    drawn: dict[tuple[int, int], dict[int, list[int]]] = {}
    other = 0
    for line in log.read_text().splitlines():
        seed, step, rank, _, rows = json.loads(line)
        known = drawn.setdefault((seed, step), {})
        other += known.get(rank, rows) != rows
        known[rank] = rows
    whole = {}
    for key, parts in drawn.items():
        merged = np.empty(sum(map(len, parts.values())), dtype=np.int64)
        for rank, rows in parts.items():
            merged[rank :: len(parts)] = rows
        whole[key] = merged.tolist()
    return whole, other


def trained(place: Path, data: Any, workers: int, kills: int, rng: random.Random) -> tuple[Any, Any, int, float]:
    """Tensors, the order and how often it was another one, and seconds."""
    import ray
    from safetensors.torch import load_file

    from ray_synth.classifier.final import Training, train_final
    from ray_synth.classifier.setting import Setting
    from ray_synth.runs import RunFolder

    log = place / "order.jsonl"
    place.mkdir()
    os.environ["ORDER_LOG"] = str(log)
    training = Training(name="best-0", setting=Setting(synthetic_ratio=1.0, num_clusters=20), seed=0)
    said: list[str] = []
    begin = time.monotonic()
    ray.init(num_cpus=workers, log_to_driver=False, logging_level="error")  # the dashboard stays on: it ends teams
    try:
        with killing(place / training.checkpoint, kills, rng, said):
            train_final(RunFolder(place), [training], data, num_workers=workers)
    finally:
        ray.shutdown()
    assert len(said) == kills, f"only {len(said)} of {kills} kills found a process"
    order, other = order_of(log)
    return load_file(place / training.file), order, other, time.monotonic() - begin


def apart(ours: Any, theirs: Any) -> str:
    largest = max(float(tensor.abs().max()) for tensor in theirs.values())
    found = max(float((ours[name] - tensor).abs().max()) for name, tensor in theirs.items())
    return "to the bit" if found == 0 else f"{found / largest:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        (folder / "witness").mkdir()
        (folder / "witness" / "sitecustomize.py").write_text(WITNESS)
        paths = [str(folder / "witness"), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        write_images(folder / "images")
        data = data_of(folder / "images", options.updates)
        one: Any = None
        for workers in options.workers:
            quiet: Any = None
            for kills in (0, options.kills):
                place = folder / f"{workers}-{kills}"
                tensors, order, other, seconds = trained(place, data, workers, kills, rng)
                quiet = quiet or tensors
                one = one or (tensors, order)
                same = sum(order.get(key) == rows for key, rows in one[1].items())
                print(
                    f"{workers} worker(s), {kills} kills, {seconds:.0f} s: {same} of {len(one[1])} batches as one's, "
                    f"{other} drawn otherwise after a kill; weights apart from undisturbed ones: "
                    f"{apart(tensors, quiet)}, from one's: {apart(tensors, one[0])}",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
