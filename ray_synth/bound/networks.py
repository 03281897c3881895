"""Features or thumbnails with labels in, held-out accuracy at every ratio out, by small networks.

Ridge regression averages wrong labels away; a network learns them by heart. On frozen features a network is not led
astray by images that vary little; one that learns its features from pixels is. So are the classifiers that are asked
about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ray_synth.bound.pilot import Pilot
from ray_synth.bound.probe import QUARTERS, HeldOut, extrapolated

FloatArray = NDArray[np.float64]
Side = tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]  # real rows, synthetic rows, weights of the real ones

FOLDS = 5
HIDDEN = 64
UPDATES = 800
BATCH = 32
RATE = 3e-3
WEIGHT_DECAY = 1e-2
CHANNELS = (16, 32, 32)  # of three 3x3 convolutions, pooled to 2x2
CONVOLVED_UPDATES = 150
SMALL_SIDE = 12  # pixels a side below which the first convolution takes no step of two


def network_scores(
    real: FloatArray,
    real_labels: NDArray[np.int64],
    synthetic: FloatArray,
    pilot: Pilot,
    held: HeldOut,
    *,
    real_weight: FloatArray,
    seeds: int,
    seed: int,
) -> FloatArray:
    """Share of `seeds` networks, trained without the image's fold, that classify it right. [s,R]

    Perceptrons on features, real [n,d] and synthetic [m,d]; convolutional networks on thumbnails [.,h,w,C] in [0, 1].
    On a target domain's samples all folds' networks are asked. A class of the pilot that has too few images repeats
    them, and the score of perceptrons is corrected as in `ridge_scores`, with one quarter of the pilot. Arguments as
    there.
    """
    n = len(real)
    folds = stratified_folds(real_labels, FOLDS, np.random.default_rng([seed, 5]))
    kept = [np.flatnonzero(folds != fold) for fold in range(FOLDS)]
    convolved = real.ndim == 4
    # Their pilot is not quartered: what one training gains on another is noise, and to draw it out makes more of it.
    beyond = [] if convolved else np.flatnonzero(pilot.share_there < 1).tolist()
    mixes = [(pilot.rows(i), float(real_weight[i])) for i in range(len(pilot.counts))]
    mixes += [(pilot.rows(i, every=QUARTERS), float(real_weight[i])) for i in beyond]
    # Those of a class that are kept weigh as much as all of it: the mix is that of the ratio.
    heavy = [_weight_of_all(real_labels, rows) for rows in kept]
    sides = [(kept[fold], n + rows, weight * heavy[fold]) for rows, weight in mixes for fold in range(FOLDS)]
    x = torch.from_numpy(np.concatenate([real, synthetic]).astype(np.float32))
    labels = torch.from_numpy(np.concatenate([real_labels, pilot.labels]))
    points = x[held.rows] if held.target is None else torch.from_numpy(held.target.astype(np.float32))
    right = np.zeros((len(points), len(mixes)))
    predictions = _by_convolutions if convolved else _by_perceptrons
    for repeat in range(seeds):
        predicted = predictions(x, labels, sides, points, pilot.num_classes, seed=[seed, repeat])
        hit = (predicted.numpy() == held.labels).reshape(len(mixes), FOLDS, len(points))
        if held.rows is None:
            right += hit.mean(axis=1).T
        else:  # the one that never saw it
            right += hit[:, folds[held.rows], np.arange(len(points))].T
    whole, quartered = np.split(right / seeds, [len(pilot.counts)], axis=1)
    return whole if convolved else extrapolated(whole, quartered, pilot.share_there)


def _weight_of_all(labels: NDArray[np.int64], rows: NDArray[np.int64]) -> FloatArray:
    """Weights [k] of these rows that make each class's sum the number of its images."""
    number, left = np.bincount(labels), np.bincount(labels[rows], minlength=int(labels.max()) + 1)
    weights: FloatArray = (number / np.maximum(left, 1))[labels[rows]]
    return weights


