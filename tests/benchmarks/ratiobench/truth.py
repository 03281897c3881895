"""A cell in, the measured accuracy of every asked mix out: all mixes and seeds train at once, as one batched model.

Uniform weights and equal updates (the project's meaning of the ratio): every step each of the K = mixes x seeds models
draws its own batch uniformly from its own real and synthetic images. Batched matrix products do all K at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ray_synth.data.images import first_per_class
from tests.benchmarks.ratiobench.cells import CellData

UPDATES = {"mlp": 600, "cnn": 600, "probe": 400, "finetuned": 200}
RATES = {"mlp": 3e-3, "cnn": 3e-3, "probe": 1e-2, "finetuned": 5e-4}
UPDATES_LARGE_CNN = 400  # from 16 pixels a side: what two cores can afford
BATCH = {"mlp": 64, "cnn": 64, "probe": 64, "finetuned": 32}
SEEDS = {"mlp": 2, "cnn": 1, "probe": 2, "finetuned": 1}
GRAPH_FROM = 3  # updates after which a GPU replays its step
SCRATCH = ("mlp", "cnn")
PRETRAINED = ("probe", "finetuned")  # on EfficientNet-lite0: its features, and its last two stages trained
FAMILIES = SCRATCH + PRETRAINED

Layers = list[tuple[int, int]]  # fan in and out


def accuracies(
    cell: CellData, family: str, counts: Sequence[np.ndarray], *, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Two accuracies of every mix, [mixes, seeds] each: on the test set as it comes, and under the real set's class
    shares. Seeds differ in weights and batches; they are the same for every mix.

    counts: synthetic images of each class, [C] a mix.
    """
    seeds, images = SEEDS[family], np.concatenate([cell.real, cell.synthetic])
    labels = torch.from_numpy(np.concatenate([cell.y_real, cell.y_synthetic])).to(device)
    n = len(cell.real)
    if family in PRETRAINED:
        from tests.benchmarks.ratiobench.pretrained import maps, pooled_features

        take = pooled_features if family == "probe" else maps
        x, test = take(images, device), take(cell.test, device)
        if family == "probe":
            mean, std = x[:n].mean(0), x[:n].std() + 1e-6
            x, test = (x - mean) / std, (test - mean) / std
    else:
        x, test = (_pixels(part, device) for part in (images, cell.test))
    rows = [np.concatenate([np.arange(n), n + first_per_class(cell.y_synthetic, wanted)]) for wanted in counts]
    model = _network(family, x, cell.num_classes, len(counts), seeds, device)
    train(model, family, x, labels, rows, seeds)
    y = torch.from_numpy(cell.y_test).to(device)
    right = (_predicted(model, test) == y).float().cpu().numpy()
    recall = np.stack([right[:, cell.y_test == c].mean(axis=1) for c in range(cell.num_classes)], axis=1)
    shared = recall @ (cell.real_counts / cell.real_counts.sum())
    return right.mean(axis=1).reshape(len(counts), seeds), shared.reshape(len(counts), seeds)


