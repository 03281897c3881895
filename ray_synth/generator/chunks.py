"""A plan in, the chunks still to make out; and finished chunks in, images out. To resume is to list the files.

A chunk is one class and one range of indices, sampled as one batch and written as one file. Its name says all of that,
so two drivers at once would write the same bytes, and growing `images_per_class` adds ranges beside those that exist.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_synth.data.images import ImageSet
from ray_synth.errors import WorkError
from ray_synth.runs import RunFolder

FOLDER = "synthetic"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.binary()),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("parent_key", pa.string()),
        ("model_id", pa.string()),
        ("model_revision", pa.string()),
        ("cluster", pa.int64()),
        ("rejected", pa.string()),
    ]
)
_NAME = re.compile(r"([0-9a-f]{12})-(\d{5})-(\d{8})-(\d{8})\.parquet")


@dataclass(frozen=True, order=True)
class Chunk:
    """Indices [start, stop) of one class."""

    generator: str  # first 12 digits of the generator digest
    label: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.generator}-{self.label:05d}-{self.start:08d}-{self.stop:08d}.parquet"

    @property
    def keys(self) -> list[str]:
        return [image_key(self.generator, self.label, index) for index in range(self.start, self.stop)]


def image_key(generator_digest: str, label: int, index: int) -> str:
    """The stable id of a synthetic image: generator, class, index."""
    return f"{generator_digest[:12]}-{label:05d}-{index:08d}"


def finished_chunks(folder: RunFolder, generator_digest: str) -> list[Chunk]:
    """The chunks of this generator that lie in the run folder, in order."""
    found = (_NAME.fullmatch(name) for name in folder.list(FOLDER))
    chunks = (Chunk(m[1], int(m[2]), int(m[3]), int(m[4])) for m in found if m)
    return sorted(chunk for chunk in chunks if chunk.generator == generator_digest[:12])


def missing_chunks(
    finished: Sequence[Chunk], generator_digest: str, *, num_classes: int, images_per_class: int, chunk_size: int
) -> list[Chunk]:
    """What is still to make for indices [0, images_per_class) of every class, cut at multiples of `chunk_size`."""
    ranges: dict[int, list[Chunk]] = {label: [] for label in range(num_classes)}
    for chunk in sorted(finished):
        if chunk.label in ranges:
            ranges[chunk.label].append(chunk)
    missing = []
    for label, present in ranges.items():
        start = 0
        for stop, after in [*((c.start, c.stop) for c in present), (images_per_class, images_per_class)]:
            stop = min(stop, images_per_class)
            while start < stop:
                cut = min(stop, (start // chunk_size + 1) * chunk_size)
                missing.append(Chunk(generator_digest[:12], label, start, cut))
                start = cut
            start = max(start, after)
    return missing


def write_chunk(
    folder: RunFolder,
    chunk: Chunk,
    images: np.ndarray,
    *,
    class_name: str,
    seeds: Sequence[int],
    model_id: str,
    model_revision: str,
) -> None:
    """One parquet file, whole or absent. images: uint8 [B,H,W,C], written as PNG."""
    count = chunk.stop - chunk.start
    columns = {
        "key": chunk.keys,
        "image": [_png(image) for image in images],
        "label": [chunk.label] * count,
        "class_name": [class_name] * count,
        "source": ["synthetic"] * count,
        "prompt": [class_name] * count,
        "negative_prompt": [""] * count,
        "seed": list(seeds),
        "parent_key": [None] * count,
        "model_id": [model_id] * count,
        "model_revision": [model_revision] * count,
        "cluster": [None] * count,
        "rejected": [""] * count,
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer)
    folder.write(f"{FOLDER}/{chunk.name}", buffer.getvalue())


def read_synthetic(
    folder: RunFolder, generator_digest: str, *, class_names: Sequence[str], images_per_class: int
) -> tuple[ImageSet, list[str]]:
    """All images of the plan, by class and index, with their keys.

    Raises:
        WorkError: a chunk that cannot be read, or keys that are not exactly those of the plan, each once.
    """
    images, labels, keys = [], [], []
    covered = dict.fromkeys(range(len(class_names)), 0)  # class -> indices below this one are here
    for chunk in finished_chunks(folder, generator_digest):
        if chunk.label not in covered or chunk.start >= images_per_class or chunk.stop <= covered[chunk.label]:
            continue
        try:
            table = pq.read_table(io.BytesIO(folder.read(f"{FOLDER}/{chunk.name}")), columns=["key", "image", "label"])
            rows = table.to_pylist()
            # Drivers with different chunk sizes may have overlapped; both made the same images.
            rows = rows[max(0, covered[chunk.label] - chunk.start) : images_per_class - chunk.start]
            images += [_decoded(row["image"]) for row in rows]
        except (pa.ArrowException, OSError, KeyError, SyntaxError) as error:
            raise WorkError(
                f"chunk {FOLDER}/{chunk.name} cannot be read ({error}); remove it and run `generate` again"
            ) from None
        keys += [row["key"] for row in rows]
        labels += [row["label"] for row in rows]
        covered[chunk.label] = chunk.stop
    planned = [
        image_key(generator_digest, label, i) for label in range(len(class_names)) for i in range(images_per_class)
    ]
    if keys != planned:
        lost, extra = len(set(planned) - set(keys)), len(keys) - len(set(keys) & set(planned))
        raise WorkError(
            f"the synthetic images are not those of the plan: {lost} missing, {extra} too many; run `generate` again"
        )
    return ImageSet(
        images=np.stack(images), labels=np.asarray(labels, dtype=np.int64), class_names=tuple(class_names)
    ), keys


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


def _decoded(data: bytes) -> np.ndarray:
    from PIL import Image

    image = np.asarray(Image.open(io.BytesIO(data)))
    return image[..., None] if image.ndim == 2 else image
