"""What a source holds before anything is decoded: one row per image in, an image source of the chosen rows out."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ray_synth.data.decoding import Item, Seen, Size, broken_among, decoded, fitted, look
from ray_synth.data.depth import Depth
from ray_synth.data.images import ImageSet, in_memory
from ray_synth.data.opening import HEIF, HEIF_CURE, Broken, BrokenImages, Member
from ray_synth.data.source import EncodedImages, ImageSource, Rows
from ray_synth.errors import InputError, near_misses, one_spelling

READERS = 16  # files that are read at once: on a network disk each is waited for
FAR = 50e-6  # seconds for a file, beyond which it is
T = TypeVar("T")
Label = int | str
PARTS = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """Images that are not decoded yet, with their labels.

    items: files, encoded bytes, or uint8 arrays [H,W] or [H,W,C]; names: [N] what messages call an image;
    labels: int64 [N], indexing class_names; parts: [N] of `train`, `val` and `test`, where the source has an official
    split; by_name: images are chosen by their names before they are decoded, because all of them would be too many;
    class_keys: the classes as the source itself calls them, where class_names are somebody's words for that.
    """

    items: Sequence[Item] | np.ndarray
    names: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    parts: np.ndarray | None = None
    by_name: bool = False
    class_keys: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Listing:
        items = self.items[rows] if isinstance(self.items, np.ndarray) else [self.items[row] for row in rows]
        parts = None if self.parts is None else self.parts[rows]
        return replace(self, items=items, names=self.names[rows], labels=self.labels[rows], parts=parts)

    def source(
        self,
        size: Size | None = None,
        channels: int | None = None,
        *,
        crop: bool = False,
        within: int | None = None,
        depth: Depth | None = None,
        seen: Seen | None = None,
    ) -> ImageSource:
        """The images in one size and mode; notes say what has to be changed.

        `size` (height, width) and `channels` (1 or 3) fix both; else images take the size of most of them (`Seen.size`)
        and, where modes differ, colour. `within` is the most pixels a side, their proportions kept; files are then
        decoded no larger than that asks for. `depth` is the scale of images of more than 8 bits a channel, else their
        own values say it. `seen` is what `look` finds, where that is known.

        Raises:
            InputError: no image, or images that cannot be read, all of them by their names.
        """
        if not len(self):
            raise InputError("the source holds no image; see the README's table of data.kind for what each expects")
        known: dict[str, Any] = {
            "labels": self.labels, "class_names": self.class_names, "sources": self.names, "parts": self.parts
        }  # fmt: skip
        items = self.items
        if isinstance(items, np.ndarray) and size in (None, items.shape[1:3]) and channels in (None, items.shape[3]):
            whole = ImageSet(pixels=items, notes=self.notes, **known)
            return whole if within is None else whole.within(within)
        items = self.full_items()
        try:
            seen = seen or look(items, self.names)
        except BrokenImages as error:  # others are torn behind their heads
            raise BrokenImages([*error.found, *broken_among(items, self.names)]) from None
        wanted = size or seen.size()
        notes = [*self.notes, *([] if size else seen.size_notes())]
        size = wanted if within is None else fitted(wanted, within)
        shape, depth = (*size, channels or max(seen.modes)), depth or seen.depth()
        notes += seen.notes(shape, crop=crop, depth=depth)
        return FileImages(
            items=items, crop=crop, draft=within is not None, shape=shape, notes=tuple(notes), depth=depth, **known
        )

    def full_items(self) -> np.ndarray:
        """The items with full paths, since workers have another current folder; as text, since a path's object would be
        most of what is held of millions."""
        if isinstance(self.items, np.ndarray):
            return self.items
        here = Path.cwd()
        paths = (os.path.join(here, item) if isinstance(item, Path | str) else item for item in self.items)
        return np.fromiter(paths, dtype=object, count=len(self.items))

    def read(self, size: Size | None = None, channels: int | None = None, *, crop: bool = False) -> ImageSet:
        """The same, decoded at once."""
        return in_memory(self.source(size, channels, crop=crop))


@dataclass(frozen=True, kw_only=True, eq=False)
class FileImages(EncodedImages):
    """Images that are decoded each time they are asked for. items: [N] files or encoded bytes, or arrays."""

    items: np.ndarray

    @property
    def in_files(self) -> bool:
        return len(self) > 0 and not isinstance(self.items[0], np.ndarray)

    def encoded(self, rows: np.ndarray) -> list[bytes]:
        """Several files are read at once. Raises BrokenImages for those that cannot be."""

        def several(some: np.ndarray) -> list[bytes]:
            return [self._bytes(row) for row in some.tolist()]

        with ThreadPoolExecutor(READERS) as pool:
            return list(chain.from_iterable(pool.map(several, np.array_split(rows, READERS))))

    def _bytes(self, row: int) -> bytes:
        item = self.items[row]
        try:
            return item if isinstance(item, bytes) else (item if isinstance(item, Member) else Path(item)).read_bytes()
        except OSError as error:
            raise BrokenImages([Broken(self.name(row), str(error))]) from None

    def stamps(self, rows: np.ndarray) -> list[str]:
        """Raises BrokenImages for files that are gone."""
        return list(map(self._stamp, rows.tolist(), self.items[rows]))

    def _stamp(self, row: int, item: Item) -> str:
        if isinstance(item, bytes):
            return hashlib.sha256(item).hexdigest()
        if isinstance(item, Member):
            found = self._stat(row)
            return f"{item.file} {found.st_size} {found.st_mtime_ns} {item.offset} {item.size}"
        found = self._stat(row)
        return f"{item} {found.st_size} {found.st_mtime_ns}"

    def _stat(self, row: int) -> os.stat_result:
        try:
            return os.stat(file_of(self.items[row]))
        except OSError as error:
            raise BrokenImages([Broken(self.name(row), str(error))]) from None

    def bytes_of(self, rows: np.ndarray) -> int:
        return sum(self._size(row) for row in rows.tolist())

    def _size(self, row: int) -> int:
        item = self.items[row]
        if isinstance(item, bytes):
            return len(item)
        return item.size if isinstance(item, Member) else self._stat(row).st_size

    def images(self, rows: Rows | None = None) -> np.ndarray:
        rows = slice(None) if rows is None else rows
        names = [self.name(row) for row in np.arange(len(self))[rows]]
        try:
            return decoded(self.items[rows], names, self.shape, crop=self.crop, draft=self.draft, depth=self.depth)
        except BrokenImages as error:  # said at once, not one a start
            raise BrokenImages([*error.found, *self.broken()]) from None

    def broken(self) -> list[Broken]:
        """Those that cannot be decoded."""
        return broken_among(self.items, [self.name(row) for row in range(len(self))])

    def within(self, side: int) -> ImageSource:
        """As of every source; and in draft mode, whose pixels are not quite those of a training."""
        shape = (*fitted(self.shape[:2], side), self.shape[2])
        return replace(self, shape=shape, draft=True)

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"items": self.items[rows]}


def of_parts(find: Callable[[np.ndarray], T], parts: Sequence[np.ndarray]) -> list[T]:
    """What is found of rows by asking the file system for each: in turn where it answers at once, since threads that
    take turns at Python's lock cost more than they save; several at once where the first part was waited for."""
    if not parts:
        return []
    begin = time.perf_counter()
    first = find(parts[0])
    waited = (time.perf_counter() - begin) / max(1, len(parts[0])) > FAR
    with ThreadPoolExecutor(READERS if waited else 1) as pool:
        return [first, *pool.map(find, parts[1:])]


