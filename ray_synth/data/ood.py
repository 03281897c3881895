"""The section `evaluate.ood` and the training set's splits in, further test sets with the training set's labels out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ray_synth.config import Data, Ood, OodSet
from ray_synth.data.images import first_per_class
from ray_synth.data.leaks import Fingerprints, identical_pairs, leak_said, near_notes
from ray_synth.data.listing import FileImages, Listing
from ray_synth.data.looks import fingerprints_of
from ray_synth.data.opening import BrokenImages, Member
from ray_synth.data.readers import list_folder, list_images
from ray_synth.data.source import ImageSource
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError, listed, near_misses, one_spelling

# Below `imagenet`: how the folders are called as they are unpacked, and how many images and classes their authors give.
IMAGENET_FOLDERS = {
    "v2": ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency", "imagenetv2", "imagenet-v2"),
    "sketch": ("sketch", "imagenet-sketch", "imagenet_sketch"),
    "r": ("imagenet-r",),
    "a": ("imagenet-a",),
}
PUBLISHED_SIZES = {"v2": 10_000, "sketch": 50_889, "r": 30_000, "a": 7_500}
COMPARED_VALUES = 20_000 * 64 * 64 * 3  # values of a set that are compared with the training images before work begins
FEWEST_COMPARED = 2000
MOST_NEAR = 4 * 10**8  # pairs of images whose hashes are compared
SYNSETS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class FurtherSet:
    """A further test set. images: with the training set's labels and class names; classes: those labels that it has,
    sorted; notes: what was changed or left out."""

    name: str
    images: ImageSource
    classes: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def among(self) -> np.ndarray | None:
        """Which classes may be answered; None for all."""
        return None if len(self.classes) == self.images.num_classes else self.classes

    @property
    def digest(self) -> str:
        """Of the pixels of images in memory, of the bytes of encoded ones, of the names and sizes of files: these are
        not read for it."""
        images, found = self.images, hashlib.sha256()
        if isinstance(images, FileImages) and images.sources is not None:
            for item, label, name in zip(images.items, images.labels, images.sources, strict=True):
                content = item if isinstance(item, bytes) else _size(item)
                found.update(repr((int(label), name, content)).encode())
        else:
            found.update(images.digest().encode())
        return found.hexdigest()


def _size(item: str | Member | np.ndarray) -> bytes:
    if isinstance(item, np.ndarray):
        return item.tobytes()
    return str(item.size if isinstance(item, Member) else os.path.getsize(item)).encode()


def further_sets(ood: Ood, data: Data, splits: Splits) -> tuple[FurtherSet, ...]:
    """The sets that are asked for, listed and compared with what is trained on. Few of them are decoded yet.

    Raises:
        InputError: a set that cannot be read or is empty; one that has no class of the training set's, or others too;
            an image that stands in what is trained or chosen by.
    """
    found = [_read(name, each, data, splits) for name, each in ood.sets.items()]
    if ood.imagenet is not None:
        found += _below(Path(ood.imagenet), data, splits)
    return tuple(_without_leaks(each, splits, data.on_leak) for each in found)


def _read(name: str, asked: OodSet, data: Data, splits: Splits) -> FurtherSet:
    key = f"evaluate.ood.sets.{name}"
    try:
        listing = list_folder(asked.data.root, least=1) if asked.kind == "folder" else list_images(asked.data)
        listing = _part(listing, asked.part, key)
        return _matched(name, listing, data, splits, drop=asked.unknown == "drop")
    except BrokenImages:
        raise
    except InputError as error:
        reason = re.sub(r"(?<![.])data[.](?=path|kind|columns)", f"{key}.", str(error))
        raise InputError(f"{key}: {reason}") from None


def _part(listing: Listing, part: str | None, key: str) -> Listing:
    """The test images of a source that says which they are, or another part of it."""
    if listing.parts is None or part == "all":
        return listing
    there = sorted(set(listing.parts.tolist()))
    if part is None:
        return listing.take(np.flatnonzero(listing.parts == "test")) if "test" in there else listing
    if part not in there:
        raise InputError(f"the source has no part {part!r}, only {', '.join(there)}; type --set {key}.part={there[0]}")
    return listing.take(np.flatnonzero(listing.parts == part))


def _matched(name: str, listing: Listing, data: Data, splits: Splits, *, drop: bool) -> FurtherSet:
    """The images whose classes the training set has, by name, in its size and mode."""
    train = splits.train
    present = np.unique(listing.labels)
    known = {one_spelling(each): label for label, each in enumerate(splits.class_keys or ())}
    known |= {one_spelling(each): label for label, each in enumerate(train.class_names)}
    keys = listing.class_keys or listing.class_names
    labels = np.asarray([known.get(listing.class_names[c], known.get(keys[c], -1)) for c in range(len(keys))])
    unknown = [listing.class_names[c] for c in present if labels[c] < 0]
    meant = _such_as(unknown, train.class_names)
    if len(unknown) == len(present):
        raise InputError(
            f"no class of the set {name!r} is one of the training set's: it has {listed(unknown)}, and the training "
            f"set {listed(train.class_names)}; rename its classes so that they match{meant}"
        )
    if unknown and not drop:
        raise InputError(
            f"the set {name!r} has {len(unknown)} class(es) that the training set does not have: {listed(unknown)}; "
            f"rename them{meant}, or type --set evaluate.ood.sets.{name}.unknown=drop "
            "to leave their images out"
        )
    rows = np.flatnonzero(labels[listing.labels] >= 0)
    chosen = listing.take(rows)
    height, width, channels = train.shape
    images = chosen.source((height, width), channels, crop=data.crop, depth=train.depth)
    notes = [*images.notes]
    if unknown:
        notes.append(f"left out, as the training set does not have them: {len(unknown)} class(es), {listed(unknown)}")
    of_training = labels[chosen.labels].astype(np.int64)
    images = replace(images, labels=of_training, class_names=train.class_names, parts=None, notes=())
    return FurtherSet(name=name, images=images, classes=np.unique(of_training), notes=tuple(notes))


def _such_as(unknown: Sequence[str], known: Sequence[str]) -> str:
    near = near_misses(unknown, known)
    return f", such as {near[0][0]!r} to {near[0][1]!r}" if near else ""


def _below(root: Path, data: Data, splits: Splits) -> list[FurtherSet]:
    """ImageNet's further test sets, of those classes that the training set has."""
    if not root.is_dir():
        raise InputError(f"evaluate.ood.imagenet: {root} is not a folder; it must hold {_folders_said()}")
    there = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    found = []
    for name, words in IMAGENET_FOLDERS.items():
        folder = next((there[word] for word in words if word in there), None)
        if folder is None:
            continue
        inner = [
            path for path in folder.iterdir() if path.is_dir() and path.name.lower() in (folder.name.lower(), *words)
        ]
        listing = list_folder(inner[0] if len(inner) == 1 else folder, least=1)
        if all(each.isdecimal() for each in listing.class_names):
            synsets = _thousand(data, splits, folder)
            listing = replace(listing, class_keys=tuple(synsets[int(each)] for each in listing.class_names))
        found.append(_matched(name, listing, data, splits, drop=True))
    if not found:
        raise InputError(f"evaluate.ood.imagenet: {root} holds none of {_folders_said()}; name one so")
    return found


