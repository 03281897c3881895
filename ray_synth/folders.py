"""Image folders in, a `RatioEstimate`, class names and what had to be unified out: `estimate` without an experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.bound.result import RatioEstimate
from ray_synth.data.decoding import EXTENSIONS
from ray_synth.data.readers import read_folder, read_unlabelled
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.estimate import estimate_ratio, rank_generators
from ray_synth.features.automatic import automatic_encoder
from ray_synth.features.cache import cached, features_folder
from ray_synth.features.encoders import encoder_of

EXAMPLES = {  # of the words that `checked_costs` takes
    "cost_per_image": "0.01",
    "cost_per_update": "0.001",
    "updates": "10000",
    "budget": "updates",
    "tolerance": "0.005",
}
BUDGETS = ("updates", "epochs")
TOLERANCE = 0.005  # of error: what being cheap may cost


@dataclass(frozen=True, kw_only=True)
class FolderEstimate:
    """An estimate with the names that its class labels index, and notes of what was unified or left out."""

    estimate: RatioEstimate
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    cheapest: Mapping[str, float] | None = None  # where images and updates have a cost
    generator: str = ""  # the folder, where there are several

    def to_dict(self) -> dict[str, Any]:
        """The estimate, JSON-ready, with a `class_name` beside every label, and the cheapest ratio."""
        plain = self.estimate.to_dict()
        plain["classes"] = [{"class_name": self.class_names[each["label"]], **each} for each in plain["classes"]]
        return plain if self.cheapest is None else plain | {"cheapest": dict(self.cheapest)}


def estimate_folders(
    real: Path, synthetic: Path, target: Path | None = None, *, features: str = "auto", **settings: Any
) -> FolderEstimate:
    """Estimate from `DIR/class_name/*` folders. The other images take the size and mode of the real ones.

    Args:
        target: a sample of the domain that the classifier is meant for: class folders of the same names, or images
            directly in the folder where their classes are not known.
        features, settings: of `estimate_ratio`.

    Raises:
        InputError: no class in common, or a folder that cannot be read.
    """
    sets = _Folders.read(real, target, features)
    images = sets.synthetic(synthetic)
    estimate = estimate_ratio(
        sets.real.images(), sets.real.labels, images.images(), images.labels, **sets.asked, **settings
    )
    return FolderEstimate(estimate=estimate, class_names=sets.real.class_names, notes=tuple(sets.notes))


def rank_folders(
    real: Path, synthetic: Sequence[Path], target: Path | None = None, *, features: str = "auto", **settings: Any
) -> tuple[tuple[FolderEstimate, float], ...]:
    """Several folders of generators ranked: an estimate of each, with the probability that it is the best; best first.

    Arguments and errors as of `estimate_folders`.
    """
    if len({*map(str, synthetic)}) < len(synthetic):
        raise InputError(f"--synthetic names a folder twice: {', '.join(map(str, synthetic))}; give each once")
    sets = _Folders.read(real, target, features)
    generators = {str(folder): sets.synthetic(folder, str(folder)) for folder in synthetic}
    ranked = rank_generators(
        sets.real.images(),
        sets.real.labels,
        {name: (images.images(), images.labels) for name, images in generators.items()},
        **sets.asked,
        **settings,
    )
    names, notes = sets.real.class_names, tuple(sets.notes)
    return tuple(
        (FolderEstimate(estimate=each.estimate, class_names=names, notes=notes, generator=each.name), each.probability)
        for each in ranked
    )


@dataclass(frozen=True, kw_only=True)
class _Folders:
    """The real images as the others are to be, what else every estimate is asked, and notes of what was unified."""

    real: ImageSource
    unified: dict[str, Any]
    asked: dict[str, Any]
    notes: list[str]

    @classmethod
    def read(cls, real: Path, target: Path | None, features: str) -> _Folders:
        # A wrong path is found before any image is read.
        encoder = features if features == "auto" else cached(encoder_of(features), features_folder())
        real_set = read_folder(real)
        height, width, channels = real_set.shape
        automatic = automatic_encoder(real_set.shape)[0] if features == "auto" else None
        unified: dict[str, Any] = {"size": (height, width), "channels": channels}
        asked: dict[str, Any] = {"features": cached(automatic, features_folder()) if automatic else encoder}
        notes = [f"real: {note}" for note in real_set.notes]
        if target is not None:
            images, labels = _read_target(target, unified, real_set.class_names, notes)
            asked |= {"target_images": images, "target_labels": labels}
        return cls(real=real_set, unified=unified, asked=asked, notes=notes)

    def synthetic(self, folder: Path, said: str = "synthetic") -> ImageSource:
        """said: what notes call it."""
        return _matched(read_folder(folder, **self.unified), self.real.class_names, said, self.notes)


def checked_costs(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of `RatioEstimate.cheapest` out of those words that were given (not None); None if none was.

    given: cost_per_image, cost_per_update, updates, budget and tolerance.

    Raises:
        InputError: a value out of range, or one that needs another.
    """
    costs = {name: value for name, value in given.items() if value is not None}
    if not costs:
        return None
    for name, value in costs.items():
        if name == "budget" and value not in BUDGETS:
            raise InputError(f"--budget must be {' or '.join(BUDGETS)}, got {value!r}; type {_typed(name)}")
        if name != "budget" and not 0 <= value < math.inf:
            raise InputError(f"{_flag(name)} must be a finite number >= 0, got {value}; type {_typed(name)}")
    if "cost_per_update" in costs and not costs.get("updates"):
        raise InputError(
            f"--cost-per-update {costs['cost_per_update']:g} needs the number of optimizer updates of a training; "
            f"type {_typed('updates')}"
        )
    idle = [_flag(name) for name in ("updates", "budget") if name in costs and "cost_per_update" not in costs]
    if idle:
        raise InputError(f"{' and '.join(idle)} came without the cost of an update; type {_typed('cost_per_update')}")
    if set(costs) == {"tolerance"}:
        raise InputError(f"--tolerance came without a cost; type {_typed('cost_per_image')}")
    return {"tolerance": TOLERANCE, **costs}


