"""A data section whose images are not here in; splits of the published size without pixels out, for a plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ray_synth.catalog import PUBLISHED
from ray_synth.config import Data
from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError


def data_are_here(data: Data) -> bool:
    return data.path is None or Path(data.path).exists()


def published_splits(data: Data) -> Splits:
    """Of a known data set that is not here; classes are taken to be of equal size.

    Raises:
        InputError: a data set whose size is not known.
    """
    known = PUBLISHED.get(data.kind)
    if known is None:
        raise InputError(
            f"data.path {data.path} is not here, and how many images kind: {data.kind} holds is not known "
            f"(known: {', '.join(PUBLISHED)}); put the data there, or type --set data.path=FOLDER"
        )
    pool = known.train
    sets = {"test": known.test, "validation": known.validation, "generator": 0}
    fractions = {"test": data.test_fraction, "validation": data.validation_fraction}
    if data.generator_split == "disjoint":
        fractions["generator"] = data.generator_fraction
        sets["generator"] = None
    caps = {"test": data.max_test, "validation": data.max_validation, "generator": data.max_generator}
    for name, count in sets.items():
        drawn = round(known.train * fractions[name]) if count is None else count
        cap = caps[name]
        sets[name] = taken = drawn if cap is None else min(drawn, cap * known.classes)
        pool -= taken if count is None else 0
    sets["train"] = pool if data.shots is None else min(pool, data.shots * known.classes)
    side = data.image_size or known.side
    images = {name: _without_pixels(count or 0, known.classes, side) for name, count in sets.items()}
    if not len(images["generator"]):
        images["generator"] = images["train"]
    note = f"the data are not here: sizes are those published ({known.origin}), classes equally large"
    return Splits(
        generator=images["generator"],
        train=images["train"],
        validation=images["validation"],
        test=images["test"],
        notes=(note,),
    )


def _without_pixels(count: int, classes: int, side: int) -> ImageSet:
    """Labels, and black pixels that take no memory."""
    pixels = np.broadcast_to(np.uint8(0), (count, side, side, 3))
    labels = np.arange(count) * classes // max(count, 1)
    return ImageSet(pixels=pixels, labels=labels, class_names=tuple(map(str, range(classes))))
