"""A cell in, the measured accuracy at every ratio out: all ratios and seeds train at once, as one batched model.

Uniform weights and equal updates (the project's meaning of the ratio): every step each of the K = ratios x seeds models
draws its own batch uniformly from its own real and synthetic images. Batched matrix products do all K at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ray_synth.data.images import first_per_class
from tests.benchmarks.ratiobench.cells import RATIOS, CellData, prefix_counts

UPDATES = {"linear": 400, "mlp": 600, "cnn": 600}
UPDATES_LARGE_CNN = 400  # from 16 pixels a side: what two cores can afford
BATCH = 64
SEEDS = 3


def accuracies(
    cell: CellData,
    family: str,
    *,
    counts: Sequence[np.ndarray] | None = None,
    seeds: int = SEEDS,
    device: str = "cpu",
    balanced: bool = False,
) -> np.ndarray:
    """Test accuracy [R, seeds]. Seeds differ in weights and batches; they are the same for every ratio.

    counts: synthetic images of each class, R times [C]; default proportional at RATIOS. balanced: mean recall instead.
    """
    if counts is None:
        counts = [prefix_counts(cell.y_real, ratio, cell.num_classes) for ratio in RATIOS]
    images = np.concatenate([cell.real, cell.synthetic])
    labels = torch.from_numpy(np.concatenate([cell.y_real, cell.y_synthetic])).to(device)
    n = len(cell.real)
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    test = torch.from_numpy(cell.test).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if family == "linear":
        x, test = _features(x, n, x), _features(x, n, test)
    rows = []
    for wanted in counts:
        rows.append(np.concatenate([np.arange(n), n + first_per_class(cell.y_synthetic, wanted)]))
    model = _Batched(family, x.shape[1:], cell.num_classes, len(counts), seeds, device)
    model.train(x, labels, rows)
    right = (model.predict(test) == torch.from_numpy(cell.y_test).to(device)).float().cpu().numpy()
    found = right.mean(axis=1)
    if balanced:
        found = np.mean([right[:, cell.y_test == c].mean(axis=1) for c in np.unique(cell.y_test)], axis=0)
    return np.asarray(found.reshape(len(counts), seeds))


def _features(x: torch.Tensor, n: int, points: torch.Tensor) -> torch.Tensor:
    """Fixed random 5x5 (3x3 for tiny images) patches, rectified, pooled to 3x3, standardised on the real images."""
    size = 3 if x.shape[-1] < 16 else 5
    filters = torch.randn(48, x.shape[1], size, size, generator=torch.Generator().manual_seed(0)).to(x.device)
    filters = filters - filters.mean(dim=(1, 2, 3), keepdim=True)

    def raw(a: torch.Tensor) -> torch.Tensor:
        response = torch.cat([F.conv2d(part, filters) for part in a.split(512)])
        pooled = F.adaptive_avg_pool2d(torch.cat([F.relu(response), F.relu(-response)], dim=1), 3)
        return pooled.flatten(1)

    reference = raw(x[:n])
    mean, std = reference.mean(0), reference.std() + 1e-6
    return (raw(points) - mean) / std


class _Batched:
    """K models side by side. Weights are [K, in, out]."""

    def __init__(self, family: str, shape: torch.Size, num_classes: int, ratios: int, seeds: int, device: str):
        self.family, self.seeds, self.ratios, self.device = family, seeds, ratios, device
        self.k = ratios * seeds
        sizes: list[tuple[int, int]]
        if family == "linear":
            sizes = [(shape[0], num_classes)]
        elif family == "mlp":
            sizes = [(math.prod(shape), 128), (128, num_classes)]
        elif family == "cnn":
            sizes = [(shape[0] * 9, 16), (16 * 9, 32), (32 * 9, 32), (32 * 4, num_classes)]
        else:
            raise ValueError(f"family must be linear, mlp or cnn, got {family!r}")
        self.weights, self.biases = [], []
        for layer, (fan_in, fan_out) in enumerate(sizes):
            drawn = [
                torch.randn(fan_in, fan_out, generator=torch.Generator().manual_seed(1000 * seed + layer))
                for seed in range(seeds)
            ]
            one = torch.stack(drawn) * math.sqrt((1.0 if layer == len(sizes) - 1 else 2.0) / fan_in)
            self.weights.append(one.repeat(ratios, 1, 1).to(device).requires_grad_())
            self.biases.append(torch.zeros(self.k, 1, fan_out, device=device).requires_grad_())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [K,B,...] -> logits [K,B,classes]."""
        if self.family == "cnn":
            x = torch.stack([self._convolved(k, x[k]) for k in range(self.k)])
            return torch.baddbmm(self.biases[3], x, self.weights[3])
        x = x.flatten(2)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = F.relu(torch.baddbmm(b, x, w))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])

    def _convolved(self, k: int, x: torch.Tensor) -> torch.Tensor:
        """Model k's 3x3 layers, padded: [B,C,H,W] -> [B,128]. One after the other is faster on a CPU than groups."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer, stride in ((0, 1 if x.shape[-1] < 16 else 2), (1, 2), (2, 1)):
            weight = self.weights[layer][k]
            kernel = weight.T.reshape(weight.shape[1], -1, 3, 3)
            x = F.relu(F.conv2d(x, kernel, self.biases[layer][k, 0], stride=stride, padding=1))
        return F.adaptive_avg_pool2d(x, 2).flatten(1)

    def train(self, x: torch.Tensor, labels: torch.Tensor, rows: list[np.ndarray]) -> None:
        parameters = [*self.weights, *self.biases]
        rate = 3e-3 if self.family != "linear" else 1e-2
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-2, fused=True)
        large = self.family == "cnn" and x.shape[-1] >= 16
        updates = UPDATES_LARGE_CNN if large else UPDATES[self.family]
        rng = [np.random.default_rng([7, seed]) for seed in range(self.seeds)]
        for step in range(updates):
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / updates))
            picks = [generator.uniform(size=BATCH) for generator in rng]  # the same for every ratio
            batch = np.stack([members[(pick * len(members)).astype(np.int64)] for members in rows for pick in picks])
            index = torch.from_numpy(batch).to(self.device)
            logits = self.forward(x[index])
            # Each model's own mean: the sum over K of means keeps the models independent.
            loss = F.cross_entropy(logits.flatten(0, 1), labels[index].flatten(), reduction="sum") / BATCH
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def predict(self, test: torch.Tensor) -> torch.Tensor:
        """[K, N] classes."""
        size = 256 if self.family == "cnn" else 2048
        parts = [self.forward(part.unsqueeze(0).expand(self.k, *part.shape)).argmax(-1) for part in test.split(size)]
        return torch.cat(parts, dim=1)
