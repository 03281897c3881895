"""timm from a local or an installed weights file: a model without its classifier, and its preparation of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.errors import InputError, did_you_mean
from ray_synth.features.packaged import FEATURES_SIDE, PACKAGES, packaged_state, scaled
from ray_synth.torch_ops import import_torchvision


def _import_timm() -> Any:
    import_torchvision()
    import timm

    return timm


def timm_label(name: str) -> str:
    """How an encoder is called. What it makes of images is part of it: features are kept under this name."""
    return f"timm:{name} at {FEATURES_SIDE} pixels" if name in PACKAGES else f"timm:{name}"


def load_timm(name: str, weights: str | Path | None = None) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """The model, whose output is [n,d] before the classifier, and uint8 images [n,H,W,1|3] -> what it takes.

    A model that comes with a package sees whole images at 128 pixels a side; others are prepared as timm says.

    weights: safetensors, or a pickle of tensors alone, with or without the classifier's; None: those of the package.

    Raises:
        InputError: no such architecture, or weights that are not there, cannot be read or do not fit.
    """
    timm = _import_timm()
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}; {did_you_mean(name, timm.list_models(), most=3)}")
    packaged = packaged_state(name) if weights is None else None
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0)
        given = packaged or timm.models.load_state_dict(str(weights), weights_only=True)
        head = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{layer}." for layer in ((head,) if isinstance(head, str) else head))
        model.load_state_dict({layer: tensor for layer, tensor in given.items() if not layer.startswith(heads)})
    except Exception as error:  # an unknown tag, SafetensorError, UnpicklingError, layers that do not fit, ...
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"timm model {name!r} cannot be loaded from {weights}: {reason}") from None
    return model, _whole_images(model) if name in PACKAGES else _as_timm_says(timm, model)


def _as_timm_says(timm: Any, model: Any) -> Callable[[np.ndarray], Any]:
    """Each image by itself: resized, its centre cut out, normalised."""
    import torch
    from PIL import Image

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    def prepared(images: np.ndarray) -> Any:
        pictures = (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images)
        return torch.stack([transform(picture.convert("RGB")) for picture in pictures])

    return prepared


def _whole_images(model: Any) -> Callable[[np.ndarray], Any]:
    """All images at once, whole: what is cut off at the borders of a small image is missed."""
    import torch

    own = model.pretrained_cfg
    mean, std = (torch.tensor(own[name]).view(1, 3, 1, 1) for name in ("mean", "std"))

    def prepared(images: np.ndarray) -> Any:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255.0
        colour = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels[:, :3]
        size = scaled(images.shape[1], images.shape[2], FEATURES_SIDE)
        resized = torch.nn.functional.interpolate(colour, size, mode="bilinear", antialias=True)
        return ((resized - mean) / std).contiguous(memory_format=torch.channels_last)

    return prepared
