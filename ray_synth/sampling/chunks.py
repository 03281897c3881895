"""A plan in, the chunks still to make out; and finished chunks in, rows out. To resume is to list the files.

A chunk is one class and one range of indices, written as one file. Its name says all of that, and how many of its
images were rejected, so two drivers at once would write the same bytes, growing `images_per_class` adds ranges beside
those that exist, and what a filter took is refilled without opening a file.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_synth.data.decoding import unified
from ray_synth.data.images import ImageSet
from ray_synth.errors import WorkError
from ray_synth.runs import RunFolder

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
    ]
)
_NAME = re.compile(r"([0-9a-f]{12})-(\d{5})-(\d{8})-(\d{8})(?:-(\d{5}))?\.parquet")
READERS = 8  # files that are opened at once
MARGIN = 1.1
HOPELESS = 32  # images of which none was kept: the next will not be either


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for: the first `images_per_class` images of every class that no filter rejects."""

    generator_digest: str  # what an image is a function of, beside its class and index
    chunk_digest: str  # and what else a file's bytes depend on: filter, format
    num_classes: int
    images_per_class: int
    chunk_size: int
    max_attempts: int = 1  # images sampled per image asked, at most
    available: tuple[int, ...] | None = None  # images of each class that exist, where they are not made

    def key(self, label: int, index: int) -> str:
        """The stable id of a synthetic image: generator, class, index."""
        return f"{self.generator_digest[:12]}-{label:05d}-{index:08d}"


@dataclass(frozen=True, order=True)
class Chunk:
    """Indices [start, stop) of one class; `rejected` of them were set aside (0 for a chunk still to make)."""

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
    found = (_NAME.fullmatch(name) for name in folder.list(FOLDER))
    prefix = plan.chunk_digest[:12]
    return sorted(Chunk(prefix, int(m[2]), int(m[3]), int(m[4]), int(m[5] or 0)) for m in found if m and m[1] == prefix)


def work_left(finished: Sequence[Chunk], plan: Plan) -> Remaining:
    """What is still to make, class by class, cut at multiples of the chunk size.

    First the indices below the quota. When they are all there and some were rejected, as many more as should give the
    rest at the rate of acceptance so far, and so on. What comes next depends on complete rounds only, so a run that is
    killed and one that is not make the same chunks.
    """
    ranges: dict[int, list[Chunk]] = {label: [] for label in range(plan.num_classes)}
    for chunk in finished:
        if chunk.label in ranges:
            ranges[chunk.label].append(chunk)
    work = Remaining([], {})
    for label, present in ranges.items():
        _class_left(label, present, plan, work)
    return work


