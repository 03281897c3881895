"""An encoder in, the same one out that keeps features on disk: what it saw once, by content, is read and not made."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from ray_synth.features.encoders import Encoder, Features, Images
from ray_synth.hardware.machine import cache_folder
from ray_synth.kept import ENDING, keep, recall, trim

PREFIX = "features-"
MAX_BYTES = 2 * 2**30  # of a folder


def features_folder() -> Path:
    """Where features are kept for all runs of this machine's user: XDG_CACHE_HOME/ray_synth/features."""
    return cache_folder() / "ray_synth" / "features"


def cached(encoder: Encoder, folder: Path, *, max_bytes: int = MAX_BYTES) -> Encoder:
    """The encoder with its features kept in `folder`, one safetensors file per call, named by encoder and images.

    A call's images are one key: rounding depends on which images share a batch, so features never depend on what was
    asked before. What is kept, and how long: `ray_synth.kept`. An encoder without a digest is given back as it is.
    """
    digest = encoder.digest
    if digest is None:
        return encoder

    def remembered(images: Images) -> Features:
        images = np.ascontiguousarray(images)
        key = hashlib.sha256(f"{digest} {images.dtype} {list(images.shape)} ".encode())
        key.update(images.data)
        file = folder / f"{PREFIX}{key.hexdigest()}{ENDING}"
        features: Features | None = (recall(file) or {}).get("features")
        if features is None or len(features) != len(images):
            features = encoder(images)
            if features.nbytes <= max_bytes:
                keep(file, {"features": features})
                trim(folder, PREFIX, max_bytes)
        return features

    return replace(encoder, function=remembered)
