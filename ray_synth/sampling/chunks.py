"""A plan in, the chunks still to make out; and finished chunks in, rows out. To resume is to list the files.

A chunk is one class and one range of indices, written as one file. Its name says all of that, and how many of its
images were rejected, so two drivers at once would write the same bytes, asking for more of a class adds ranges beside
those that exist, and what a filter took is refilled without opening a file.
"""

from __future__ import annotations

import errno
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ray_synth.data.decoding import room_for, unified
from ray_synth.data.parquet import Types, read_columns, sealed_table
from ray_synth.data.source import EncodedImages, ImageSource, Rows
from ray_synth.errors import Spoiled, WorkError
from ray_synth.runs import RunFolder

if TYPE_CHECKING:
    from PIL import Image

FOLDER = "synthetic"
CHUNK_BYTES = 5_000  # of a file around its images: columns, schema
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
        ("model_license", pa.string()),
        ("cluster", pa.int64()),
        ("rejected", pa.string()),
        ("near_copy_distance", pa.float32()),
        ("clip_probability", pa.float32()),
    ]
)
WEIGHED = SCHEMA.append(pa.field("weight", pa.float64()))  # of images that stand for more of their class than others
SCORES = ("near_copy_distance", "clip_probability")  # of filters; null where none asked; older chunks have none
_NAME = re.compile(r"([0-9a-f]{12})-(\d{5})-(\d{8})-(\d{8})(?:-(\d{5}))?\.parquet")
READERS = 8  # files that are opened at once
MARGIN = 1.1
HOPELESS = 32  # images of which none was kept: the next will not be either


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for: of every class the first images, so many, that no filter rejects."""

    generator_digest: str  # what an image is a function of, beside its class and index
    chunk_digest: str  # and what else a file's bytes depend on: filter, format
    images_per_class: tuple[int, ...]
    chunk_size: int
    max_attempts: int = 1  # images sampled per image asked, at most
    available: tuple[int, ...] | None = None  # images of each class that exist, where they are not made
    # Names of several generators side by side: what is said of classes is said of the first one's, then of the next
    # one's, and a chunk's `label` counts them through.
    generators: tuple[str, ...] = ()
    folder: str = FOLDER  # of the run folder, in which the chunks lie

    @property
    def num_classes(self) -> int:
        return len(self.images_per_class) // max(1, len(self.generators))

    def place(self, label: int) -> tuple[int, int]:
        """A chunk's generator (0 for the first) and class."""
        return divmod(label, self.num_classes)

    def key(self, label: int, index: int) -> str:
        """The stable id of a synthetic image: generator, class, index."""
        return f"{self.generator_digest[:12]}-{label:05d}-{index:08d}"


@dataclass(frozen=True, order=True)
class Chunk:
    """Indices [start, stop) of one class (of several generators: of one of them); `rejected` of these were set aside (0
    for a chunk still to make)."""

    prefix: str  # first 12 digits of the plan's chunk digest
    label: int
    start: int
    stop: int
    rejected: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        rejected = f"-{self.rejected:05d}" if self.rejected else ""
        return f"{self.prefix}-{self.label:05d}-{self.start:08d}-{self.stop:08d}{rejected}.parquet"

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Remaining:
    """What is left to do. short: class -> images kept, where the attempts are used up below the quota."""

    missing: list[Chunk]
    short: dict[int, int]

    @property
    def num_images(self) -> int:
        return sum(map(len, self.missing))


def finished_chunks(folder: RunFolder, plan: Plan) -> list[Chunk]:
    """The chunks of this plan that lie in the run folder, in order of class and index."""
    found = (_NAME.fullmatch(name) for name in folder.list(plan.folder))
    prefix = plan.chunk_digest[:12]
    return sorted(Chunk(prefix, int(m[2]), int(m[3]), int(m[4]), int(m[5] or 0)) for m in found if m and m[1] == prefix)


