"""One side's images in, its batches out: pixels held where the training runs, or read before the step needs them.

What step t draws follows from the seed and t alone, wherever the pixels lie and whoever trains.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from ray_synth.data.images import ImageSet, held
from ray_synth.data.source import ImageSource
from ray_synth.data.transforms import to_model_range
from ray_synth.training.augment import Augmentation, augment
from ray_synth.training.team import Team

AHEAD = 3  # batches that are read before they are asked for
SHARE_OF_GPU = 0.25  # of its memory that one side's pixels may take


class Batch(NamedTuple):
    images: torch.Tensor  # float [B,C,H,W] in [-1, 1]
    labels: torch.Tensor
    regions: torch.Tensor
    rows: torch.Tensor  # places in the side


class Order:
    """The rows of a side in the order in which they come: shuffled passes, one after the other, fixed by the seed.

    A pass is drawn when it is come to, so that a long training holds a pass or two and not all of them.
    """

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._begin()

    def _begin(self) -> None:
        self._rng, self._next = np.random.default_rng(self.seed), 0
        self._passes: dict[int, np.ndarray] = {}

    def rows(self, places: np.ndarray) -> np.ndarray:
        """Rows at places in the order, int64 [B]; places rise."""
        if not len(places):
            return places
        passes, within = np.divmod(places, self.count)
        first, last = int(passes[0]), int(passes[-1])
        if first < self._next and first not in self._passes:
            self._begin()
        for number in [number for number in self._passes if number < first]:
            del self._passes[number]
        while self._next <= last:
            drawn = self._rng.permutation(self.count)
            if self._next >= first:
                self._passes[self._next] = drawn
            self._next += 1
        if first == last:
            return self._passes[first][within]
        found = np.empty(len(places), dtype=np.int64)
        for number in range(first, last + 1):
            here = passes == number
            found[here] = self._passes[number][within[here]]
        return found


class Side:
    """One side's images, their labels and regions, and the batches of them.

    waited: seconds that batches were not ready for their step, of images that are read while training.

    Args:
        images: in memory, or decoded when asked; of the latter those that take a small share of it are decoded now.
        regions: [N]; updates: how many steps there are, past which nothing is read.
    """

    def __init__(
        self, images: ImageSource, regions: np.ndarray, batch_size: int, updates: int, seed: int, device: torch.device
    ):
        self.source, self.seed, self.device = held(images), seed, device
        self.labels = torch.from_numpy(images.labels).to(device)
        self.regions = torch.from_numpy(regions).to(device)
        self.batch_size = batch_size if len(images) else 0
        self.updates, self.order, self.waited = updates, Order(len(images), seed), 0.0
        self.pixels: torch.Tensor | None = None  # bytes, a quarter of floats
        self._reading: dict[tuple[int, int, int], tuple[np.ndarray, Future[np.ndarray]]] = {}
        self._reader: ThreadPoolExecutor | None = None
        if isinstance(self.source, ImageSet):
            pixels = torch.from_numpy(np.ascontiguousarray(self.source.pixels))
            self.pixels = pixels.to(device) if _fits(pixels, device) else pixels

    def batch(self, step: int, team: Team, changes: Augmentation) -> Batch:
        """This worker's share of a batch. A change of an image follows from its place in the order."""
        places = self._places(step, team)
        if self.pixels is not None:
            rows = torch.from_numpy(self.order.rows(places))
            taken = self.pixels[rows.to(self.pixels.device)]
        else:
            found, taken = self._read(step, team)
            rows = torch.from_numpy(found)
        rows = rows.to(self.device)
        images = augment(to_model_range(taken.to(self.device)), changes, places + self.seed % 2**62)
        return Batch(images, self.labels[rows], self.regions[rows], rows)

    def _places(self, step: int, team: Team) -> np.ndarray:
        start = step * self.batch_size
        return np.arange(start + team.rank, start + self.batch_size, team.size)

    def _read(self, step: int, team: Team) -> tuple[np.ndarray, torch.Tensor]:
        """Rows and pixels of a step; those of the next steps are then being read."""
        if self._reader is None:  # one at a time: a source decodes in threads of its own
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="images")
        wanted = [(number, team.rank, team.size) for number in range(step, min(step + 1 + AHEAD, self.updates))]
        wanted = wanted or [(step, team.rank, team.size)]
        for key in [key for key in self._reading if key not in wanted]:
            self._reading.pop(key)[1].cancel()
        for key in wanted:
            if key not in self._reading:
                rows = self.order.rows(self._places(key[0], team))
                self._reading[key] = rows, self._reader.submit(self.source.images, rows)
        rows, reading = self._reading.pop(wanted[0])
        begin = time.perf_counter()
        pixels = reading.result()
        self.waited += time.perf_counter() - begin
        return rows, torch.from_numpy(pixels)


def _fits(pixels: torch.Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    total = torch.cuda.get_device_properties(device).total_memory
    return math.prod(pixels.shape) <= SHARE_OF_GPU * total
