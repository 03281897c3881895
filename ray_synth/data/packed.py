"""Images in many files in, the same images in few files of this machine out, any of them one read away.

A pack is an Arrow IPC file, in which images are read at their places: the encoded bytes of PART images in their order,
as they lay in their files or chunks. It is named by what lies in it, so it is made once on a machine, whatever is
trained on it, and a file that changed is packed anew. The operating system keeps in memory what is read often.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ray_synth.data.decoding import decoded, fitted
from ray_synth.data.images import ImageSet, held
from ray_synth.data.listing import of_parts
from ray_synth.data.opening import Member
from ray_synth.data.source import EncodedImages, ImageSource, Rows
from ray_synth.errors import InputError, WorkError
from ray_synth.hardware.machine import cache_folder
from ray_synth.nodes import tell

PART = 1024  # images of a pack
OPEN = 512  # packs that a process keeps open
STARTS = 16_384  # packs of which it knows where images begin: 8 kB each
ADVISED = hasattr(os, "posix_fadvise")  # not on every system
READERS = 8  # packs that are looked for at once
AT_ONCE = 2  # packs that are made at once: one is read while another is written
SAID_AFTER = 5.0  # seconds of packing, of which nothing need be said
SAID_EVERY = 30.0  # seconds between two lines about it
KEPT = "RAY_SYNTH_MAX_PACKED_GIB"  # in the environment: what packs may take of the disk
ASIDE = ".pack-"  # begins the name of a pack that is being written
SPARED = 0.1  # of a disk that is left free where nothing is said


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedImages(ImageSource):
    """Images of packs, decoded each time they are asked for. packs: files; places: [N,2] which pack, and the row."""

    packs: tuple[str, ...]
    places: np.ndarray
    crop: bool
    draft: bool = False

    def images(self, rows: Rows | None = None) -> np.ndarray:
        """Threads read as they decode: of packs that the page cache does not hold each image is waited for.

        Raises:
            WorkError: a pack that was taken away meanwhile.
        """
        asked = np.arange(len(self))[slice(None) if rows is None else rows]
        names = [self.name(row) for row in asked]
        try:
            items = self._expected(self.places[asked])
        except (OSError, pa.ArrowException) as error:
            raise WorkError(
                f"a pack cannot be read: {error}; type the same command again, which packs what is missing"
            ) from None
        return decoded(items, names, self.shape, crop=self.crop, draft=self.draft, depth=self.depth)

    def _expected(self, places: np.ndarray) -> list[_Packed]:
        """Where images lie, of which the system is told that they will be asked for."""
        packs = np.unique(places[:, 0]).tolist()
        with ThreadPoolExecutor(READERS) as pool:
            starts = dict(zip(packs, pool.map(_starts, [self.packs[pack] for pack in packs]), strict=True))
        items = [_Packed(self.packs[pack], *_span(starts[pack], row)) for pack, row in places.tolist()]
        for item in items:
            item.expect()
        return items

    def within(self, side: int) -> ImageSource:
        """As of files."""
        return replace(self, shape=(*fitted(self.shape[:2], side), self.shape[2]), draft=True)

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"places": self.places[rows]}


def near(source: ImageSource, rows: np.ndarray | None = None) -> ImageSource:
    """These images of a source (None: all): taken of it where memory holds all of it, else out of packs of this
    machine; known keys stay known."""
    found = held(source)
    if not isinstance(found, ImageSet):
        return packed(found, rows=rows)
    if found is not source:
        found.know_keys_of(source)
    return found if rows is None else found.take(rows)


def packs_folder() -> Path:
    """Where packs lie, for all runs of this machine's user: XDG_CACHE_HOME/ray_synth/packs."""
    return cache_folder() / "ray_synth" / "packs"