def work_left(finished: Sequence[Chunk], plan: Plan) -> Remaining:
    """What is still to make, class by class, cut at multiples of the chunk size.

    First the indices below the quota. When they are all there and some were rejected, as many more as should give the
    rest at the rate of acceptance so far, and so on. What comes next depends on complete rounds only, so a run that is
    killed and one that is not make the same chunks.
    """
    ranges: dict[int, list[Chunk]] = {label: [] for label in range(len(plan.images_per_class))}
    for chunk in finished:
        if chunk.label in ranges:
            ranges[chunk.label].append(chunk)
    work = Remaining([], {})
    for label, present in ranges.items():
        _class_left(label, present, plan, work)
    return work


def _class_left(label: int, present: Sequence[Chunk], plan: Plan, work: Remaining) -> None:
    wanted = plan.images_per_class[label]
    limit = plan.max_attempts * wanted
    if plan.available is not None:
        limit = min(limit, plan.available[label])
    end = wanted
    while True:
        gaps = list(_gaps(present, end))
        if gaps:
            prefix, size = plan.chunk_digest[:12], plan.chunk_size
            for start, stop in gaps:
                cuts = [start, *range((start // size + 1) * size, stop, size), stop]
                work.missing.extend(Chunk(prefix, label, a, b) for a, b in itertools.pairwise(cuts))
            return
        covered, kept = _kept(present, end)
        if kept >= wanted:
            return
        if covered >= limit or (kept <= 0 and covered >= HOPELESS):
            kept = _kept(present, math.inf)[1]  # more were made when more were asked
            if kept < wanted:
                work.short[label] = max(kept, 0)
            return
        rate = max(kept / covered, 1 / (2 * covered))
        # A little more than that, for each round loads the generator again.
        end = min(limit, covered + math.ceil(MARGIN * (wanted - kept) / rate) + 1)


def _kept(present: Sequence[Chunk], end: float) -> tuple[int, int]:
    """How far the chunks reach that begin below `end`, and how many images they keep.

    Where two drivers cut the same indices differently this counts a reject twice; a few images more are then made.
    """
    covered, rejected = 0, 0
    for chunk in present:
        if covered >= end or chunk.start > covered:
            break
        if chunk.stop > covered:
            covered, rejected = chunk.stop, rejected + chunk.rejected
    return covered, covered - rejected


def _gaps(present: Sequence[Chunk], end: int) -> Iterator[tuple[int, int]]:
    """What of [0, end) no chunk covers."""
    start = 0
    for chunk in present:
        if chunk.start >= end:
            break
        if chunk.start > start:
            yield start, chunk.start
        start = max(start, chunk.stop)
    if start < end:
        yield start, end


def write_chunk(
    folder: RunFolder, chunk: Chunk, rows: dict[str, Any], *, place: str = FOLDER, schema: pa.Schema | None = None
) -> Chunk:
    """One parquet file, whole or absent. rows: the columns of the schema (default SCHEMA), one value an image or one
    for all; scores may be left out. place: the plan's folder."""
    count, rows = len(chunk), dict.fromkeys(SCORES) | rows
    columns = {
        name: list(value) if isinstance(value, list | np.ndarray) else [value] * count for name, value in rows.items()
    }
    rejected = sum(bool(reason) for reason in columns["rejected"])
    chunk = Chunk(chunk.prefix, chunk.label, chunk.start, chunk.stop, rejected)
    folder.write(f"{place}/{chunk.name}", sealed_table(columns, SCHEMA if schema is None else schema))
    return chunk


def read_chunk(folder: RunFolder, chunk: str, columns: Sequence[str], place: str = FOLDER) -> dict[str, list[Any]]:
    """Columns of a chunk, by the name of its file. Raises Spoiled where they are not those that were written."""
    types = {name: [WEIGHED.field(name).type, *([pa.null()] if name in SCORES else [])] for name in columns}
    return read_own(folder, f"{place}/{chunk}", types)


def read_own(folder: RunFolder, name: str, types: Types) -> dict[str, list[Any]]:
    """Columns of a parquet file of the run folder. Raises Spoiled where they are not those that were written."""
    try:
        with folder.open(name) as file:
            return read_columns(file, types)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        if getattr(error, "errno", None) not in (None, errno.ENOENT, errno.EISDIR):  # the disk fails, not the file
            raise WorkError(f"{folder.url}/{name} cannot be read ({error})") from None
        raise _spoiled(folder, name, f"cannot be read ({error})") from None


def _spoiled(folder: RunFolder, name: str, what: str) -> Spoiled:
    return Spoiled(f"{folder.url}/{name} {what}; remove it and run `generate` again, which makes it anew", name)


def encoded(image: np.ndarray, format: str, quality: int) -> bytes:
    """uint8 [H,W,C] -> the bytes of an image file. `quality` is of jpeg and webp; webp at 100 loses nothing."""
    from PIL import Image

    buffer = io.BytesIO()
    # Level 6, the default, takes half as long again and saves nothing on photographs.
    options: dict[str, Any] = {"compress_level": 4} if format == "png" else {"quality": quality}
    if format == "webp":
        options["lossless"] = quality == 100
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format=format, **options)
    return buffer.getvalue()


Row = dict[str, Any]


def read_rows(folder: RunFolder, plan: Plan, columns: Sequence[str]) -> Iterator[tuple[Chunk, list[Row]]]:
    """The plan's images in order of class and index, a chunk at a time, rejected ones left out.

    Raises:
        Spoiled: chunks that cannot be read, or whose keys are not those of the plan: all of them, before the end.
        WorkError: images are missing.
    """
    wanted = list(dict.fromkeys(["key", "rejected", *columns]))
    covered = dict.fromkeys(range(len(plan.images_per_class)), 0)  # class -> indices below this one were read
    kept = dict.fromkeys(covered, 0)
    needed: list[tuple[Chunk, int]] = []
    for chunk in finished_chunks(folder, plan):
        if chunk.label in covered and chunk.stop > covered[chunk.label]:
            # Drivers with different chunk sizes may have overlapped; both made the same images.
            needed.append((chunk, covered[chunk.label]))
            covered[chunk.label] = chunk.stop

    spoiled: list[Spoiled] = []

    def read(task: tuple[Chunk, int]) -> list[Row]:
        chunk, first = task
        try:
            values = read_chunk(folder, chunk.name, wanted, plan.folder)
            if values["key"] != [plan.key(chunk.label, index) for index in range(chunk.start, chunk.stop)]:
                raise _spoiled(folder, f"{plan.folder}/{chunk.name}", "does not hold the keys that its name says")
        except Spoiled as error:
            spoiled.append(error)
            return []
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return [row for row in rows[max(0, first - chunk.start) :] if not row["rejected"]]

    with ThreadPoolExecutor(READERS) as pool:
        for window in range(0, len(needed), READERS):  # so that few chunks are in memory at once
            tasks = needed[window : window + READERS]
            for (chunk, _), rows in zip(tasks, pool.map(read, tasks), strict=True):
                rows = rows[: plan.images_per_class[chunk.label] - kept[chunk.label]]
                kept[chunk.label] += len(rows)
                if rows and not spoiled:
                    yield chunk, rows
    if spoiled:
        more = f"{len(spoiled) - 1} more chunk(s) too: " if len(spoiled) > 1 else ""
        raise Spoiled(more + str(spoiled[0]), *(name for error in spoiled for name in error.names))
    missing = sum(plan.images_per_class) - sum(kept.values())
    if missing:
        raise WorkError(f"the synthetic images are not those of the plan: {missing} missing; run `generate` again")


def rejected_counts(
    folder: RunFolder, plan: Plan, *, listed: int, first: str = ""
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """What was set aside, counted by reason; and (key, reason) of at most `listed`, those for the reason `first` first.

    Raises:
        Spoiled: a chunk that cannot be read.
    """

    def read(chunk: Chunk) -> list[tuple[str, str]]:
        values = read_chunk(folder, chunk.name, ["key", "rejected"], plan.folder)
        return [pair for pair in zip(values["key"], values["rejected"], strict=True) if pair[1]]

    counts: Counter[str] = Counter()
    head: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    chunks = [chunk for chunk in finished_chunks(folder, plan) if chunk.rejected]
    with ThreadPoolExecutor(READERS) as pool:
        for found in pool.map(read, chunks):
            counts.update(reason for _, reason in found)
            head += [pair for pair in found if pair[1] == first]
            if len(others) < listed:
                others += [pair for pair in found if pair[1] != first]
    return dict(sorted(counts.items())), (head + others)[:listed]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChunkImages(EncodedImages):
    """Images of chunks, decoded each time they are asked for. places: [N,2] which chunk, and the row in it.

    Rows of many chunks cost as many files.
    """

    url: str  # of the run folder
    chunks: tuple[Chunk, ...]
    places: np.ndarray
    folder: str = FOLDER  # the plan's

    def encoded(self, rows: np.ndarray) -> list[bytes]:
        """Each chunk is read once. Raises Spoiled for one that cannot be."""
        folder, places = RunFolder.on_worker(self.url), self.places[rows]
        names = [self.chunks[chunk].name for chunk in dict.fromkeys(places[:, 0].tolist())]
        with ThreadPoolExecutor(READERS) as pool:
            read = dict(
                zip(
                    names,
                    pool.map(lambda name: read_chunk(folder, name, ["image"], self.folder)["image"], names),
                    strict=True,
                )
            )
        return [read[self.chunks[chunk].name][row] for chunk, row in places.tolist()]

    def stamps(self, rows: np.ndarray) -> list[str]:
        """A chunk's name says what lies in it."""
        return [f"{self.chunks[chunk].name} {row}" for chunk, row in self.places[rows].tolist()]

    def bytes_of(self, rows: np.ndarray) -> int:
        """Of all images of its chunks, in proportion."""
        folder, (chunks, number) = RunFolder.on_worker(self.url), np.unique(self.places[rows, 0], return_counts=True)
        each = [(folder.size(f"{self.folder}/{self.chunks[c].name}"), len(self.chunks[c])) for c in chunks]
        return sum(size * int(n) // max(1, length) for (size, length), n in zip(each, number, strict=True))

    def images(self, rows: Rows | None = None) -> np.ndarray:
        """Raises Spoiled for a chunk that cannot be read."""
        chunks, places = (self.places if rows is None else self.places[rows]).T
        out, folder = room_for(len(places), self.shape), RunFolder.on_worker(self.url)
        order = np.argsort(chunks, kind="stable")

        def read(asked: np.ndarray) -> None:
            name = self.chunks[chunks[asked[0]]].name
            images = read_chunk(folder, name, ["image"], self.folder)["image"]
            try:
                for row in asked:
                    out[row] = unified(picture(images[places[row]]), self.shape, crop=self.crop)
            except Exception as error:  # whatever Pillow makes of other bytes
                raise _spoiled(folder, f"{self.folder}/{name}", f"cannot be read (an image of it: {error})") from None

        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(read, np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1) if len(order) else []):
                pass
        return out

    def _shrunk(self, shape: tuple[int, int, int]) -> ImageSource:
        return replace(self, shape=shape)

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"places": self.places[rows]}


def read_synthetic(
    folder: RunFolder, plan: Plan, *, class_names: Sequence[str], shape: tuple[int, int, int], crop: bool = False
) -> ChunkImages:
    """The images of the plan, by class and index (of several generators one after the other), in the size and mode of
    the real ones; `sources` are their keys.

    shape: [H,W,C] of what comes back; images of another size are resized, and cropped to its proportions with `crop`.

    Raises:
        WorkError: as `read_rows`.
    """
    found = [(chunk, [row["key"] for row in rows]) for chunk, rows in read_rows(folder, plan, ["key"])]
    each = [len(keys) for _, keys in found]
    rows = [int(key.rsplit("-", 1)[1]) - chunk.start for chunk, keys in found for key in keys]
    return ChunkImages(
        labels=np.repeat(np.array([plan.place(chunk.label)[1] for chunk, _ in found], dtype=np.int64), each),
        class_names=tuple(class_names),
        shape=shape,
        sources=np.array([key for _, keys in found for key in keys], dtype=object),
        url=folder.absolute_url,
        chunks=tuple(chunk for chunk, _ in found),
        places=np.stack([np.repeat(np.arange(len(found)), each), np.array(rows, dtype=np.int64)], axis=1),
        crop=crop,
        folder=plan.folder,
    )


def picture(image: bytes) -> Image.Image:
    """An image of a chunk."""
    from PIL import Image

    return Image.open(io.BytesIO(image))
