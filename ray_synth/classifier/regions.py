"""Sets of images in, the k-means region of each image out: of many, k-means sees a sample and the rest goes by once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from ray_synth.data.source import ImageSource, joined
from ray_synth.features.cache import cached, features_folder
from ray_synth.features.encoders import Images, encoder_of
from ray_synth.features.pixels import pixel_vectors
from ray_synth.partition import kmeans_partition, nearest, sampled

SHARED = 2**19  # images of which an encoder's features are taken once for all trainings, and held
BLOCK = 4096  # vectors that are held, at once


class Vectors:
    """What k-means looks at of sets of images, one set after the other: pixels, or an encoder's features.

    at_once: images whose vectors are to be held together, at most; default all. known: float32 [n,d] of all images,
    where they are held already.
    """

    def __init__(
        self, sets: Sequence[ImageSource], spec: str, *, at_once: int | None = None, known: np.ndarray | None = None
    ):
        self.sets, self.spec, self.known = sets, spec, known
        self.number = sum(map(len, sets))
        self.at_once = self.number if at_once is None else min(at_once, self.number)

    def all(self) -> np.ndarray:
        """float32 [n,d]."""
        return self.known if self.known is not None else _placed(self.blocks(), np.arange(self.number))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Of these rows alone, in their order: float32 [k,d]."""
        if self.known is not None:
            taken: np.ndarray = self.known[rows]
            return taken
        places = np.argsort(rows)  # images are read in the order in which they lie
        return _placed(map(self._look, joined(self.sets).take(rows[places]).batches()), places)

    def blocks(self) -> Iterator[np.ndarray]:
        """All, a block at a time."""
        if self.known is not None:
            return (self.known[start : start + BLOCK] for start in range(0, self.number, BLOCK))
        return map(self._look, chain.from_iterable(images.batches() for images in self.sets))

    @functools.cached_property
    def _look(self) -> Callable[[Images], np.ndarray]:
        if self.spec == "pixels":
            return pixel_vectors(self.at_once, self.sets[0].shape)
        encoder = cached(encoder_of(self.spec), features_folder())
        return lambda images: encoder(images).astype(np.float32)


def encoded(sets: Sequence[ImageSource], spec: str) -> Iterator[np.ndarray]:
    """An encoder's features, batch after batch, each made once on this machine."""
    yield from Vectors(sets, spec).blocks()


def regions_of(vectors: Vectors, names: Iterable[str], num_clusters: int, *, iterations: int, seed: int) -> np.ndarray:
    """The region of each image, int64 [n]. names: a stable one of each.

    Where there are more than may be held at once, k-means is fitted on so many, drawn by name, and each image goes to
    the nearest centroid in one pass over all, which holds a block of them.
    """
    if vectors.at_once == vectors.number:
        return kmeans_partition(vectors.all(), num_clusters, iterations=iterations, seed=seed).regions
    drawn = vectors.of(sampled(names, vectors.at_once, seed))
    centroids = kmeans_partition(drawn, num_clusters, iterations=iterations, seed=seed).centroids
    del drawn
    return np.concatenate([nearest(block, centroids) for block in vectors.blocks()])


def _placed(blocks: Iterable[np.ndarray], places: np.ndarray) -> np.ndarray:
    """Vectors that come in blocks, each in its place: float32 [n,d]."""
    start, out = 0, np.empty((0, 0), dtype=np.float32)
    for block in blocks:
        if not start:
            out = np.empty((len(places), block.shape[1]), dtype=np.float32)
        out[places[start : start + len(block)]] = block
        start += len(block)
    return out
