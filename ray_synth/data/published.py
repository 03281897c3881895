"""A data section whose images are not here in; splits of the published size without pixels out, for a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_synth.config import Data
from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Published:
    """One data set as its authors describe it. validation, test: None where there is no official one."""

    classes: int
    train: int
    validation: int | None
    test: int | None
    origin: str
    side: int = 224


PUBLISHED = {
    "imagenet": Published(
        classes=1000, train=1_281_167, validation=None, test=50_000, origin="Russakovsky et al., 2015, Table 2"
    ),
    "imagenette": Published(
        classes=10, train=9_469, validation=None, test=3_925, origin="fastai/imagenette, release 2"
    ),
    "aircraft": Published(classes=100, train=3_334, validation=3_333, test=3_333, origin="Maji et al., 2013"),
    "pets": Published(classes=37, train=3_680, validation=None, test=3_669, origin="Parkhi et al., 2012"),
    "cars": Published(classes=196, train=8_144, validation=None, test=8_041, origin="Krause et al., 2013"),
    "food101": Published(classes=101, train=75_750, validation=None, test=25_250, origin="Bossard et al., 2014"),
    "flowers102": Published(
        classes=102, train=1_020, validation=1_020, test=6_149, origin="Nilsback & Zisserman, 2008"
    ),
    "dtd": Published(classes=47, train=1_880, validation=1_880, test=1_880, origin="Cimpoi et al., 2014"),
    "eurosat": Published(classes=10, train=27_000, validation=None, test=None, origin="Helber et al., 2019"),
    "sun397": Published(classes=397, train=19_850, validation=None, test=19_850, origin="Xiao et al., 2010"),
    "cub200": Published(classes=200, train=5_994, validation=None, test=5_794, origin="Wah et al., 2011"),
    "cifar10": Published(classes=10, train=50_000, validation=None, test=10_000, origin="Krizhevsky, 2009", side=32),
    "cifar100": Published(classes=100, train=50_000, validation=None, test=10_000, origin="Krizhevsky, 2009", side=32),
}


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
    return Splits(**images, notes=(note,))


def _without_pixels(count: int, classes: int, side: int) -> ImageSet:
    """Labels, and black pixels that take no memory."""
    pixels = np.broadcast_to(np.uint8(0), (count, side, side, 3))
    labels = np.arange(count) * classes // max(count, 1)
    return ImageSet(pixels=pixels, labels=labels, class_names=tuple(map(str, range(classes))))