def packed(source: ImageSource, folder: Path | None = None, *, rows: np.ndarray | None = None) -> ImageSource:
    """These images of a source (None: all) out of packs, of which those are made that are missing; of a source without
    files as they are. Packs are cut from the whole source, so that whoever asks for other rows shares them.

    Two processes that pack the same share the work: each begins somewhere, and leaves what the other has made.

    Raises:
        InputError: a disk with too little room, found before anything is written; a file that cannot be read.
    """
    taken = source if rows is None else source.take(rows)
    if not isinstance(source, EncodedImages) or not source.in_files:
        return taken
    rows = np.arange(len(source)) if rows is None else rows
    parts, places = np.unique(rows // PART, return_inverse=True)
    whole = [np.arange(part * PART, min((part + 1) * PART, len(source))) for part in parts.tolist()]
    found = PackedImages(
        **taken.described(),
        shape=source.shape,
        packs=tuple(map(str, _made(source, whole, folder or packs_folder()))),
        places=np.stack([places, rows % PART], axis=1),
        crop=source.crop,
        draft=source.draft,
    )
    found.know_keys_of(taken)
    return found


def _made(source: EncodedImages, parts: Sequence[np.ndarray], folder: Path) -> list[Path]:
    """The packs of these rows each, of which the missing ones are written, AT_ONCE of them at a time."""
    begun = time.monotonic()
    files = [folder / name for name in of_parts(lambda rows: _name(source, rows), parts)]
    missing = [(file, rows) for file, rows in zip(files, parts, strict=True) if not _used(file)]
    if missing:
        size = sum(of_parts(source.bytes_of, [rows for _, rows in missing]))
        _make_room(folder, size, keep={file.name for file in files})
    first = time.monotonic_ns() % max(1, len(missing))
    turns = [*missing[first:], *missing[:first]]

    def make(turn: tuple[Path, np.ndarray]) -> int:
        file, rows = turn
        if not _used(file):
            _write(file, source.encoded(rows))
        return len(rows)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        _say_of(pool.map(make, turns), sum(len(rows) for _, rows in missing), folder, begun)
    return files


def _say_of(packed_now: Iterator[int], total: int, folder: Path, begun: float) -> None:
    """Count images as they are packed: nothing of a few seconds, else a line now and then, and one in the end."""
    done, next_line = 0, begun + SAID_AFTER
    for number in packed_now:
        done, now = done + number, time.monotonic()
        if now > next_line and done < total:
            tell(f"packing {done:,} of {total:,} images into {folder} on {socket.gethostname()}")
            next_line = now + SAID_EVERY
    if next_line > begun + SAID_AFTER:
        tell(f"packed {total:,} images in {time.monotonic() - begun:,.0f} s on {socket.gethostname()}")


def _name(source: EncodedImages, rows: np.ndarray) -> str:
    said = "\0".join(source.stamps(rows))
    return f"{hashlib.sha256(said.encode(errors='surrogateescape')).hexdigest()[:32]}.arrow"


def _used(file: Path) -> bool:
    """Whether it is there, and whole as far as its ends tell; it is then the last to go."""
    try:
        with pa.memory_map(str(file)) as mapped:
            pa.ipc.open_file(mapped)
    except (OSError, pa.ArrowException):
        return False
    with suppress(OSError):  # of another user
        os.utime(file)
    return True


def _make_room(folder: Path, size: int, *, keep: set[str]) -> None:
    """Packs that were used longest ago go until `size` bytes more are within what may be taken.

    Raises:
        InputError: they never are.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(_kept_in(folder))
        disk = shutil.disk_usage(folder)
    except OSError as error:
        raise InputError(f"images cannot be packed in {folder}: {error}; set XDG_CACHE_HOME to another place") from None
    taken = sum(bytes_ for _, bytes_, _ in there)
    most = _most(taken + max(0, disk.free - int(SPARED * disk.total)))
    for _, bytes_, file in there:
        if taken + size <= most:
            return
        if file.name not in keep:
            with suppress(OSError):
                file.unlink()
                taken -= bytes_
    if taken + size > most:
        raise InputError(
            f"images of {size / 2**30:.3g} GiB are to be packed in {folder}, where packs may take "
            f"{most / 2**30:.3g} GiB: free the disk, set XDG_CACHE_HOME to a larger one, or {KEPT} to more"
        )


def _kept_in(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each pack was used, its bytes and its file; those too that were being written when a process was killed."""
    for file in (*folder.glob("*.arrow"), *folder.glob(f"{ASIDE}*")):
        with suppress(FileNotFoundError):  # another process was here
            found = file.stat()
            yield found.st_mtime, found.st_size, file


def _most(room: int) -> int:
    given = os.environ.get(KEPT, "").strip()
    if not given:
        return room
    try:
        wanted = float(given)
    except ValueError:
        wanted = -1.0
    if not 0 < wanted < 1e9:
        raise InputError(f"{KEPT} must be a number of GiB above 0, got {given!r}; type {KEPT}=100, or unset it")
    return min(room, int(wanted * 2**30))


def _write(file: Path, images: Sequence[bytes]) -> None:
    """Whole or not at all."""
    table = pa.record_batch({"image": pa.array(images, pa.large_binary())})
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=ASIDE)
        with os.fdopen(handle, "wb") as open_file, pa.ipc.new_file(open_file, table.schema) as writer:
            writer.write_batch(table)
        os.replace(name, file)
    except OSError as error:
        with suppress(OSError, UnboundLocalError):
            os.unlink(name)
        raise InputError(
            f"images cannot be packed in {file.parent}: {error}; set XDG_CACHE_HOME to another place"
        ) from None


class _Packed(Member):
    """One image of a pack, which no name ever stands for another of: it stays open."""

    def read_bytes(self) -> bytes:
        return _opened(self.file).read(self.offset, self.size)

    def expect(self) -> None:
        """It will be asked for: the system begins to read it."""
        _opened(self.file).expect(self.offset, self.size)


class _Opened:
    """A file that stays open until nobody holds it any more: it may be let go while another thread reads."""

    def __init__(self, file: str):
        self.descriptor = os.open(file, os.O_RDONLY)
        if ADVISED:  # images are asked for here and there: what lies beside them is not read
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def expect(self, offset: int, size: int) -> None:
        if ADVISED:
            os.posix_fadvise(self.descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.descriptor)


@functools.lru_cache(maxsize=OPEN)
def _opened(file: str) -> _Opened:
    return _Opened(file)


@functools.lru_cache(maxsize=STARTS)
def _starts(file: str) -> np.ndarray:
    """Where in a pack each image begins and the last one ends, in bytes: int64 [k+1]."""
    with pa.memory_map(file) as mapped:
        begin = mapped.read_buffer().address
        column = pa.ipc.open_file(mapped).get_batch(0).column("image")
        _, offsets, data = column.buffers()
        starts: np.ndarray = np.frombuffer(offsets, dtype=np.int64)[: len(column) + 1] + (data.address - begin)
    return starts


def _span(starts: np.ndarray, row: int) -> tuple[int, int]:
    """Offset and size of a row."""
    return int(starts[row]), int(starts[row + 1] - starts[row])
