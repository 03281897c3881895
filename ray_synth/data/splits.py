"""One image set in, four disjoint ones out: generator, few-shot train, validation (all choices), test (read once)."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_synth.config import Data
from ray_synth.data.images import held
from ray_synth.data.leaks import Fingerprints, copies_among, near_notes, rows_without_leaks
from ray_synth.data.listing import Listing
from ray_synth.data.looks import Through, fingerprints_of, here, seen_in
from ray_synth.data.readers import list_images
from ray_synth.data.source import KEY, ImageSource
from ray_synth.errors import InputError
from ray_synth.seeding import derive_seed

OFFICIAL = {"validation": "val", "test": "test"}  # sets that a source may bring, by the name of its part


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The four sets. `generator` is the train set itself when data.generator_split is `shared`.

    class_keys: the classes as the source itself calls them, such as synsets; fingerprints: of the sets, by name, where
    their images are here.
    """

    generator: ImageSource
    train: ImageSource
    validation: ImageSource
    test: ImageSource
    notes: tuple[str, ...] = ()
    class_keys: tuple[str, ...] | None = None
    fingerprints: Mapping[str, Fingerprints] = field(default_factory=dict)

    def named(self) -> dict[str, ImageSource]:
        return {name: getattr(self, name) for name in ("generator", "train", "validation", "test")}


def read_splits(data: Data, seed: int, through: Through = here) -> Splits:
    """The four sets of a source. Of one that lists its images by name, only those that a set takes are decoded.

    through: where images of files that were not looked at before are looked at (`data.looks`).
    """
    listing = list_images(data)
    if not listing.by_name:
        source = listing.source(data.size, crop=data.crop, seen=seen_in(listing))
        return split(held(source), data, seed, through)
    above = f"{data.root}{os.sep}"  # an image's place in the source is its key, wherever the source lies
    keys = np.asarray([name.removeprefix(above) for name in listing.names])
    rows = _chosen(listing, keys, listing.class_keys or listing.class_names, data, seed)
    taken = listing.take(np.concatenate(list(rows.values())))
    images = held(taken.source(data.size, crop=data.crop, seen=seen_in(taken)))
    prints = fingerprints_of(images, through)
    ends = np.cumsum([len(chosen) for chosen in rows.values()])
    # Slices are views: one copy of the pixels, not two.
    places = {name: slice(end - len(rows[name]), end) for name, end in zip(rows, ends.tolist(), strict=True)}
    sets = {name: images.take(place) for name, place in places.items()}
    fingerprints = {name: prints.take(place) for name, place in places.items()}
    notes = list(images.notes)
    for name in [name for name in ("generator", "train") if name in sets]:
        sets[name], fingerprints[name], notes = _without_copies(sets[name], fingerprints[name], notes, data)
    kept, leaks = rows_without_leaks(fingerprints, data.on_leak)
    if leaks:
        sets = {name: sets[name].take(kept[name]) for name in sets}
        fingerprints = {name: fingerprints[name].take(kept[name]) for name in sets}
    found = _splits(sets, fingerprints, _official(listing.parts), [*notes, *leaks])
    return replace(found, class_keys=listing.class_keys)


def split(images: ImageSource, data: Data, seed: int, through: Through = here) -> Splits:
    """Stratified splits that depend on the pixels and the seed, not on the order of reading.

    Per class: a seeded shuffle, then the generator's, the validation's and the test's fraction; the first `shots` of
    what is left are the train set, so fewer shots are a subset of more, and the other three sets do not move. Where
    images carry an official part, test is the official test set, validation the official one if there is one, and all
    of this happens to the official train set.

    Raises:
        InputError: an image that stands under two classes or in two official parts, more shots than images, a class
            that is too small to split or has no training image.
    """
    looked_at = fingerprints_of(images, through)
    images, fingerprints, notes = _without_copies(*_without_official_leaks(images, looked_at, data), data)
    rows = _chosen(images, images.held_keys(), images.class_names, data, seed)
    sets = {name: images.take(rows[name]) for name in rows}
    return _splits(sets, {name: fingerprints.take(rows[name]) for name in rows}, _official(images.parts), notes)


def key_rows(sets: Mapping[str, ImageSource]) -> bytes:
    """A parquet file with a row for each image of each set, in their order: set and key. A set that is another one too,
    such as a shared generator's, stands there once, under the later name."""
    last = {id(images): name for name, images in sets.items()}
    of_each = {name: images for name, images in sets.items() if last[id(images)] == name}
    names = pa.DictionaryArray.from_arrays(
        np.repeat(np.arange(len(of_each), dtype=np.int8), [len(images) for images in of_each.values()]), list(of_each)
    )
    keys = np.concatenate([images.held_keys() for images in of_each.values()])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"set": names, "key": pa.array(keys.astype(KEY), pa.binary()).cast(pa.string())}), buffer)
    return buffer.getvalue()


