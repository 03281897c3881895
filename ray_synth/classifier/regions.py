"""Sets of images in, the k-means region of each image out: of many, k-means sees a sample and the rest goes by once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from ray_synth.data.source import ImageSource, joined
from ray_synth.features.cache import cached, features_folder
from ray_synth.features.encoders import Images, encoder_of
from ray_synth.features.pixels import pixel_vectors
from ray_synth.partition import Partition, kmeans_partition, nearest, sampled
from ray_synth.training.team import Team

SHARED = 2**19  # images of which an encoder's features are taken once for all trainings, and held
BLOCK = 4096  # vectors that are held, at once
ALONE = Team(device=torch.device("cpu"))


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

    def blocks(self, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Of these rows, default all, a block at a time."""
        if self.known is None:
            sets = self.sets if rows is None else [joined(self.sets).take(rows)]
            return map(self._look, chain.from_iterable(images.batches() for images in sets))
        known = self.known if rows is None else self.known[rows]
        return (known[start : start + BLOCK] for start in range(0, len(known), BLOCK))

    @functools.cached_property
    def _look(self) -> Callable[[Images], np.ndarray]:
        if self.spec == "pixels":
            return pixel_vectors(self.at_once, self.sets[0].shape)
        encoder = cached(encoder_of(self.spec), features_folder())
        return lambda images: encoder(images).astype(np.float32)


def encoded(sets: Sequence[ImageSource], spec: str) -> Iterator[np.ndarray]:
    """An encoder's features, batch after batch, each made once on this machine."""
    yield from Vectors(sets, spec).blocks()


def regions_of(
    vectors: Vectors, names: Iterable[str], num_clusters: int, *, iterations: int, seed: int, team: Team = ALONE
) -> np.ndarray:
    """The region of each image, int64 [n]. names: a stable one of each.

    Where there are more than may be held at once, k-means is fitted on so many, drawn by name, and each image goes to
    the nearest centroid in one pass over all, which holds a block of them. Workers of a team, who all call this, share
    the reading; k-means is the first one's work.
    """
    fitted = functools.partial(kmeans_partition, num_clusters=num_clusters, iterations=iterations, seed=seed)
    if vectors.at_once == vectors.number:
        return team.told(lambda: fitted(vectors.all()).regions)
    centroids = _centroids(vectors, sampled(names, vectors.at_once, seed), fitted, team)

    def regions(mine: np.ndarray) -> np.ndarray:
        return np.concatenate([nearest(block, centroids) for block in vectors.blocks(mine)])

    return _shared(team, vectors.number, regions)


def _centroids(vectors: Vectors, rows: np.ndarray, fitted: Callable[[np.ndarray], Partition], team: Team) -> np.ndarray:
    drawn = _shared(team, len(rows), lambda mine: vectors.of(rows[mine]))
    return team.told(lambda: fitted(drawn).centroids)


def _shared(team: Team, count: int, found: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What is found of `count` things, each worker looking at its share. found: rows -> [k,...]."""
    if team.size == 1:  # nothing goes to a GPU and back
        return found(np.arange(count))
    part = torch.from_numpy(found(team.share(count).numpy()))
    return np.asarray(team.gathered(part.to(team.device)).cpu().numpy()[:count])


def _placed(blocks: Iterable[np.ndarray], places: np.ndarray) -> np.ndarray:
    """Vectors that come in blocks, each in its place: float32 [n,d]."""
    start, out = 0, np.empty((0, 0), dtype=np.float32)
    for block in blocks:
        if not start:
            out = np.empty((len(places), block.shape[1]), dtype=np.float32)
        out[places[start : start + len(block)]] = block
        start += len(block)
    return out
