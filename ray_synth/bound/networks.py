"""Features or thumbnails with labels in, held-out accuracy at every ratio out, by small networks.

Ridge regression averages wrong labels away; a network learns them by heart, and so does a linear layer on hundreds of
features. And a network on frozen features is not led astray by images that vary little, nor helped by shifted ones, as
one is that learns its features from them. The classifiers that are asked about do all of that.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch.optim.adamw import adamw

from ray_synth.bound.pilot import Pilot
from ray_synth.bound.probe import QUARTERS, HeldOut, extrapolated

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Side = tuple[IntArray, IntArray, FloatArray]  # real rows, synthetic rows, weights of the real ones
Loss = Callable[[torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]  # of rows and weights
Kind = Literal["linear", "perceptron", "convolutional"]

MAX_THREADS = 4
FOLDS = 5
HIDDEN = 64
UPDATES = 800
CHANNELS = (16, 32, 32)  # of three 3x3 convolutions, pooled to 2x2
CONVOLVED_UPDATES = 600
ASKED = 1024  # images at once
SMALL_SIDE = 12  # pixels a side below which the first convolution takes no step of two
BATCH = 32
RATE = 3e-3
WEIGHT_DECAY = 1e-2


class _Task(NamedTuple):
    """Images x with labels, and what each network is trained on of them."""

    x: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    sides: Sequence[Side]


def network_scores(
    kind: Kind,
    sets: Sequence[FloatArray],
    real_labels: IntArray,
    pilot: Pilot,
    held: HeldOut,
    *,
    real_weight: FloatArray,
    seeds: int,
    seed: int,
) -> FloatArray:
    """Share of `seeds` networks, trained without the image's fold, that classify it right. [s,R]

    Linear layers and perceptrons on features of the real and the synthetic set, [n,d] and [m,d]; convolutional networks
    on thumbnails [.,h,w,C] in [0, 1]. On a target domain's samples all folds' networks are asked. A class of the pilot
    that has too few images repeats them, and the score on features is corrected as in `probe.Ridge`, with one quarter
    of the pilot. Arguments as there.
    """
    real, synthetic = sets[:2]
    n, convolved = len(real), kind == "convolutional"
    folds = stratified_folds(real_labels, FOLDS, np.random.default_rng([seed, 5]))
    kept = [np.flatnonzero(folds != fold) for fold in range(FOLDS)]
    # What convolutions lose with a quarter of the pilot is mostly noise of their trainings, and would be made larger.
    beyond = [] if convolved else np.flatnonzero(pilot.share_there < 1).tolist()
    mixes = [(pilot.rows(i), float(real_weight[i])) for i in range(len(pilot.counts))]
    mixes += [(pilot.rows(i, every=QUARTERS), float(real_weight[i])) for i in beyond]
    # Those of a class that are kept weigh as much as all of it: the mix is that of the ratio.
    heavy = [_weight_of_all(real_labels, rows) for rows in kept]
    sides = [(kept[fold], n + rows, weight * heavy[fold]) for rows, weight in mixes for fold in range(FOLDS)]
    x = torch.from_numpy(np.concatenate([real, synthetic]).astype(np.float32, copy=False))
    labels = torch.from_numpy(np.concatenate([real_labels, pilot.labels]))
    points = x[held.rows] if held.target is None else torch.from_numpy(held.target.astype(np.float32))
    task = _Task(x, labels, pilot.num_classes, sides)
    right = np.zeros((len(points), len(mixes)))
    for repeat in range(seeds):
        predicted = _PREDICTIONS[kind](task, points, [seed, repeat])
        hit = (predicted.numpy() == held.labels).reshape(len(mixes), FOLDS, len(points))
        if held.rows is None:
            right += hit.mean(axis=1).T
        else:  # the one that never saw it
            right += hit[:, folds[held.rows], np.arange(len(points))].T
    whole, quartered = np.split(right / seeds, [len(pilot.counts)], axis=1)
    return whole if convolved else extrapolated(whole, quartered, pilot.share_there)


def _weight_of_all(labels: IntArray, rows: IntArray) -> FloatArray:
    """Weights [k] of these rows that make each class's sum the number of its images."""
    number, left = np.bincount(labels), np.bincount(labels[rows], minlength=int(labels.max()) + 1)
    weights: FloatArray = (number / np.maximum(left, 1))[labels[rows]]
    return weights


def stratified_folds(labels: IntArray, folds: int, rng: np.random.Generator) -> IntArray:
    """Fold of each image: every class spread evenly, and the folds of one size. [n]"""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _on_features(task: _Task, points: torch.Tensor, seed: list[int], hidden: tuple[int, ...]) -> torch.Tensor:
    """Classes of `points` [s,d] by one network per side, all trained as one batch. All share starts and draws. [K,s]

    hidden: widths of the layers between.
    """
    x, labels, num_classes, sides = task
    random, widths = _generator(seed), (x.shape[1], *hidden, num_classes)
    weights: list[torch.Tensor] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        start = torch.randn(fan_in, fan_out, generator=random) / math.sqrt(fan_in)
        weights += [start.repeat(len(sides), 1, 1), torch.zeros(len(sides), 1, fan_out)]

    def loss(batch: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = batch.flatten()
        logits = _forward(weights, x.index_select(0, rows).view(*batch.shape, -1))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[rows], reduction="sum") / BATCH

    _fit(weights, _batches(sides, UPDATES, seed), loss)
    with torch.no_grad():
        return torch.stack([_forward([w[k] for w in weights], points).argmax(-1) for k in range(len(sides))])


