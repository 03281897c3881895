"""A word for a model in an experiment file in, its name and its weights file out."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator

RANDOM = "random"  # in the place of a weights file
# What images are seen through, where that is no network that is trained on them.
ENCODER = r"timm:[^:]+|(open_clip|timm|sscd):[^:]+:.+"
ENCODER_SAID = (
    "open_clip:MODEL:/path/to/weights, timm:NAME:/path/to/weights, or timm:tf_efficientnet_lite0 with the extra "
    "pretrained"
)
FEATURES, FEATURES_SAID = rf"^(pixels|{ENCODER})$", f"pixels, {ENCODER_SAID}"
COPIES_SAID = (
    f"sscd:NAME:/path/to/NAME.torchscript.pt (a program, which is run), {FEATURES_SAID}"  # what they are told by
)


def at_home(path: str) -> str:
    """A path with `~` written out, also where it stands at the end of a word for a model."""
    library, *rest = path.split(":", 2)
    if library in ("open_clip", "timm", "sscd") and len(rest) == 2:
        return f"{library}:{rest[0]}:{os.path.expanduser(rest[1])}"
    return os.path.expanduser(path)


HomePath = Annotated[str, AfterValidator(at_home)]


def encoder_in(features: str) -> tuple[str, str] | None:
    """Model and weights file of `open_clip:MODEL:/path` or `timm:NAME:/path`; the file is "" where an installed package
    ships the weights. None for other words."""
    library, model, weights = [*features.split(":", 2), "", ""][:3]
    name = model.replace("/", "-") if library == "open_clip" else model  # as open_clip writes ViT-B/16
    return (name, weights) if model else None


def file_in(model: str) -> tuple[str, str | None]:
    """`timm:NAME:/path` as model and weights file; any other model has no file in its name."""
    library, *rest = model.split(":", 2)
    return (f"{library}:{rest[0]}", rest[1]) if library == "timm" and len(rest) == 2 else (model, None)