def _class_left(label: int, present: Sequence[Chunk], plan: Plan, work: Remaining) -> None:
    limit = plan.max_attempts * plan.images_per_class
    if plan.available is not None:
        limit = min(limit, plan.available[label])
    end = plan.images_per_class
    while True:
        gaps = list(_gaps(present, end))
        if gaps:
            prefix, size = plan.chunk_digest[:12], plan.chunk_size
            for start, stop in gaps:
                cuts = [start, *range((start // size + 1) * size, stop, size), stop]
                work.missing.extend(Chunk(prefix, label, a, b) for a, b in itertools.pairwise(cuts))
            return
        covered, kept = _kept(present, end)
        if kept >= plan.images_per_class:
            return
        if covered >= limit or (kept <= 0 and covered >= HOPELESS):
            kept = _kept(present, math.inf)[1]  # more were made when more were asked
            if kept < plan.images_per_class:
                work.short[label] = max(kept, 0)
            return
        rate = max(kept / covered, 1 / (2 * covered))
        # A little more than that, for each round loads the generator again.
        end = min(limit, covered + math.ceil(MARGIN * (plan.images_per_class - kept) / rate) + 1)


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


def write_chunk(folder: RunFolder, chunk: Chunk, rows: dict[str, Any]) -> Chunk:
    """One parquet file, whole or absent. rows: the columns of SCHEMA, one value an image or one for all."""
    count = len(chunk)
    columns = {
        name: list(value) if isinstance(value, list | np.ndarray) else [value] * count for name, value in rows.items()
    }
    rejected = sum(bool(reason) for reason in columns["rejected"])
    chunk = Chunk(chunk.prefix, chunk.label, chunk.start, chunk.stop, rejected)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer)
    folder.write(f"{FOLDER}/{chunk.name}", buffer.getvalue())
    return chunk


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


Rows = list[dict[str, Any]]


def read_rows(
    folder: RunFolder,
    plan: Plan,
    columns: Sequence[str],
    turned: Callable[[Chunk, Rows], Rows] = lambda chunk, rows: rows,
) -> Iterator[tuple[Chunk, Rows]]:
    """The plan's images in order of class and index, a chunk at a time, rejected ones left out.

    turned: what is done with the rows of a chunk by the thread that reads them.

    Raises:
        WorkError: a chunk that cannot be read, or keys that are not those of the plan, each once.
    """
    wanted = list(dict.fromkeys(["key", "rejected", *columns]))
    covered = dict.fromkeys(range(plan.num_classes), 0)  # class -> indices below this one were read
    kept = dict.fromkeys(range(plan.num_classes), 0)
    needed: list[tuple[Chunk, int]] = []
    for chunk in finished_chunks(folder, plan):
        if chunk.label in covered and chunk.stop > covered[chunk.label]:
            # Drivers with different chunk sizes may have overlapped; both made the same images.
            needed.append((chunk, covered[chunk.label]))
            covered[chunk.label] = chunk.stop

    def read(task: tuple[Chunk, int]) -> Rows:
        chunk, first = task
        with _readable(chunk), folder.open(f"{FOLDER}/{chunk.name}") as file:
            rows = pq.read_table(file, columns=wanted).slice(max(0, first - chunk.start)).to_pylist()
        start = max(first, chunk.start)
        if [row["key"] for row in rows] != [plan.key(chunk.label, index) for index in range(start, chunk.stop)]:
            raise WorkError(
                f"chunk {FOLDER}/{chunk.name} does not hold the keys that its name says; "
                "remove it and run `generate` again"
            )
        return turned(chunk, [row for row in rows if not row["rejected"]])

    with ThreadPoolExecutor(READERS) as pool:
        for window in range(0, len(needed), READERS):  # so that few chunks are in memory at once
            tasks = needed[window : window + READERS]
            for (chunk, _), rows in zip(tasks, pool.map(read, tasks), strict=True):
                rows = rows[: plan.images_per_class - kept[chunk.label]]
                kept[chunk.label] += len(rows)
                if rows:
                    yield chunk, rows
    missing = sum(plan.images_per_class - count for count in kept.values())
    if missing:
        raise WorkError(f"the synthetic images are not those of the plan: {missing} missing; run `generate` again")


def rejected_counts(
    folder: RunFolder, plan: Plan, *, listed: int, first: str = ""
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """What was set aside, counted by reason; and (key, reason) of at most `listed`, those for the reason `first` first.

    Raises:
        WorkError: a chunk that cannot be read.
    """

    def read(chunk: Chunk) -> list[tuple[str, str]]:
        with _readable(chunk), folder.open(f"{FOLDER}/{chunk.name}") as file:
            rows = pq.read_table(file, columns=["key", "rejected"]).to_pylist()
        return [(row["key"], row["rejected"]) for row in rows if row["rejected"]]

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


@contextmanager
def _readable(chunk: Chunk) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        raise WorkError(
            f"chunk {FOLDER}/{chunk.name} cannot be read ({error}); remove it and run `generate` again"
        ) from None


def read_synthetic(
    folder: RunFolder, plan: Plan, *, class_names: Sequence[str], shape: tuple[int, int, int], crop: bool = False
) -> ImageSet:
    """The images of the plan, by class and index, in the size and mode of the real ones; `sources` are their keys.

    shape: [H,W,C] of what comes back; images of another size are resized, and cropped to its proportions with `crop`.

    Raises:
        WorkError: as `read_rows`.
    """
    total = plan.num_classes * plan.images_per_class
    images, labels = np.empty((total, *shape), dtype=np.uint8), np.empty(total, dtype=np.int64)
    keys = np.empty(total, dtype=object)
    done = 0

    def decoded(chunk: Chunk, rows: Rows) -> Rows:
        try:
            return [{**row, "image": unified(_decoded(row["image"]), shape, crop=crop)} for row in rows]
        except (OSError, SyntaxError) as error:
            raise WorkError(
                f"an image of chunk {FOLDER}/{chunk.name} cannot be read ({error}); remove it and run `generate` again"
            ) from None

    for chunk, rows in read_rows(folder, plan, ["image"], decoded):
        for row in rows:
            images[done], labels[done], keys[done] = row["image"], chunk.label, row["key"]
            done += 1
    return ImageSet(pixels=images, labels=labels, class_names=tuple(class_names), sources=keys)


def _decoded(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))
