"""The `features` argument in, an encoder (images -> features) out: built in, a torch module, or a local open_clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.bound.features import Encoder
from ray_synth.errors import InputError

BATCH = 64
USAGE = '"auto", a function or torch module from images to features, or "open_clip:MODEL:/path/to/weights.safetensors"'


def encoder_of(features: Any) -> Encoder | None:
    """None for "auto" (the built-in families).

    A torch module gets float images [B,C,H,W] in [0, 1] and gives [B,d]; a plain function gets uint8 [N,H,W,C].
    open_clip reads weights from the given path: nothing is downloaded.

    Raises:
        InputError: anything else, or a path without a file.
    """
    if features == "auto":
        return None
    if isinstance(features, str) and features.startswith("open_clip:"):
        return _open_clip(features)
    if hasattr(features, "parameters") and callable(features):
        return lambda images: _run_module(features, images, lambda batch: batch)
    if callable(features):
        function: Encoder = features
        return function
    raise InputError(f"features must be {USAGE}; got {features!r}")


def _open_clip(spec: str) -> Encoder:
    _, model, *rest = [*spec.split(":", 2), ""]
    path = Path(rest[0])
    if not model or not rest[0] or not path.is_file():
        raise InputError(f"features={spec!r}: no file at {rest[0] or '(no path)'}; type {USAGE}")
    import torch

    from ray_synth.clip import OpenClip

    clip = OpenClip(model, path, device="cuda" if torch.cuda.is_available() else "cpu")
    return lambda images: _run_module(clip.visual, images, clip.prepared)


def _run_module(module: Any, images: np.ndarray, prepare: Callable[[Any], Any]) -> np.ndarray:
    """Features of a torch module in batches, without gradients and in its own device and mode."""
    import torch

    first = next(iter(module.parameters()), torch.zeros(1))
    training = module.training
    module.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).to(first.device)
            batch = prepare(pixels.permute(0, 3, 1, 2).float() / 255.0)
            parts.append(module(batch.to(first.dtype)).float().flatten(1).cpu().numpy())
    module.train(training)
    return np.concatenate(parts)