def _splits(
    sets: dict[str, ImageSource], fingerprints: dict[str, Fingerprints], official: Sequence[str], notes: Sequence[str]
) -> Splits:
    """The sets with a warning of near copies. `generator` is missing where it is the train set itself."""
    train = sets["train"]
    for label, count in enumerate(train.counts):
        if count == 0:
            raise InputError(f"class {train.class_names[label]!r} has no training image left; raise data.shots")
    empty = [name for name, images in sets.items() if not len(images)]
    if empty:
        raise InputError(f"no image is left for the {empty[0]} set; add images or remove the copies of those it had")
    if official:
        notes = [*notes, f"official set(s): {' and '.join(official)}; the others are drawn from the official train set"]
    found = {"generator": train, **sets}
    return Splits(
        generator=found["generator"],
        train=train,
        validation=found["validation"],
        test=found["test"],
        notes=(*notes, *near_notes(fingerprints)),
        fingerprints=fingerprints,
    )


def _chosen(
    source: Listing | ImageSource, keys: np.ndarray, class_keys: Sequence[str], data: Data, seed: int
) -> dict[str, np.ndarray]:
    """Rows of each set, by name.

    keys: [N], what orders images before the seed shuffles them; class_keys: what is shuffled by, so that other words
    for a class move no image.
    """
    names, parts = source.class_names, source.parts
    if len(names) < 2:
        raise InputError(f"only one class: {list(names)}; a classifier needs at least two")
    official = _official(parts)
    in_train = np.ones(len(source), dtype=bool) if parts is None else parts == "train"
    in_official = {part: parts == OFFICIAL[part] for part in official}
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    for label, (name, key) in enumerate(zip(names, class_keys, strict=True)):
        of_class = source.labels == label
        members = _shuffled(np.flatnonzero(of_class & in_train), keys, derive_seed("split", seed, key))
        for part, drawn in _drawn(members, name, data, official).items():
            rows[part].append(drawn)
        for part in official:
            given = np.flatnonzero(of_class & in_official[part])
            if not len(given):
                raise InputError(
                    f"class {name!r} has no image in the official {part} set; add some, or take it out of the class "
                    "list"
                )
            given = _shuffled(given, keys, derive_seed("official", seed, key, part))
            rows[part].append(given[: getattr(data, f"max_{part}")])
    order = [name for name in ("generator", "train", "validation", "test") if name in rows]
    return {name: np.concatenate(rows[name]) for name in order}


def _official(parts: np.ndarray | None) -> list[str]:
    """The sets that the source brings."""
    return [] if parts is None else [name for name, part in OFFICIAL.items() if (parts == part).any()]


def _shuffled(members: np.ndarray, keys: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(members[np.argsort(keys[members])])


def _drawn(members: np.ndarray, name: str, data: Data, official: Sequence[str]) -> dict[str, np.ndarray]:
    """One class's training images, shuffled, as the sets that are drawn from them."""
    total = len(members)
    if total == 0:
        raise InputError(f"class {name!r} has no real training image; add images or take it out of the class list")
    wanted = [part for part in ("generator", "validation", "test") if part not in official]
    if data.generator_split == "shared":
        wanted.remove("generator")
    drawn = {}
    for part in wanted:
        size = int(getattr(data, f"{part}_fraction") * total)
        if size == 0:
            raise InputError(
                f"class {name!r} has {total} image(s): too few for a {part} set; "
                f"add images or raise data.{part}_fraction"
            )
        drawn[part] = members[: min(size, getattr(data, f"max_{part}") or size)]
        members = members[len(drawn[part]) :]
    if data.shots is not None and data.shots > len(members):
        left = f", {len(members)} left after the {_and(wanted)} sets" if wanted else ""
        raise InputError(
            f"data.shots must be <= {len(members)} for class {name!r} ({total} images{left}), got {data.shots}; "
            f"type --set data.shots={len(members)}"
        )
    if len(members) == 0:
        raise InputError(f"class {name!r} has no image left to train on; lower data.{wanted[-1]}_fraction")
    return {**drawn, "train": members[: data.shots]}


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _without_official_leaks(
    images: ImageSource, fingerprints: Fingerprints, data: Data
) -> tuple[ImageSource, Fingerprints, list[str]]:
    """An image that stands in two official parts is refused, or taken from all but the last of train, val, test."""
    if images.parts is None:
        return images, fingerprints, list(images.notes)
    rows = {part: np.flatnonzero(images.parts == part) for part in ("train", "val", "test")}
    kept, leaks = rows_without_leaks({part: fingerprints.take(rows[part]) for part in rows}, data.on_leak)
    notes = [*images.notes, *leaks]
    if leaks:
        stay = np.sort(np.concatenate([rows[part][kept[part]] for part in rows]))
        images, fingerprints = images.take(stay), fingerprints.take(stay)
    return images, fingerprints, notes


def _without_copies(
    images: ImageSource, fingerprints: Fingerprints, notes: Sequence[str], data: Data
) -> tuple[ImageSource, Fingerprints, list[str]]:
    """Copies among the images that are split would leak between sets: one of each stays (`copies_among`)."""
    train = np.arange(len(images)) if images.parts is None else np.flatnonzero(images.parts == "train")
    lost, said = copies_among(
        fingerprints.digests[train],
        images.labels[train],
        lambda row: f"{images.name(train[row])} (class {images.class_names[images.labels[train[row]]]!r})",
        on_leak=data.on_leak,
        cure="remove the wrong one, or type --set data.on_leak=drop to leave such images out",
    )
    if not len(lost):
        return images, fingerprints, list(notes)
    stay = np.setdiff1d(np.arange(len(images)), train[lost])
    return images.take(stay), fingerprints.take(stay), [*notes, *said]