def file_of(item: str | Member) -> str:
    """Where it lies."""
    return item.file if isinstance(item, Member) else item


def names_of(names: Iterable[Any]) -> np.ndarray:
    """Names as an array of objects, which rows can be taken of."""
    return np.asarray([str(name) for name in names], dtype=object)


def skipped_notes(names: Iterable[str]) -> list[str]:
    """What lies among images and is none, counted by kind. Names of folders end with a slash."""
    kinds = Counter(
        "/" if name.endswith("/") else os.path.splitext(name)[1].lower() or "no extension" for name in names
    )
    said = {
        "/": "{} folder(s) inside of class folders skipped",
        **dict.fromkeys(HEIF, "{} file(s) skipped: {}; " + HEIF_CURE),
    }
    return [
        said.get(kind, "{} file(s) skipped, not an image: {}").format(count, kind)
        for kind, count in sorted(kinds.items())
    ]


def parts_of(values: Sequence[str], names: Sequence[str] | np.ndarray, where: str) -> np.ndarray | None:
    """Names of splits, as sources write them, as `train`, `val` or `test`; None where there is no name at all."""
    if not any(values):
        return None
    for value, name in zip(values, names, strict=True):
        if not value:
            raise InputError(
                f"{where}: {name} has no split and other images have one; name one of {', '.join(PARTS)} for each "
                "image, or none at all"
            )
        if value.lower() not in PARTS:
            raise InputError(
                f"{where}: the split {value!r} is not known; allowed are {', '.join(PARTS)}. Rename it or leave it out"
            )
    return np.asarray([PARTS[value.lower()] for value in values])