def _by_convolutions(task: _Task, points: torch.Tensor, seed: list[int]) -> torch.Tensor:
    """As `_on_features`, of thumbnails [.,h,w,C]. As one batch they would take longer."""
    x, points = (2 * images.permute(0, 3, 1, 2) - 1 for images in (task.x, points))  # in memory channels stay last
    strides = (1 if min(x.shape[2:]) < SMALL_SIDE else 2, 2, 1)

    def forward(weights: Sequence[torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        *layers, last, bias = weights
        for kernel, shift, stride in zip(layers[::2], layers[1::2], strides, strict=True):
            images = torch.relu(torch.nn.functional.conv2d(images, kernel, shift, stride=stride, padding=1))
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) @ last + bias

    def loss(batch: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(forward(weights, x[batch]), task.labels[batch])

    def predicted(batches: torch.Tensor) -> torch.Tensor:
        weights = _convolutions(x.shape[1], task.num_classes, _generator(seed))
        _fit(weights, batches, loss)
        with torch.no_grad():
            return torch.cat([forward(weights, part).argmax(-1) for part in points.split(ASKED)])

    with ThreadPoolExecutor(MAX_THREADS, initializer=torch_on_one_thread) as pool:
        return torch.stack(list(pool.map(predicted, _batches(task.sides, CONVOLVED_UPDATES, seed).unbind(1))))


_PREDICTIONS: dict[Kind, Callable[[_Task, torch.Tensor, list[int]], torch.Tensor]] = {
    "linear": functools.partial(_on_features, hidden=()),
    "perceptron": functools.partial(_on_features, hidden=(HIDDEN,)),
    "convolutional": _by_convolutions,
}


def _convolutions(channels: int, num_classes: int, random: torch.Generator) -> list[torch.Tensor]:
    """Kernels and biases of the convolutions, then those of the linear layer."""
    weights: list[torch.Tensor] = []
    for wide in CHANNELS:
        start = torch.randn(wide, channels, 3, 3, generator=random) * math.sqrt(2 / (9 * channels))
        weights += [start.contiguous(memory_format=torch.channels_last), torch.zeros(wide)]
        channels = wide
    last = torch.randn(4 * channels, num_classes, generator=random) / math.sqrt(4 * channels)
    return [*weights, last, torch.zeros(num_classes)]


def _generator(seed: list[int]) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence([*seed, 11]).generate_state(1)[0]))


def _batches(sides: Sequence[Side], updates: int, seed: list[int]) -> torch.Tensor:
    """Rows of every update. [updates,K,B]"""
    pick = np.random.default_rng([*seed, 13]).uniform(size=updates * BATCH)
    return torch.from_numpy(np.stack([_drawn(pick, *side).reshape(updates, BATCH) for side in sides], axis=1))


def _fit(weights: Sequence[torch.Tensor], batches: torch.Tensor, loss: Loss) -> None:
    """AdamW, its rate falling to 0 along a cosine."""
    for tensor in weights:
        tensor.requires_grad_()
    mean, square = ([torch.zeros_like(tensor) for tensor in weights] for _ in range(2))
    steps = [torch.zeros(()) for _ in weights]
    for step, batch in enumerate(batches):
        slopes = torch.autograd.grad(loss(batch, weights), weights)
        with torch.no_grad():  # an optimizer of torch's would first import its compiler: 2 to 4 s of CPU
            adamw(
                list(weights),
                list(slopes),
                mean,
                square,
                max_exp_avg_sqs=[],
                state_steps=steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=RATE * 0.5 * (1 + math.cos(math.pi * step / len(batches))),
                weight_decay=WEIGHT_DECAY,
                eps=1e-8,
                maximize=False,
            )


def _drawn(pick: FloatArray, real: IntArray, synthetic: IntArray, weights: FloatArray) -> IntArray:
    """Rows at uniform numbers `pick`: real ones first, each `weights` times as likely as a synthetic one."""
    upto = np.cumsum(weights)
    share = upto[-1] / (upto[-1] + len(synthetic))
    place = np.searchsorted(upto, pick / share * upto[-1], side="right")
    index: IntArray = real[place.clip(max=len(real) - 1)]
    if share < 1:
        place = ((pick - share) / (1 - share) * len(synthetic)).astype(np.int64)
        index = np.where(pick < share, index, synthetic[place.clip(0, len(synthetic) - 1)])
    return index


def _forward(weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """[.., B,d] -> logits [.., B,C]."""
    for place, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        x = torch.relu(x) if place else x
        x = torch.baddbmm(bias, x, kernel) if x.dim() == 3 else x @ kernel + bias
    return x


@contextmanager
def one_thread() -> Iterator[None]:
    """The matrices are small, and the sums then have one order whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def torch_on_one_thread() -> None:
    """For the thread that calls it: the setting is each thread's own."""
    torch.set_num_threads(1)
