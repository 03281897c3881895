"""Two image folders in, a `RatioEstimate` and what had to be unified out: `estimate` without an experiment file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ray_synth.bound.estimator import RatioEstimate, estimate_ratio
from ray_synth.data.images import ImageSet
from ray_synth.data.readers import read_folder
from ray_synth.errors import InputError


def estimate_folders(real: Path, synthetic: Path, *, max_ratio: float, seed: int) -> tuple[RatioEstimate, list[str]]:
    """Estimate from `DIR/class_name/*` folders. Synthetic images take the size and mode of the real ones.

    Raises:
        InputError: no class in common, or a folder that cannot be read.
    """
    real_set = read_folder(real)
    height, width, channels = real_set.images.shape[1:]
    synthetic_set = read_folder(synthetic, size=(height, width), channels=channels)
    common = [name for name in real_set.class_names if name in synthetic_set.class_names]
    only_real = [name for name in real_set.class_names if name not in common]
    only_synthetic = [name for name in synthetic_set.class_names if name not in common]
    if not common:
        raise InputError(
            f"no class name in common: real has {_listed(only_real)}, synthetic has {_listed(only_synthetic)}; "
            "rename the class folders so that they match"
        )
    notes = [f"real: {note}" for note in real_set.notes] + [f"synthetic: {note}" for note in synthetic_set.notes]
    if only_real:
        notes.append(f"no synthetic images for the real class(es) {_listed(only_real)}: they stay real only")
    if only_synthetic:
        notes.append(f"synthetic class(es) without real images are left out: {_listed(only_synthetic)}")
    kept = _relabelled(synthetic_set, real_set.class_names)
    estimate = estimate_ratio(
        real_set.images, real_set.labels, kept.images, kept.labels, max_ratio=max_ratio, seed=seed
    )
    return estimate, notes


def _relabelled(images: ImageSet, class_names: tuple[str, ...]) -> ImageSet:
    index = {name: label for label, name in enumerate(class_names)}
    labels = np.asarray([index.get(name, -1) for name in images.class_names])[images.labels]
    rows = np.flatnonzero(labels >= 0)
    return ImageSet(images=images.images[rows], labels=labels[rows].astype(np.int64), class_names=class_names)


def _listed(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
