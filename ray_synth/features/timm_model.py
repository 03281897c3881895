"""timm from a local weights file: a model without its classifier, and its own preparation of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.errors import InputError, did_you_mean
from ray_synth.torch_ops import import_torchvision


def _import_timm() -> Any:
    import_torchvision()
    import timm

    return timm


def load_timm(name: str, weights: str | Path) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """The model, whose output is [n,d] before the classifier, and uint8 images [n,H,W,1|3] -> what it takes.

    weights: safetensors, or a pickle of tensors alone, with or without the classifier's.

    Raises:
        InputError: no such architecture, or weights that cannot be read or do not fit.
    """
    import torch
    from PIL import Image

    timm = _import_timm()
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}; {did_you_mean(name, timm.list_models(), most=3)}")
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0)
        given = timm.models.load_state_dict(str(weights), weights_only=True)
        head = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{layer}." for layer in ((head,) if isinstance(head, str) else head))
        model.load_state_dict({layer: tensor for layer, tensor in given.items() if not layer.startswith(heads)})
    except Exception as error:  # an unknown tag, SafetensorError, UnpicklingError, layers that do not fit, ...
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"timm model {name!r} cannot be loaded from {weights}: {reason}") from None
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    def prepared(images: np.ndarray) -> Any:
        pictures = (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images)
        return torch.stack([transform(picture.convert("RGB")) for picture in pictures])

    return model, prepared
