"""One image set in, four disjoint ones out: generator, few-shot train, validation (all choices), test (read once)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ray_synth.config import Data
from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.seeding import derive_seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The four sets. `generator` is the train set itself when data.generator_split is `shared`."""

    generator: ImageSet
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    notes: tuple[str, ...] = ()

    def named(self) -> dict[str, ImageSet]:
        return {name: getattr(self, name) for name in ("generator", "train", "validation", "test")}


def split(images: ImageSet, data: Data, seed: int) -> Splits:
    """Stratified splits that depend on the pixels and the seed, not on the order of reading.

    Per class: a seeded shuffle, then the generator's, the validation's and the test's fraction; the first `shots` of
    what is left are the train set, so fewer shots are a subset of more, and the other three sets do not move.

    Raises:
        InputError: an image that stands under two classes, more shots than images, a class too small to split.
    """
    images, notes = _without_copies(images)
    if images.num_classes < 2:
        raise InputError(f"only one class: {list(images.class_names)}; a classifier needs at least two")
    keys = np.asarray(images.keys())
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for label, name in enumerate(images.class_names):
        members = np.flatnonzero(images.labels == label)
        members = members[np.argsort(keys[members])]
        members = np.random.default_rng(derive_seed("split", seed, name)).permutation(members)
        total = len(members)
        sizes = {
            "generator": int(data.generator_fraction * total) if data.generator_split == "disjoint" else 0,
            "validation": int(data.validation_fraction * total),
            "test": int(data.test_fraction * total),
        }
        for part, size in sizes.items():
            if size == 0 and not (part == "generator" and data.generator_split == "shared"):
                raise InputError(
                    f"class {name!r} has {total} image(s): too few for a {part} set; "
                    f"add images or raise data.{part}_fraction"
                )
            parts[part].append(members[:size])
            members = members[size:]
        if data.shots is not None and data.shots > len(members):
            raise InputError(
                f"data.shots must be <= {len(members)} for class {name!r} ({total} images, {len(members)} left after "
                f"the generator, validation and test sets), got {data.shots}; type --set data.shots={len(members)}"
            )
        if len(members) == 0:
            raise InputError(f"class {name!r} has no image left to train on; lower data.test_fraction")
        parts["train"].append(members[: data.shots])
    sets = {part: images.take(np.concatenate(indices)) for part, indices in parts.items()}
    if data.generator_split == "shared":
        sets["generator"] = sets["train"]
    return Splits(**sets, notes=tuple(notes))


def _without_copies(images: ImageSet) -> tuple[ImageSet, list[str]]:
    """Copies of an image would leak between sets: one of each stays; a copy under another class is refused."""
    seen: dict[bytes, int] = {}
    keep: list[int] = []
    for i, image in enumerate(images.images):
        first = seen.setdefault(image.tobytes(), i)
        if first == i:
            keep.append(i)
        elif images.labels[first] != images.labels[i]:
            a, b = images.class_names[images.labels[first]], images.class_names[images.labels[i]]
            raise InputError(
                f"images {_name(images, first)} (class {a!r}) and {_name(images, i)} (class {b!r}) "
                "have identical pixels; remove the wrong one"
            )
    copies = len(images) - len(keep)
    notes = list(images.notes)
    if copies:
        notes.append(f"{copies} image(s) left out: identical pixels stand in the same class already")
    return images.take(np.asarray(keep)), notes


def _name(images: ImageSet, index: int) -> str:
    return str(index if images.sources is None else images.sources[index])
