"""An encoder in, the same one out that keeps features on disk: what it saw once, by content, is read and not made."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ray_synth.features.encoders import Encoder, Features, Images
from ray_synth.hardware.machine import cache_folder

MAX_BYTES = 2 * 2**30  # of a folder


def features_folder() -> Path:
    """Where features are kept for all runs of this machine's user: XDG_CACHE_HOME/ray_synth/features."""
    return cache_folder() / "ray_synth" / "features"


def cached(encoder: Encoder, folder: Path, *, max_bytes: int = MAX_BYTES) -> Encoder:
    """The encoder with its features kept in `folder`, one safetensors file per call, named by encoder and images.

    A call's images are one key: rounding depends on which images share a batch, so features never depend on what was
    asked before. A file that is torn or altered is made anew; a folder that cannot be written costs time only. Beyond
    `max_bytes` the files that were used longest ago go. An encoder without a digest is given back as it is.
    """
    digest = encoder.digest
    if digest is None:
        return encoder

    def remembered(images: Images) -> Features:
        images = np.ascontiguousarray(images)
        key = hashlib.sha256(f"{digest} {images.dtype} {list(images.shape)} ".encode())
        key.update(images.data)
        file = folder / f"features-{key.hexdigest()}.safetensors"
        features = _read(file)
        if features is None or len(features) != len(images):
            features = encoder(images)
            _write(file, features, max_bytes)
        return features

    return replace(encoder, function=remembered)


def _read(file: Path) -> Features | None:
    """None where there is no such file, or not a whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as held:
            features: Features = held.get_tensor("features")
            seal = (held.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    if seal != _seal(features):
        return None
    with suppress(OSError):
        os.utime(file)  # used last
    return features


def _write(file: Path, features: Features, max_bytes: int) -> None:
    """Whole or not at all: aside, then renamed."""
    from safetensors.numpy import save

    if features.nbytes > max_bytes:
        return
    data = save({"features": np.ascontiguousarray(features)}, metadata={"sha256": _seal(features)})
    with suppress(OSError):  # a disk that is full or read only
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=file.parent, prefix=".features-", suffix=".tmp")
        try:
            with open(descriptor, "wb") as out:
                out.write(data)
            os.replace(aside, file)
        finally:
            Path(aside).unlink(missing_ok=True)
        _trim(file.parent, max_bytes)


def _trim(folder: Path, max_bytes: int) -> None:
    found = []
    for file in (*folder.glob("features-*.safetensors"), *folder.glob(".features-*.tmp")):
        with suppress(FileNotFoundError):  # another process was here
            state = file.stat()
            found.append((state.st_mtime, state.st_size, file))
    total = 0
    for _, size, file in sorted(found, reverse=True):
        total += size
        if total > max_bytes:
            file.unlink(missing_ok=True)


def _seal(features: Features) -> str:
    return hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()