def _folders_said() -> str:
    return ", ".join(words[0] for words in IMAGENET_FOLDERS.values())


def _thousand(data: Data, splits: Splits, folder: Path) -> Sequence[str]:
    """ImageNet's synsets in their order, by which ImageNet-v2 numbers its folders."""
    keys = splits.class_keys or splits.train.class_names
    if len(keys) == SYNSETS:
        return sorted(keys)
    for file in ("LOC_synset_mapping.txt", "classnames.txt"):
        if data.path is not None and (data.root / file).is_file():
            synsets = sorted(
                set(re.findall(r"^n\d{8}", (data.root / file).read_text("utf-8", "replace"), re.MULTILINE))
            )
            if len(synsets) == SYNSETS:
                return synsets
    raise InputError(
        f"evaluate.ood.imagenet: the folders of {folder} are numbered as all {SYNSETS} synsets of ImageNet, which are "
        f"not known here; lay LOC_synset_mapping.txt into {data.path}, or give the folders the synsets as names"
    )


def _without_leaks(found: FurtherSet, splits: Splits, on_leak: str) -> FurtherSet:
    """Raises InputError for an image that the classifier is trained on or chosen by, or leaves it out."""
    images = found.images
    most = max(FEWEST_COMPARED, COMPARED_VALUES // int(np.prod(images.shape)))
    each = np.full(images.num_classes, max(1, most // len(found.classes)))
    rows = first_per_class(images.labels, each) if len(images) > most else np.arange(len(images))
    notes = list(found.notes)
    if len(rows) < len(images):
        notes.append(f"the first {len(rows):,} of {len(images):,} images were compared with the training images")
    prints = replace(fingerprints_of(images.take(rows)), names=[images.name(row) for row in rows.tolist()])
    known = {name: each for name, each in splits.fingerprints.items() if name != "test"}
    sets: Mapping[str, Fingerprints] = {found.name: prints, **known}
    between = [(found.name, name) for name in known]
    pairs = [pair for pair in identical_pairs(sets) if pair.first == found.name]
    if pairs and on_leak == "refuse":
        raise InputError(
            f"{leak_said(pairs, sets)}; remove these images from the set, or type --set data.on_leak=drop to leave "
            "them out of it"
        )
    if pairs:
        lost = rows[sorted({pair.first_row for pair in pairs})]
        images = images.take(np.setdiff1d(np.arange(len(images)), lost))
        notes.append(f"left out: {leak_said(pairs, sets)}")
    if sum(len(prints) * len(each) for each in known.values()) <= MOST_NEAR:
        notes += near_notes(sets, between)
    if not len(images):
        raise InputError(f"all images of the set {found.name!r} are training images too; give it others")
    return replace(found, images=images, classes=np.unique(images.labels), notes=tuple(notes))
