"""Image sources and an encoder in, what an estimate asks of each out: read once, block by block, at a modest size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_synth.data.leaks import DIGEST, copies_among, digests_of
from ray_synth.data.source import ImageSource
from ray_synth.features.encoders import Encoder
from ray_synth.features.families import BLOCK, looked_at
from ray_synth.metrics.spectrum import PixelStats, pixel_stats

FloatArray = NDArray[np.float64]

SIDE = 256  # pixels a side at most: what networks look at; thumbnails and spectra need less
SPECTRUM_PIXELS = 2**26  # of a set that spectra are taken of: 1,024 images of 256x256, 65,536 of 32x32


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """A set as it was read: rows [n,d] or thumbnails [n,h,w,C], of which families are made, and what its pixels say.

    rows: [n], those that were kept of the set; notes: how many were not, and why.
    """

    taken: FloatArray
    stats: PixelStats
    rows: NDArray[np.int64]
    notes: tuple[str, ...] = ()


def read_set(
    source: ImageSource, encoder: Encoder | None, *, once: bool = False, more: Callable[[int], None] | None = None
) -> Read:
    """One pass over the images, at most 256 pixels a side: a block of 256 is decoded at a time.

    Features are of every image. The spectrum and the variance are of at most 2**26 pixels: of larger sets, of so many
    images at even distances. `once` leaves out copies of an image, as a run does. `more` is told how many images each
    block holds.

    Raises:
        InputError: an image that cannot be read, or features that are not finite or not [n,d]; with `once`, an image
            that stands under two classes.
    """
    small = source.within(SIDE)
    rows = spectrum_rows(len(small), small.shape)
    pixels = np.empty((len(rows), *small.shape), dtype=np.uint8)
    taken, digests, start = [], [np.zeros(0, DIGEST)], 0
    for block in small.batches(BLOCK):
        taken.append(looked_at(block, encoder))
        if once:
            digests.append(digests_of(block))
        first, last = np.searchsorted(rows, (start, start + len(block)))
        pixels[first:last] = block[rows[first:last] - start]
        start += len(block)
        if more is not None:
            more(len(block))
    lost, notes = copies_among(np.concatenate(digests), source.labels, lambda row: _named(source, row))
    kept = np.setdiff1d(np.arange(len(small)), lost)
    of_all = np.concatenate(taken)
    return Read(
        taken=of_all[kept] if len(lost) else of_all,
        stats=pixel_stats(pixels[~np.isin(rows, lost)] if len(lost) else pixels, count=len(kept)),
        rows=kept,
        notes=tuple(notes),
    )


def _named(source: ImageSource, row: int) -> str:
    label = source.labels[row]
    of_class = source.class_names[label] if source.class_names else label.item()
    return f"{source.name(row)} (class {of_class!r})"


def spectrum_rows(count: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Which of `count` images [H,W,C] spectra are taken of, rising; all where they are few or small."""
    most = max(1, SPECTRUM_PIXELS // (shape[0] * shape[1]))
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)