def cheapest(estimate: RatioEstimate, costs: Mapping[str, Any]) -> dict[str, float]:
    """The cheapest ratio that is nearly as good as the best, its cost, and what it saves."""
    found = estimate.cheapest(**costs)
    return {**found, "saving": found["best_cost"] - found["cost"], "tolerance": costs["tolerance"]}


def _read_target(
    target: Path, unified: Mapping[str, Any], class_names: tuple[str, ...], notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images, and labels that index `class_names`; no labels where images lie directly in a folder without classes."""
    try:
        entries = [p for p in target.iterdir() if not p.name.startswith(".")] if target.is_dir() else []
    except OSError as error:
        raise InputError(f"image folder {error.filename} cannot be read: {error.strerror}") from None
    if any(p.is_dir() for p in entries):
        beside = sum(p.suffix.lower() in EXTENSIONS for p in entries)
        if beside:
            notes.append(f"target: {beside} image(s) beside the class folders are left out")
        labelled = _matched(read_folder(target, **unified), class_names, "target", notes)
        return labelled.images(), labelled.labels
    unlabelled = read_unlabelled(target, **unified)
    notes += [f"target: {note}" for note in unlabelled.notes]
    notes.append(f"target: {len(unlabelled):,} image(s), unlabelled: {target} has no class folders")
    return unlabelled.images(), None


def _matched(images: ImageSource, class_names: tuple[str, ...], side: str, notes: list[str]) -> ImageSource:
    """The images whose class is among the real `class_names`, with labels that index these; notes say what was not."""
    notes += [f"{side}: {note}" for note in images.notes]
    only_real = [name for name in class_names if name not in images.class_names]
    only_here = [name for name in images.class_names if name not in class_names]
    if len(only_real) == len(class_names):
        raise InputError(
            f"no class name in common: real has {_listed(only_real)}, {side} has {_listed(only_here)}; "
            "rename the class folders so that they match"
        )
    if only_real:
        outcome = "they are not scored" if side == "target" else "they stay real only"
        notes.append(f"no {side} images for the real class(es) {_listed(only_real)}: {outcome}")
    if only_here:
        notes.append(f"{side} class(es) without real images are left out: {_listed(only_here)}")
    index = {name: label for label, name in enumerate(class_names)}
    labels = np.asarray([index.get(name, -1) for name in images.class_names])[images.labels]
    rows = np.flatnonzero(labels >= 0)
    labels = labels[rows].astype(np.int64)
    return replace(images.take(rows), labels=labels, class_names=class_names)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _typed(name: str) -> str:
    return f"{_flag(name)} {EXAMPLES[name]}"


def _listed(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
