"""The demo's bars, measured: wall time, peak memory, a second run, help. `make bench`.

Runs `sweeps/digits.yaml` in a new folder from nothing, samples the memory of its whole process tree (proportional set
size, so that pages shared by processes count once), runs it again, and prints each figure beside its bar.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
RAY_SYNTH = [sys.executable, "-m", "ray_synth.cli"]


def tree_bytes(process: psutil.Process) -> int:
    """Proportional set size of a process and everything below it, in bytes."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def timed(words: list[str], every: float = 2.0) -> tuple[float, float]:
    """Seconds and peak GiB of a command that must succeed."""
    start, peak = time.monotonic(), 0
    with subprocess.Popen([*RAY_SYNTH, *words], cwd=ROOT) as running:
        process = psutil.Process(running.pid)
        while True:
            try:
                running.wait(timeout=every)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, tree_bytes(process))
    if running.returncode:
        raise SystemExit(f"ray-synth {' '.join(words)} exited with {running.returncode}")
    return time.monotonic() - start, peak / 2**30


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "log.txt")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def help_seconds(words: list[str]) -> float:
    """The median of five."""
    taken = []
    for _ in range(5):
        start = time.monotonic()
        subprocess.run([*RAY_SYNTH, *words], cwd=ROOT, check=True, capture_output=True)
        taken.append(time.monotonic() - start)
    return sorted(taken)[2]


def draw(out: Path, picture: Path) -> None:
    """The ratio curve of a finished run, as the README shows it."""
    from ray_synth.bound.result import RatioEstimate
    from ray_synth.report.plots import ratio_curve
    from ray_synth.report.summary import Summary
    from ray_synth.runs import RunFolder
    from ray_synth.sweep.ledger import Ledger

    folder = RunFolder(out)
    estimate = RatioEstimate.from_dict(folder.read_json("estimate.json"))
    summary = Summary.from_dict(folder.read_json("summary.json"))
    figure = ratio_curve(estimate, Ledger(folder).trials, summary.best_ratio, summary.predicted_ratio)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="run folder, which must not exist; default a temporary one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="write the ratio curve of this run to a PNG file")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="ray_synth-bench-")) / "digits"
    words = ["run", "sweeps/digits.yaml", "--out", str(out), "--seed", str(options.seed)]
    first, peak = timed(words)
    before = contents(out)
    second, _ = timed(words)
    changed = sorted(name for name, value in contents(out).items() if before.get(name) != value)
    if options.picture:
        draw(out, options.picture)
    metrics = json.loads((out / "metrics.json").read_text())
    rows = [
        ("first run, seconds", first, 300.0),
        ("peak memory, GiB", peak, 4.0),
        ("second run, seconds", second, 15.0),
        ("files changed by the second run, but the log", float(len(changed)), 0.0),
        ("ray-synth --help, seconds", help_seconds(["--help"]), 1.0),
        ("ray-synth estimate --help, seconds", help_seconds(["estimate", "--help"]), 1.0),
        ("wrong labels, share of synthetic images", 1 - metrics["label_fidelity"], 0.1),
    ]
    print(f"\n{platform.machine()}, {psutil.cpu_count()} CPUs, Python {platform.python_version()}, seed {options.seed}")
    print(f"{'':46}{'measured':>10}{'bar (at most)':>15}")
    for name, value, bar in rows:
        print(f"{name:46}{value:10.3f}{bar:15.1f}{'' if value <= bar else '   MISSED'}")


if __name__ == "__main__":
    main()
