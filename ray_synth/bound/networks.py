"""Features with labels in, held-out accuracy at every ratio out: small networks, all folds and ratios as one batch.

Ridge regression averages wrong labels away; a network learns them by heart. So do the classifiers that are asked about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch.optim.adamw import adamw

from ray_synth.bound.pilot import Pilot
from ray_synth.bound.probe import QUARTERS, HeldOut, extrapolated

FloatArray = NDArray[np.float64]

FOLDS = 5
HIDDEN = 64
UPDATES = 800
BATCH = 32
RATE = 3e-3
WEIGHT_DECAY = 1e-2


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

    On a target domain's samples all folds' networks are asked. A class of the pilot that has too few images repeats
    them, and the score is corrected as in `probe.Ridge`, with one quarter of the pilot. Arguments as there.
    """
    n = len(real)
    folds = stratified_folds(real_labels, FOLDS, np.random.default_rng([seed, 5]))
    kept = [np.flatnonzero(folds != fold) for fold in range(FOLDS)]
    beyond = np.flatnonzero(pilot.share_there < 1).tolist()
    mixes = [(pilot.rows(i), float(real_weight[i])) for i in range(len(pilot.counts))]
    mixes += [(pilot.rows(i, every=QUARTERS), float(real_weight[i])) for i in beyond]
    # Those of a class that are kept weigh as much as all of it: the mix is that of the ratio.
    heavy = [_weight_of_all(real_labels, rows) for rows in kept]
    sides = [(kept[fold], n + rows, weight * heavy[fold]) for rows, weight in mixes for fold in range(FOLDS)]
    x = torch.from_numpy(np.concatenate([real, synthetic]).astype(np.float32))
    labels = torch.from_numpy(np.concatenate([real_labels, pilot.labels]))
    points = x[held.rows] if held.target is None else torch.from_numpy(held.target.astype(np.float32))
    right = np.zeros((len(points), len(mixes)))
    for repeat in range(seeds):
        weights = _train(x, labels, sides, pilot.num_classes, seed=[seed, repeat])
        with torch.no_grad():
            predicted = torch.stack([_forward([w[k] for w in weights], points).argmax(-1) for k in range(len(sides))])
        hit = (predicted.numpy() == held.labels).reshape(len(mixes), FOLDS, len(points))
        if held.rows is None:
            right += hit.mean(axis=1).T
        else:  # the one that never saw it
            right += hit[:, folds[held.rows], np.arange(len(points))].T
    whole, quartered = np.split(right / seeds, [len(pilot.counts)], axis=1)
    return extrapolated(whole, quartered, pilot.share_there)


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


def _train(
    x: torch.Tensor,
    labels: torch.Tensor,
    sides: list[tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]],
    num_classes: int,
    *,
    seed: list[int],
) -> list[torch.Tensor]:
    """One network per entry of `sides`: real rows, synthetic rows, real rows' weights. All share starts and draws."""
    random = torch.Generator().manual_seed(int(np.random.SeedSequence([*seed, 11]).generate_state(1)[0]))
    rng = np.random.default_rng([*seed, 13])
    weights: list[torch.Tensor] = []
    for fan_in, fan_out in ((x.shape[1], HIDDEN), (HIDDEN, num_classes)):
        start = torch.randn(fan_in, fan_out, generator=random) / math.sqrt(fan_in)
        weights += [start.repeat(len(sides), 1, 1), torch.zeros(len(sides), 1, fan_out)]
    for tensor in weights:
        tensor.requires_grad_()
    pick = rng.uniform(size=UPDATES * BATCH)
    batches = torch.from_numpy(np.stack([_drawn(pick, *side).reshape(UPDATES, BATCH) for side in sides], axis=1))
    mean, square = ([torch.zeros_like(tensor) for tensor in weights] for _ in range(2))
    steps = [torch.zeros(()) for _ in weights]
    for step, batch in enumerate(batches):
        rows = batch.flatten()
        logits = _forward(weights, x.index_select(0, rows).view(*batch.shape, -1))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[rows], reduction="sum")
        slopes = torch.autograd.grad(loss / BATCH, weights)
        with torch.no_grad():  # an optimizer of torch's would first import its compiler: 2 to 4 s of CPU
            adamw(
                weights,
                list(slopes),
                mean,
                square,
                max_exp_avg_sqs=[],
                state_steps=steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=RATE * 0.5 * (1 + math.cos(math.pi * step / UPDATES)),
                weight_decay=WEIGHT_DECAY,
                eps=1e-8,
                maximize=False,
            )
    return weights


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