def _pixels(images: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


class Batched:
    """K models side by side, each layer's weights [K, in, out] and biases [K, 1, out]; every seed starts alike in all
    mixes. `forward`: [K,B,...] -> logits [K,B,classes]."""

    def __init__(self, layers: Layers, mixes: int, seeds: int, device: str):
        self.k = mixes * seeds
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        for layer, (fan_in, fan_out) in enumerate(layers):
            drawn = [
                torch.randn(fan_in, fan_out, generator=torch.Generator().manual_seed(1000 * seed + layer))
                for seed in range(seeds)
            ]
            one = torch.stack(drawn) * math.sqrt((1.0 if layer == len(layers) - 1 else 2.0) / fan_in)
            self.weights.append(one.repeat(mixes, 1, 1).to(device).requires_grad_())
            self.biases.append(torch.zeros(self.k, 1, fan_out, device=device).requires_grad_())

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = F.relu(torch.baddbmm(b, x, w))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


class BatchedCnn(Batched):
    """Three 3x3 convolutions, pooled to 2x2."""

    def __init__(self, shape: torch.Size, num_classes: int, mixes: int, seeds: int, device: str):
        super().__init__([(shape[0] * 9, 16), (16 * 9, 32), (32 * 9, 32), (32 * 4, num_classes)], mixes, seeds, device)
        self.strides = (1 if shape[-1] < 16 else 2, 2, 1)
        self.convolved: Callable[[Tensor], Tensor] = self._as_products if device == "cuda" else self._in_turn

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.biases[3], self.convolved(x), self.weights[3])

    def _as_products(self, x: Tensor) -> Tensor:
        k, b = x.shape[:2]
        for layer, stride in enumerate(self.strides):
            side = -(-x.shape[-1] // stride)
            patches = F.unfold(x.flatten(0, 1), 3, padding=1, stride=stride)  # [K*B, C*9, L]
            patches = patches.reshape(k, b, *patches.shape[1:]).transpose(2, 3).flatten(1, 2)
            x = F.relu(torch.baddbmm(self.biases[layer], patches, self.weights[layer]))
            x = x.reshape(k, b, side, -1, x.shape[-1]).permute(0, 1, 4, 2, 3)
        return F.adaptive_avg_pool2d(x.flatten(0, 1), 2).reshape(k, b, -1)

    def _in_turn(self, x: Tensor) -> Tensor:
        """One model after the other is faster on a CPU."""
        return torch.stack([self._one(k, x[k]) for k in range(self.k)])

    def _one(self, k: int, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for layer, stride in enumerate(self.strides):
            weight = self.weights[layer][k]
            kernel = weight.T.reshape(weight.shape[1], -1, 3, 3)
            x = F.relu(F.conv2d(x, kernel, self.biases[layer][k, 0], stride=stride, padding=1))
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


def _network(family: str, x: Tensor, num_classes: int, mixes: int, seeds: int, device: str) -> Batched:
    if family == "probe":
        return Batched([(x.shape[1], num_classes)], mixes, seeds, device)
    if family == "mlp":
        return Batched([(math.prod(x.shape[1:]), 128), (128, num_classes)], mixes, seeds, device)
    if family == "cnn":
        return BatchedCnn(x.shape[1:], num_classes, mixes, seeds, device)
    if family == "finetuned":
        from tests.benchmarks.ratiobench.pretrained import LastStages

        return LastStages(num_classes, mixes, seeds, device)
    raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")


def train(model: Batched, family: str, x: Tensor, labels: Tensor, rows: list[np.ndarray], seeds: int) -> None:
    """AdamW, cosine schedule. rows: what each mix draws from. On a GPU a step is one graph: it is all launches."""
    size, updates = BATCH[family], UPDATES_LARGE_CNN if family == "cnn" and x.shape[-1] >= 16 else UPDATES[family]
    on_gpu = x.device.type == "cuda"
    rate = torch.tensor(RATES[family], device=x.device)
    optimizer = torch.optim.AdamW(model.parameters, lr=rate, weight_decay=1e-2, fused=True, capturable=on_gpu)
    batches = _batches(rows, seeds, updates, size).to(x.device)
    index = batches[0].clone()

    def step() -> None:
        logits = model.forward(x[index])
        # Each model's own mean: the sum over K of means keeps the models independent.
        loss = F.cross_entropy(logits.flatten(0, 1), labels[index].flatten(), reduction="sum") / size
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    act: Callable[[], None] = _aside(step) if on_gpu else step
    for number in range(updates):
        if on_gpu and number == GRAPH_FROM:
            act = _graph(step)
        rate.fill_(RATES[family] * 0.5 * (1 + math.cos(math.pi * number / updates)))
        index.copy_(batches[number])
        act()


def _aside(step: Callable[[], None]) -> Callable[[], None]:
    """On a stream of its own, as what is captured later must have run before."""
    stream = torch.cuda.Stream()

    def act() -> None:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)

    return act


def _graph(step: Callable[[], None]) -> Callable[[], None]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _batches(rows: list[np.ndarray], seeds: int, updates: int, size: int) -> Tensor:
    """[updates,K,B] rows; a seed's draws are the same for every mix."""
    picks = [np.random.default_rng([7, seed]).uniform(size=(updates, size)) for seed in range(seeds)]
    drawn = [members[(pick * len(members)).astype(np.int64)] for members in rows for pick in picks]
    return torch.from_numpy(np.stack(drawn, axis=1))


@torch.no_grad()
def _predicted(model: Batched, test: Tensor) -> Tensor:
    """[K, N] classes."""
    parts = [model.forward(part.unsqueeze(0).expand(model.k, *part.shape)).argmax(-1) for part in test.split(256)]
    return torch.cat(parts, dim=1)
