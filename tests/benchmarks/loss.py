"""What the regularized loss costs, beside plain cross-entropy, a loop over regions, and a training step.

    python -m tests.benchmarks.loss

Forward and backward on one thread, everything paired in one run: each round times every rival once, and the ratios'
medians over rounds are printed. Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ray_synth.classifier.losses import regularized_loss
from ray_synth.torch_ops import import_torchvision, keep_freed_memory

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def batch(side: int, classes: int, regions: int) -> Batch:
    random = torch.Generator().manual_seed(0)
    logits = [torch.randn(side, classes, generator=random) for _ in range(2)]
    labels = [torch.randint(classes, (side,), generator=random) for _ in range(2)]
    places = [torch.randint(regions, (side,), generator=random) for _ in range(2)]
    return (*logits, *labels, *places)


def plain(z_s: torch.Tensor, z_g: torch.Tensor, y_s: torch.Tensor, y_g: torch.Tensor, *_: Any) -> torch.Tensor:
    """Cross-entropy of each side, as in Eq. 7 without its last two terms."""
    return 4 * F.cross_entropy(z_s, y_s) + F.cross_entropy(z_g, y_g)


def ours(*arguments: torch.Tensor, variant: str = "paper") -> torch.Tensor:
    return regularized_loss(*arguments, variant=variant).total


def dense(
    z_s: torch.Tensor, z_g: torch.Tensor, y_s: torch.Tensor, y_g: torch.Tensor, r_s: torch.Tensor, r_g: torch.Tensor
) -> torch.Tensor:
    """All pairs by `cdist`, and a mask."""
    h_s, h_g = z_s.softmax(-1), z_g.softmax(-1)
    cross = r_s[:, None] == r_g[None]
    n_i = cross.sum(0)
    valid = n_i > 0
    g = valid.sum().clamp(min=1)
    same = (r_g[:, None] == r_g[None]) & valid[:, None]
    off = same & ~torch.eye(len(r_g), dtype=torch.bool)
    discrepancy = (torch.cdist(h_s, h_g) * cross / n_i.clamp(min=1)).sum() / g
    robustness = (torch.cdist(h_g, h_g) * off / same.sum(0).clamp(min=1)).sum() / g
    return plain(z_s, z_g, y_s, y_g) + 0.1 * discrepancy + robustness


def region_loop(
    z_s: torch.Tensor, z_g: torch.Tensor, y_s: torch.Tensor, y_g: torch.Tensor, r_s: torch.Tensor, r_g: torch.Tensor
) -> torch.Tensor:
    """One region after the other, as one would first write it."""
    h_s, h_g = z_s.softmax(-1), z_g.softmax(-1)
    total = plain(z_s, z_g, y_s, y_g)
    regions = [i for i in r_s.unique() if (r_g == i).any()]
    g = sum(int((r_g == i).sum()) for i in regions)
    for i in regions:
        s, t = h_s[r_s == i], h_g[r_g == i]
        across = (s[:, None] - t[None]).norm(dim=-1)
        within = (t[:, None] - t[None]).norm(dim=-1)
        total = total + 0.1 * across.mean() * len(t) / g + within.sum() / (g * len(t))
    return total


def seconds_of(loss: Callable[..., torch.Tensor], arguments: Batch, repeats: int) -> float:
    z_s, z_g = (z.clone().requires_grad_() for z in arguments[:2])
    start = time.perf_counter()
    for _ in range(repeats):
        z_s.grad = z_g.grad = None
        loss(z_s, z_g, *arguments[2:]).backward()
    return (time.perf_counter() - start) / repeats


def paired(
    rivals: dict[str, Callable[..., torch.Tensor]], arguments: Batch, rounds: int, slow: frozenset[str]
) -> dict[str, list[float]]:
    """Seconds of every rival in every round, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in rivals}
    for i in range(rounds + 1):
        for name, loss in rivals.items():
            spent = seconds_of(loss, arguments, 2 if name in slow else 20)
            if i:
                found[name].append(spent)
    return found


def ratio(found: dict[str, list[float]], name: str, to: str) -> str:
    quotients = [a / b for a, b in zip(found[name], found[to], strict=True)]
    return f"{statistics.median(quotients):.2f} ({min(quotients):.2f} to {max(quotients):.2f})"


def median_ratio(found: dict[str, list[float]], name: str, to: str) -> float:
    return statistics.median(a / b for a, b in zip(found[name], found[to], strict=True))


def resnet_step() -> Callable[[], float]:
    """A training step of ResNet-18 on 64 + 64 images of 32x32, 100 classes: its seconds."""
    import_torchvision()
    import torchvision

    model = torchvision.models.resnet18(num_classes=100)
    model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(128, 3, 32, 32)
    arguments = batch(64, 100, 200)

    def step() -> float:
        start = time.perf_counter()
        logits = model(images)
        optimizer.zero_grad()
        plain(logits[:64], logits[64:], *arguments[2:]).backward()
        optimizer.step()
        return time.perf_counter() - start

    step()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_freed_memory()
    rivals: dict[str, Callable[..., torch.Tensor]] = {
        "plain": plain,
        "ours": ours,
        "released": lambda *a: ours(*a, variant="released"),
        "dense": dense,
        "loop": region_loop,
    }
    slow = frozenset({"loop"})
    large = paired(rivals, batch(256, 1000, 500), rounds, slow)
    small = paired(rivals, batch(256, 100, 200), rounds, slow)
    print("256 + 256 samples; median (least to most) of paired rounds")
    for title, found in (("1,000 classes, 500 regions", large), ("100 classes, 200 regions", small)):
        print(f"  {title}: plain cross-entropy {1e3 * statistics.median(found['plain']):.2f} ms")
        for name in ("ours", "released", "dense", "loop"):
            print(f"    {name:9} {ratio(found, name, 'plain')} x plain")
    print(f"  100 classes, 200 regions: the loop over regions takes {ratio(small, 'loop', 'ours')} x ours")
    step, arguments = resnet_step(), batch(64, 100, 200)
    shares = [
        (seconds_of(ours, arguments, 10) - seconds_of(plain, arguments, 10)) / step()
        for _ in range(max(3, rounds // 3))
    ]
    print(f"  the two terms' share of a ResNet-18 step at 32x32: {100 * statistics.median(shares):.2f} %")
    bars = {
        "at most 3 x plain": median_ratio(large, "ours", "plain") <= 3,
        "10 x faster than the loop": median_ratio(small, "loop", "ours") >= 10,
        "at most 5 % of a step": statistics.median(shares) <= 0.05,
    }
    print("\n".join(f"{'met   ' if met else 'MISSED'}  {name}" for name, met in bars.items()))
    sys.exit(0 if all(bars.values()) else 1)


if __name__ == "__main__":
    main()
