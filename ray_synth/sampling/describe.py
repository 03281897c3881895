"""Real images in, what pretrained models say of each out, before sampling looks at them.

Made in a pool of actors (Ray Data), in pieces that are files, so that a kill loses little.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ray_synth.config import digest
from ray_synth.data.parquet import sealed_table
from ray_synth.generator.base import Description, Generator, Parents
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import read_own
from ray_synth.sampling.pool import over_pool

PIECE = 64  # images per file
TYPES = (pa.string(), pa.list_(pa.float32()), pa.list_(pa.float64()))  # captions, embeddings


def described_parents(
    folder: RunFolder,
    parents: Parents,
    generator: Generator[Any],
    given: Mapping[str, str] | None,
    models: Mapping[str, str],
) -> Parents:
    """Parents with the captions and embeddings that the generator asks for. Ray must be up where a model makes them.

    given: key of a real image -> its caption, where a file has them; models: the revisions of the models.
    """
    if given is not None:
        parents = dataclasses.replace(parents, captions=[given[key] for key in parents.keys])
    for one in generator.descriptions():
        parents = one.added(parents, _described(folder, one, parents, models[one.part]))
    return parents


def _described(folder: RunFolder, description: Description, parents: Parents, revision: str) -> list[Any]:
    """What the model says of every parent, in their order; pieces that exist are read.

    Raises:
        Spoiled: a piece that cannot be read.
    """
    made_of = digest(description.name, description.settings, revision, list(parents.keys))
    place = f"generator/{description.name}/{made_of[:12]}"
    pieces = [f"{start:08d}.parquet" for start in range(0, len(parents.keys), PIECE)]
    there = set(folder.list(place))
    missing = [{"start": int(piece[:8])} for piece in pieces if piece not in there]
    if missing:
        for _ in over_pool(missing, DescribePieces, (folder.absolute_url, place, description), parents):
            pass
    read = (read_own(folder, f"{place}/{piece}", {"value": TYPES})["value"] for piece in pieces)
    return [value for values in read for value in values]


class DescribePieces:
    """A Ray Data actor: loads the model once, then turns ranges of parents into files."""

    def __init__(self, url: str, place: str, description: Description, parents: Parents, device: str):
        self.folder, self.place, self.parents = RunFolder(url), place, parents
        self.describe = description.describer(device)

    def __call__(self, piece: dict[str, int]) -> int:
        start = piece["start"]
        images = [_colour(image) for image in self.parents.source.images(slice(start, start + PIECE))]
        self.folder.write(f"{self.place}/{start:08d}.parquet", sealed_table({"value": self.describe(images)}))
        return len(images)


def _colour(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
