"""What a step of recovering takes, ours against the same with SRe2L's loss: seconds and memory, in pairs.

    python -m tests.benchmarks.distill_step [--side 32] [--model resnet20] [--batch 100] [--pairs 20]

Ours: squared distances to a barycenter's points and to the BatchNorm statistics of each image's class. SRe2L's: the
cross-entropy, and the statistics of the whole data set. Everything else is one and the same step: views, teacher, Adam.
Pairs in turns, so that whatever else runs here meets both; the ratio is the median over pairs. Memory: bytes of tensors
alive at once, counted on torch's device `meta`, and on a GPU also what torch allocated. Bars: at most 1.1 times either.
"""

from __future__ import annotations

import argparse
import copy
import os
import time

import numpy as np
import torch

from ray_synth.classifier.models import build_model
from ray_synth.config import Classifier, Recover
from ray_synth.distill.recover import Recovery, Target, Weights
from ray_synth.distill.squeeze import Tapped
from ray_synth.training.memory import Peak

BAR = 1.1
CLASSES = 10


def recovery(method: str, model: str, side: int, batch: int, device: torch.device) -> Recovery:
    names, shape = tuple(map(str, range(CLASSES))), (side, side, 3)
    tapped = Tapped(copy.deepcopy(build_model(Classifier(model=model), shape, names, seed=0)).to(device))
    mean, variance = tapped.global_statistics
    labels = torch.arange(CLASSES).repeat_interleave(batch // CLASSES)
    if method == "sre2l":
        target = Target(labels=labels, means=mean[None], variances=variance[None])
    else:
        head = [module for module in tapped.model.modules() if isinstance(module, torch.nn.Linear)][-1]
        own = torch.Generator().manual_seed(0)
        target = Target(
            labels=labels,
            means=mean[None].repeat(CLASSES, 1),
            variances=variance[None].repeat(CLASSES, 1),
            points=torch.rand(batch, head.in_features, generator=own),
        )
    settings = Recover(iterations=1_000_000)
    seeds = np.arange(batch)
    return Recovery(tapped, target, Weights.of(method, settings), settings, seeds=seeds, shape=shape)


def seconds(made: Recovery, device: torch.device, steps: int = 3) -> float:
    """On CPUs the processor's, for others may work here too."""
    now = time.perf_counter if device.type == "cuda" else time.process_time
    _synchronize(device)
    begin = now()
    for _ in range(steps):
        made.step()
    _synchronize(device)
    return (now() - begin) / steps


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _ratio(what: str, peaks: list[int]) -> float:
    ours, theirs = (peak / 2**20 for peak in peaks)
    print(f"{what}: ours {ours:.1f} MiB, SRe2L's {theirs:.1f} MiB; ratio {ours / theirs:.3f}")
    return ours / theirs


def counted_bytes(method: str, a: argparse.Namespace) -> int:
    """Of the tensors of a step that are alive at once, without the teacher's."""
    device = torch.device("meta")
    made = recovery(method, a.model, a.side, a.batch, torch.device("cpu"))
    made.tapped.model.to(device)
    made.target, made.pixels = made.target.to(device), made.pixels.to(device)
    there = [*made.tapped.model.parameters(), *made.tapped.model.buffers(), made.pixels.values]
    with Peak(there) as peak:
        made.loss(0).backward()
    return peak.bytes


def allocated_bytes(made: Recovery) -> int:
    torch.cuda.reset_peak_memory_stats()
    made.step()
    return torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=100, help="images, a multiple of 10")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3, help="of each half of a pair")
    a = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    both = {method: recovery(method, a.model, a.side, a.batch, device) for method in ("wmdd", "sre2l")}
    for made in both.values():
        seconds(made, device, a.steps)
    times: dict[str, list[float]] = {method: [] for method in both}
    for pair in range(a.pairs):
        for method in list(both)[:: 1 if pair % 2 else -1]:
            times[method].append(seconds(both[method], device, a.steps))
    ratios = np.array(times["wmdd"]) / np.array(times["sre2l"])
    low, ratio, high = np.percentile(ratios, [25, 50, 75])
    ours, theirs = (float(np.median(times[method])) for method in both)
    print(f"{a.model}, {a.batch} images of {a.side} pixels, {a.pairs} pairs, {device}")
    print(f"seconds a step: ours {ours:.4f}, SRe2L's {theirs:.4f}; ratio {ratio:.3f} (half: {low:.3f} to {high:.3f})")
    found = {"time": ratio, "memory": _ratio("bytes alive at once", [counted_bytes(method, a) for method in both])}
    if device.type == "cuda":
        found["allocated"] = _ratio("allocated", [allocated_bytes(made) for made in both.values()])
    missed = [name for name, value in found.items() if value > BAR]
    print(f"bar {BAR}: {'missed by ' + ', '.join(missed) if missed else 'kept'}")


if __name__ == "__main__":
    main()
