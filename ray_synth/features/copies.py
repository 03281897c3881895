"""Real images in; of others, the nearest real one out, how much nearer it is than the next, and whether that is a copy.

Nearness is the cosine of unit vectors (faiss, inner product): small grey images, or an encoder's features seen from the
mean of the real ones. It is the real images that are mirrored and cut: a generator that learnt an image from its crops
gives back a crop, and the images that are asked about, which may be millions, are looked at once each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_synth.data.source import ImageSource
from ray_synth.features.crops import WHOLE, Floats, directions, grey, seen
from ray_synth.features.encoders import Encoder

SIDE = 16  # pixels a side that are compared, or as many as a real image has
SHRUNK = 64  # pixels a side of the real images that are cut
CROP = 0.8  # side of a crop; one that was found may be shrunk or grown by a STEP
STEPS = {
    5: (0.025, 0.0125),
    3: (0.05, 0.025),
    1: (0.1, 0.05, 0.025),
}  # crops a side -> steps by which the best are moved
LEAST, MOST = 0.7, 1.0  # sides that a crop may come to
MOST_BYTES = 2**29  # of vectors that are held: more real images are cut at fewer places
TRIED = 5  # of the nearest real images, whose crops are moved
NEIGHBOURS = 50  # by whose mean distance a distance is measured (Carlini et al., 2023)
CALIBRATION = 1000  # real images whose own neighbours set the limit
FALSE_ALARMS = 0.0025  # share of new images that the limit would take for copies: of 1,000, at most 5 in 24 of 25 cases
LEAST_LIMIT = 0.05  # even where real images have copies among themselves
UNCALIBRATED = 0.25  # with fewer than three real images there are no neighbours to learn from


@dataclass(frozen=True, kw_only=True)
class View:
    """A real image, first mirrored if it is, and then cut: top, left and length of the box, as shares."""

    box: tuple[float, float, float]
    mirrored: bool


def views(crops: int) -> list[View]:
    """Whole images, and crops x crops places of a crop, each as it is and mirrored."""
    places = np.linspace(0, 1 - CROP, crops) if crops > 1 else np.full(crops, (1 - CROP) / 2)
    boxes = [(0.0, 0.0, 1.0), *((float(top), float(left), CROP) for top in places for left in places)]
    return [View(box=box, mirrored=mirrored) for box in boxes for mirrored in (False, True)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Nearest:
    """rows: [n] of the nearest real images; distance: [n] to them, of unit vectors (0 to 2); relative: [n] that as a
    share of the mean distance to the next 50 real images, which is small where an image is nearer to one than to its
    kind."""

    rows: NDArray[np.int64]
    distance: Floats
    relative: Floats

    @property
    def cosine(self) -> Floats:
        return np.asarray(1 - self.distance**2 / 2, dtype=np.float32)


class RealImages:
    """What others are compared with; built once.

    encoder: None for small grey images. Of these the crop of the nearest is moved until it fits best; an encoder tells
    little of where exactly a crop lies, and gets the whole and the middle.
    """

    def __init__(self, real: ImageSource, encoder: Encoder | None = None):
        self.encoder, self.count = encoder, len(real)
        self.name = "" if encoder is None else encoder.name
        if encoder is None:
            small = real.within(SHRUNK)
            self.side = min(SIDE, *small.shape[:2])
            self.name = f"grey pixels at {self.side} a side"
            self.crops = _affordable(self.count * self.side**2 * 4)
            kept, found = [], []
            for block in map(grey, small.batches()):
                found.append([self._thumbnails(block, view) for view in views(self.crops)])
                if self.crops:  # that are moved; without, nothing asks for the images again
                    kept.append(block)
            vectors = [np.concatenate(each) for each in zip(*found, strict=True)]
            if kept:
                self.grey = np.concatenate(kept)
        else:
            self.crops = 1
            features = [_features(encoder, real, view) for view in views(self.crops)]
            self.centre = features[0].mean(axis=0)
            vectors = [directions(each - self.centre) for each in features]
        self.vectors = vectors[0]  # of the whole images
        self.views = views(self.crops)
        self._indices = [_index(each) for each in vectors]

    def nearest(self, images: Sequence[np.ndarray]) -> Nearest:
        """images: uint8 [H,W,C] each, of any sizes."""
        return self._nearest(self._looked_at(images), None)

    @cached_property
    def limit(self) -> float:
        """The relative distance that one in 400 real images keeps to its nearest neighbour: about as rare would an
        image as new as a real one be taken for a copy."""
        if self.count < 3:
            return UNCALIBRATED
        some = np.random.default_rng(0).permutation(self.count)[:CALIBRATION]
        own = self._nearest(self.vectors[some], some)
        return max(LEAST_LIMIT, float(np.quantile(own.relative, FALSE_ALARMS)))

    @property
    def by_chance(self) -> float:
        """The share of new images that the limit may take for copies: few real images cannot promise one in 400."""
        return max(FALSE_ALARMS, 1 / (1 + min(self.count, CALIBRATION)))

    def are_copies(self, images: Sequence[np.ndarray]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.nearest(images).relative < self.limit
        return found

    def _thumbnails(self, images: NDArray[np.uint8], view: View) -> Floats:
        return seen(images[:, :, ::-1] if view.mirrored else images, np.array(view.box, dtype=np.float32), self.side)

    def _looked_at(self, images: Sequence[np.ndarray]) -> Floats:
        """Those of one size together: sizes may differ."""
        shapes = [image.shape for image in images]
        found: list[Any] = [None] * len(images)
        for shape in dict.fromkeys(shapes):
            rows = [row for row, each in enumerate(shapes) if each == shape]
            block = np.stack([images[row] for row in rows])
            if self.encoder is None:
                vectors = seen(grey(block), WHOLE, self.side)
            else:
                vectors = directions(self.encoder(block).astype(np.float32) - self.centre)
            for row, vector in zip(rows, vectors, strict=True):
                found[row] = vector
        return np.stack(found)

    def _nearest(self, asked: Floats, own: NDArray[np.int64] | None) -> Nearest:
        """own: rows that `asked` are themselves, and that are left out."""
        cosine, rows, of_view = self._closest(asked, own)
        tried = min(TRIED, rows.shape[1])
        best = cosine[:, :tried].copy()
        if self.encoder is None and self.crops:
            for column in range(tried):
                best[:, column] = self._moved(asked, rows[:, column], of_view[:, column], best[:, column])
        chosen = best.argmax(axis=1)
        each = np.arange(len(asked))
        distance = _distances(best[each, chosen])
        others = _distances(cosine)
        others[each, chosen] = np.nan
        # A set of one real image has no others: unit vectors that know nothing of each other are √2 apart.
        typical = np.nanmean(others, axis=1) if others.shape[1] > 1 else np.full(len(asked), np.sqrt(2))
        return Nearest(
            rows=rows[each, chosen],
            distance=distance,
            relative=(distance / np.maximum(typical, 1e-3)).astype(np.float32),
        )

    def _closest(
        self, asked: Floats, own: NDArray[np.int64] | None
    ) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """Cosine, row and view of the nearest real images, each once, by the view in which it is nearest. [n,k]"""
        count = self.count - (own is not None)
        k = min(1 + NEIGHBOURS, count)
        each = np.arange(len(asked))[:, None]
        cosine, rows = np.empty((len(asked), 0), np.float32), np.empty((len(asked), 0), np.int64)
        of_view = rows
        for view, index in enumerate(self._indices):
            more, more_rows = index.search(asked, min(k + (own is not None), self.count))
            if own is not None:
                more[more_rows == own[:, None]] = -2
            cosine, rows = np.concatenate([cosine, more], axis=1), np.concatenate([rows, more_rows], axis=1)
            of_view = np.concatenate([of_view, np.full(more_rows.shape, view)], axis=1)
            order = np.lexsort((-cosine, rows), axis=1)
            cosine, rows, of_view = cosine[each, order], rows[each, order], of_view[each, order]
            cosine[:, 1:][rows[:, 1:] == rows[:, :-1]] = -3  # another view of the image before
            top = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
            cosine, rows, of_view = cosine[each, top], rows[each, top], of_view[each, top]
        return cosine, rows, of_view

    def _moved(self, asked: Floats, rows: NDArray[np.int64], of_view: NDArray[np.int64], cosine: Floats) -> Floats:
        """The cosine to a crop of each real image that was moved, shrunk and grown from the view's. [n] each"""
        images = self.grey[rows]
        mirrored = np.array([view.mirrored for view in self.views])[of_view]
        images[mirrored] = images[mirrored][:, :, ::-1]
        boxes = np.array([view.box for view in self.views], dtype=np.float32)[of_view]
        best = cosine.copy()
        for step in STEPS[self.crops]:
            around = boxes.copy()
            for by in np.ndindex(3, 3, 3):
                down, right, larger = (np.array(by) - 1) * step
                length = np.clip(around[:, 2] + larger, LEAST, MOST)
                corner = around[:, :2] + [down, right] - larger / 2
                there = np.column_stack([np.clip(corner, 0, 1 - length[:, None]), length]).astype(np.float32)
                fits = (seen(images, there, self.side) * asked).sum(axis=1)
                better = fits > best
                best[better], boxes[better] = fits[better], there[better]
        return best


def _features(encoder: Encoder, real: ImageSource, view: View) -> Floats:
    """Of all real images as a view shows them, batch by batch."""
    top, left, length = view.box
    found = []
    for batch in real.batches():
        height, width = batch.shape[1:3]
        down = slice(int(top * height), int(top * height) + round(length * height))
        across = slice(int(left * width), int(left * width) + round(length * width))
        cut = (batch[:, :, ::-1] if view.mirrored else batch)[:, down, across]
        found.append(encoder(np.ascontiguousarray(cut)))
    return np.concatenate(found).astype(np.float32)


def _affordable(bytes_of_a_view: int) -> int:
    """Crops a side, the most whose vectors may be held."""
    fitting = (crops for crops in STEPS if len(views(crops)) * bytes_of_a_view <= MOST_BYTES)
    return next(fitting, 0)


def _index(vectors: Floats) -> Any:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def _distances(cosine: Floats) -> Floats:
    """Of unit vectors, from their cosine."""
    return np.asarray(np.sqrt(np.maximum(2 - 2 * cosine, 0)), dtype=np.float32)
