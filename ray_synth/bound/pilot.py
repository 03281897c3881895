"""Synthetic labels and asked counts in, the rows to train on at every ratio out, and how far the pilot reaches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pilot:
    """The synthetic images at hand, against those asked for at each ratio.

    labels: [m] in [0, C); counts: [R,C], images of each class asked for.
    """

    labels: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        return int(self.counts.shape[1])

    @cached_property
    def members(self) -> list[NDArray[np.int64]]:
        """Per class, its rows in order."""
        return [np.flatnonzero(self.labels == c) for c in range(self.num_classes)]

    @cached_property
    def share_there(self) -> FloatArray:
        """For each ratio, the share of the asked images that are there: [R] in (0, 1]."""
        available = np.array([len(rows) for rows in self.members])
        asked = np.where(available > 0, self.counts, 0).sum(axis=1)
        there = np.minimum(self.counts, available).sum(axis=1)
        share: FloatArray = np.where(asked > 0, there / np.maximum(asked, 1), 1.0)
        return share

    def rows(self, ratio: int, every: int = 1) -> NDArray[np.int64]:
        """Rows at the ratio of this index: a class that has too few repeats them, so that its weight is right.

        every: the step over each class's images; 4 takes a quarter of them.
        """
        taken = [
            np.resize(rows[::every][:wanted], wanted)
            for rows, wanted in zip(self.members, self.counts[ratio], strict=True)
            if len(rows) and wanted
        ]
        return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)