def stratified_folds(labels: NDArray[np.int64], folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Fold of each image: every class spread evenly, and the folds of one size. [n]"""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _by_perceptrons(
    x: torch.Tensor,
    labels: torch.Tensor,
    sides: Sequence[Side],
    points: torch.Tensor,
    num_classes: int,
    *,
    seed: list[int],
) -> torch.Tensor:
    """Classes of `points` [s,d] by one network per side, all trained as one batch. All share starts and draws. [K,s]"""
    random = _generator(seed)
    weights: list[torch.Tensor] = []
    for fan_in, fan_out in ((x.shape[1], HIDDEN), (HIDDEN, num_classes)):
        start = torch.randn(fan_in, fan_out, generator=random) / math.sqrt(fan_in)
        weights += [start.repeat(len(sides), 1, 1), torch.zeros(len(sides), 1, fan_out)]

    def loss(batch: torch.Tensor) -> torch.Tensor:
        logits = _forward(weights, x[batch])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[batch].flatten(), reduction="sum") / BATCH

    _fit(weights, _batches(sides, UPDATES, seed), loss)
    with torch.no_grad():
        return torch.stack([_forward([w[k] for w in weights], points).argmax(-1) for k in range(len(sides))])


def _by_convolutions(
    x: torch.Tensor,
    labels: torch.Tensor,
    sides: Sequence[Side],
    points: torch.Tensor,
    num_classes: int,
    *,
    seed: list[int],
) -> torch.Tensor:
    """As `_by_perceptrons`, of thumbnails [.,h,w,C]. One after the other is faster."""
    x, points = (2 * images.permute(0, 3, 1, 2) - 1 for images in (x, points))  # in memory channels stay last
    strides = (1 if min(x.shape[2:]) < SMALL_SIDE else 2, 2, 1)

    def forward(weights: list[torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        *layers, last, bias = weights
        for kernel, shift, stride in zip(layers[::2], layers[1::2], strides, strict=True):
            images = torch.relu(torch.nn.functional.conv2d(images, kernel, shift, stride=stride, padding=1))
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) @ last + bias

    found = []
    for batches in _batches(sides, CONVOLVED_UPDATES, seed).unbind(1):
        random, weights, fan_in = _generator(seed), list[torch.Tensor](), x.shape[1]
        for channels in CHANNELS:
            start = torch.randn(channels, fan_in, 3, 3, generator=random) * math.sqrt(2 / (9 * fan_in))
            weights += [start.contiguous(memory_format=torch.channels_last), torch.zeros(channels)]
            fan_in = channels
        weights += [
            torch.randn(4 * fan_in, num_classes, generator=random) / math.sqrt(4 * fan_in),
            torch.zeros(num_classes),
        ]

        def loss(batch: torch.Tensor, weights: list[torch.Tensor] = weights) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(forward(weights, x[batch]), labels[batch])

        _fit(weights, batches, loss)
        with torch.no_grad():
            found.append(forward(weights, points).argmax(-1))
    return torch.stack(found)


def _generator(seed: list[int]) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence([*seed, 11]).generate_state(1)[0]))


def _batches(sides: Sequence[Side], updates: int, seed: list[int]) -> torch.Tensor:
    """Rows of every update. [updates,K,B]"""
    pick = np.random.default_rng([*seed, 13]).uniform(size=updates * BATCH)
    return torch.from_numpy(np.stack([_drawn(pick, *side).reshape(updates, BATCH) for side in sides], axis=1))


def _fit(weights: list[torch.Tensor], batches: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """AdamW, its rate falling to 0 along a cosine."""
    for tensor in weights:
        tensor.requires_grad_()
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=WEIGHT_DECAY, fused=True)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        value = loss(batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()


def _drawn(
    pick: FloatArray, real: NDArray[np.int64], synthetic: NDArray[np.int64], weights: FloatArray
) -> NDArray[np.int64]:
    """Rows at uniform numbers `pick`: real ones first, each `weights` times as likely as a synthetic one."""
    upto = np.cumsum(weights)
    share = upto[-1] / (upto[-1] + len(synthetic))
    place = np.searchsorted(upto, pick / share * upto[-1], side="right")
    index: NDArray[np.int64] = real[place.clip(max=len(real) - 1)]
    if share < 1:
        place = ((pick - share) / (1 - share) * len(synthetic)).astype(np.int64)
        index = np.where(pick < share, index, synthetic[place.clip(0, len(synthetic) - 1)])
    return index


def _forward(weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """[.., B,d] -> logits [.., B,C]."""
    w1, b1, w2, b2 = weights
    hidden = torch.relu(torch.baddbmm(b1, x, w1)) if x.dim() == 3 else torch.relu(x @ w1 + b1)
    return torch.baddbmm(b2, hidden, w2) if x.dim() == 3 else hidden @ w2 + b2


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