def names_by_label(rows: Iterable[tuple[Label, str, str]], where: str) -> dict[Label, str]:
    """The class name of each label, sorted by label; a label with two names is refused.

    rows: label, class name, and what messages call the row.
    """
    found: dict[Label, str] = {}
    for label, class_name, name in rows:
        first = found.setdefault(label, class_name)
        if first != class_name:
            raise InputError(
                f"{where}: the label {label!r} is {first!r} in some rows and {class_name!r} in {name}; "
                "correct one of them"
            )
    return {label: found[label] for label in sorted(found, key=_numbers_first)}


def _numbers_first(label: Label) -> tuple[bool, Label]:
    return isinstance(label, str), label


def labels_of(
    values: Sequence[Label], class_names: Sequence[str] | None, names: Sequence[str] | np.ndarray, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as indices of the class names; without these, the values themselves name the classes, sorted.

    Raises:
        InputError: a label that the class list does not hold, with the value and the list.
    """
    values = [one_spelling(value) if isinstance(value, str) else value for value in values]
    if class_names is None:
        known = sorted(set(values), key=_numbers_first)
        class_names = [str(value) for value in known]
        index: dict[Any, int] = {value: label for label, value in enumerate(known)}
    else:
        class_names = [one_spelling(name) for name in class_names]
        index = {name: label for label, name in enumerate(class_names)}
        index |= {label: label for label in range(len(class_names))}
    repeated = [name for name, count in Counter(class_names).items() if count > 1]
    if repeated:
        raise InputError(f"{where}: the class name {repeated[0]!r} stands twice in the class list; rename one")
    for value, name in zip(values, names, strict=True):
        if value not in index:
            near = [other for _, other in near_misses([str(value)], class_names)]
            raise InputError(
                f"{where}: the label {value!r} of {name} is not in the class list of {len(class_names)}: "
                f"{_listed(class_names)}; "
                + (f"did you mean {near[0]!r}? Correct it" if near else "correct it or add the class")
            )
    return np.asarray([index[value] for value in values], dtype=np.int64), tuple(class_names)


def readable(names: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    """Class names in words; one that stands twice, in whatever case, is told apart by its key."""
    names = [one_spelling(name) for name in names]
    count = Counter(name.casefold() for name in names)
    return tuple(
        name if count[name.casefold()] == 1 else f"{name} ({key})" for name, key in zip(names, keys, strict=True)
    )


def _listed(names: Sequence[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
