"""Image folders in, a `RatioEstimate`, class names and what had to be unified out: `estimate` without an experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.bound.result import RatioEstimate
from ray_synth.config.experiment import Estimate
from ray_synth.data.class_folders import has_class_folders
from ray_synth.data.decoding import broken_among
from ray_synth.data.images import first_per_class
from ray_synth.data.listing import Listing
from ray_synth.data.opening import Broken, BrokenImages
from ray_synth.data.readers import list_folder, list_unlabelled
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError, listed, near_misses
from ray_synth.estimate import rank_sources
from ray_synth.features.cache import cached, features_folder
from ray_synth.features.encoders import encoder_of
from ray_synth.features.reading import SIDE, spectrum_rows
from ray_synth.progress import Reporter

EXAMPLES = {  # of the words that `checked_costs` takes
    "cost_per_image": "0.01",
    "cost_per_update": "0.001",
    "updates": "10000",
    "budget": "updates",
    "tolerance": "0.005",
}
MAX_IMAGES = Estimate.model_fields["max_images"].default  # as in an experiment
LEAST_IMAGES = 100
FITS = ("stretch", "crop")
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
    real: Path,
    synthetic: Path,
    target: Path | None = None,
    *,
    features: str = "auto",
    fit: str = "stretch",
    max_images: int = MAX_IMAGES,
    reporter: Reporter | None = None,
    **settings: Any,
) -> FolderEstimate:
    """Estimate from `DIR/class_name/*` folders. The other images take the size and mode of the real ones.

    Files are decoded in blocks, at most 256 pixels a side (large JPEGs in draft mode), so photographs of any size and
    number fit into memory; `notes` say at which size, and of how many the spectra are.

    Args:
        target: a sample of the domain that the classifier is meant for: class folders of the same names, or images
            directly in the folder where their classes are not known.
        fit: how images of other proportions take the real ones' size, as `data.fit` of a training: "stretch", or "crop"
            to the middle.
        max_images: that are read of each folder, at most. Of more, each class's share is drawn, but two images of it at
            least; the answer is still for all real ones.
        reporter: shows how many images are read, and says what takes long after that.
        features, settings: of `estimate_ratio`.

    Raises:
        InputError: no class in common, or a folder or an image that cannot be read.
    """
    words = {"features": features, "fit": fit, "max_images": max_images, "reporter": reporter, **settings}
    ((found, _),) = rank_folders(real, (synthetic,), target, **words)
    return replace(found, generator="")


def rank_folders(
    real: Path,
    synthetic: Sequence[Path],
    target: Path | None = None,
    *,
    features: str = "auto",
    fit: str = "stretch",
    max_images: int = MAX_IMAGES,
    reporter: Reporter | None = None,
    **settings: Any,
) -> tuple[tuple[FolderEstimate, float], ...]:
    """Several folders of generators ranked: an estimate of each, with the probability that it is the best; best first.

    Arguments and errors as of `estimate_folders`.
    """
    if len({*map(str, synthetic)}) < len(synthetic):
        raise InputError(f"--synthetic names a folder twice: {', '.join(map(str, synthetic))}; give each once")
    if fit not in FITS:
        raise InputError(f"--fit must be {' or '.join(FITS)}, got {fit!r}; type --fit crop")
    if max_images < LEAST_IMAGES:
        raise InputError(
            f"--max-images must be at least {LEAST_IMAGES}, got {max_images}; leave it out for {MAX_IMAGES:,}"
        )
    # A wrong path is found before any image is read.
    encoder = features if features == "auto" else cached(encoder_of(features), features_folder())
    try:
        sets = _Folders.read(real, target, crop=fit == "crop", most=max_images, seed=settings.get("seed", 0))
        settings.setdefault("num_real", sets.num_real)
        generators = {str(folder): sets.synthetic(folder, len(synthetic) > 1) for folder in synthetic}
        ranked = rank_sources(
            sets.real, generators, features=encoder, target=sets.target, target_labelled=sets.target_labelled,
            reporter=reporter, **settings,
        )  # fmt: skip
    except BrokenImages as error:  # those of the other folders are said with them
        raise BrokenImages([*_broken_in(real, *synthetic, *([target] if target else [])), *error.found]) from None
    names, notes = sets.real.class_names, tuple(sets.notes)
    return tuple(
        (FolderEstimate(estimate=each.estimate, class_names=names, notes=notes, generator=each.name), each.probability)
        for each in ranked
    )


def _broken_in(*folders: Path) -> list[Broken]:
    listings = [list_folder(each, least=1) if has_class_folders(each) else list_unlabelled(each) for each in folders]
    return [broken for each in listings for broken in broken_among(each.items, each.names)]


@dataclass(kw_only=True)
class _Folders:
    """The real images, what the others are to be, and notes of what was unified. Nothing is decoded.

    num_real: how many real images there are, where some of them are read; most: images of a folder that are read.
    """

    real: ImageSource
    num_real: int | None
    unified: dict[str, Any]
    notes: list[str]
    most: int
    seed: int
    target: ImageSource | None = None
    target_labelled: bool = True

    @classmethod
    def read(cls, real: Path, target: Path | None, *, crop: bool, most: int = MAX_IMAGES, seed: int = 0) -> _Folders:
        listed = list_folder(real)
        drawn = _drawn(listed, most, seed)
        source = drawn.source(crop=crop, within=SIDE)
        height, width, channels = source.shape
        unified = {"size": (height, width), "channels": channels, "crop": crop, "within": SIDE, "depth": source.depth}
        sets = cls(
            real=source,
            num_real=None if drawn is listed else len(listed),
            unified=unified,
            notes=[f"real: {note}" for note in source.notes],
            most=most,
            seed=seed,
        )
        sets._note_spectra("real", source)
        if target is not None:
            sets._read_target(target)
        return sets

    def synthetic(self, folder: Path, several: bool) -> ImageSource:
        """One class is enough: the images may be meant to fill that one."""
        return self._matched(list_folder(folder, least=1), str(folder) if several else "synthetic")

    def _read_target(self, target: Path) -> None:
        """Without labels where images lie directly in a folder without classes."""
        self.target_labelled = has_class_folders(target)
        if self.target_labelled:
            self.target = self._matched(list_folder(target), "target")
            return
        self.target = _drawn(list_unlabelled(target), self.most, self.seed).source(**self.unified)
        self.notes += [f"target: {note}" for note in self.target.notes]
        self.notes.append(f"target: {len(self.target):,} image(s), unlabelled: {target} has no class folders")
        self._note_spectra("target", self.target)

    def _matched(self, listing: Listing, side: str) -> ImageSource:
        """The images whose class is among the real ones', with labels that index these; notes say what was not."""
        class_names = self.real.class_names
        images = _drawn(listing, self.most, self.seed).source(**self.unified)
        self.notes += [f"{side}: {note}" for note in images.notes]
        only_real = [name for name in class_names if name not in images.class_names]
        only_here = [name for name in images.class_names if name not in class_names]
        near = near_misses(only_here, only_real)
        if len(only_real) == len(class_names):
            meant = f", such as {near[0][0]!r} to {near[0][1]!r}" if near else ""
            raise InputError(
                f"no class name in common: real has {listed(only_real)}, {side} has {listed(only_here)}; "
                f"rename the class folders so that they match{meant}"
            )
        if only_real:
            outcome = "they are not scored" if side == "target" else "they stay real only"
            self.notes.append(f"no {side} images for the real class(es) {listed(only_real)}: {outcome}")
        if only_here:
            self.notes.append(f"{side} class(es) without real images are left out: {listed(only_here)}")
        self.notes += [
            f"did you mean one class by {here!r} ({side}) and {there!r} (real)? Rename one of the folders"
            for here, there in near
        ]
        index = {name: label for label, name in enumerate(class_names)}
        labels = np.asarray([index.get(name, -1) for name in images.class_names])[images.labels]
        rows = np.flatnonzero(labels >= 0)
        labels = labels[rows].astype(np.int64)
        matched = replace(images.take(rows), labels=labels, class_names=class_names)
        self._note_spectra(side, matched)
        return matched

    def _note_spectra(self, side: str, images: ImageSource) -> None:
        looked_at, (height, width, _) = len(spectrum_rows(len(images), images.shape)), images.shape
        if looked_at < len(images):
            self.notes.append(
                f"{side}: the spectrum is of {looked_at:,} of {len(images):,} images, at {width}x{height}; "
                "features are of all"
            )


def _drawn(listing: Listing, most: int, seed: int) -> Listing:
    """At most so many of the images: of each class its share, drawn by the seed, but two at least; a note says so."""
    if len(listing) <= most:
        return listing
    counts = np.bincount(listing.labels)
    share = np.minimum(np.maximum(np.round(counts * most / len(listing)), 2), counts).astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(listing))
    rows = np.sort(order[first_per_class(listing.labels[order], share)])
    note = f"{len(rows):,} of {len(listing):,} images were drawn, of each class its share (--max-images)"
    return replace(listing.take(rows), notes=(*listing.notes, note))


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


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _typed(name: str) -> str:
    return f"{_flag(name)} {EXAMPLES[name]}"
