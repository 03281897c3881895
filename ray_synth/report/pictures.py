"""Images in, data URLs out, of a size that a page can hold: strips of a few images beside each other."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ray_synth.data.images import first_per_class
from ray_synth.data.source import ImageSource

EACH, MOST_CLASSES = 8, 20
SIDE = 64  # pixels at most of an image in a strip
LOSSLESS = 32  # pixels up to which a strip is a PNG
WIDEST = 720  # pixels of a sheet of samples


@dataclass(frozen=True, kw_only=True)
class Row:
    """The first images of a class, of both sets: data URLs, or nothing where there are none."""

    name: str
    real: Markup
    synthetic: Markup


def class_rows(real: ImageSource, synthetic: ImageSource, each: int = EACH, most: int = MOST_CLASSES) -> list[Row]:
    """A row per class. Of more classes than there is room for, those with synthetic images come first."""
    labels = np.sort(np.argsort(synthetic.counts == 0, kind="stable")[:most])
    sides = [_strips(images, labels, each) for images in (real, synthetic)]
    return [
        Row(name=real.class_names[label], real=Markup(a), synthetic=Markup(b))  # noqa: S704
        for label, a, b in zip(labels, *sides, strict=True)
    ]


def _strips(images: ImageSource, labels: np.ndarray, each: int) -> list[str]:
    rows = first_per_class(images.labels, np.full(images.num_classes, each))
    small = images.within(SIDE)
    return [_strip(small.images(rows[images.labels[rows] == label])) for label in labels]


def _strip(images: np.ndarray) -> str:
    """A data URL of images beside each other, with grey between them, for light and dark pages. [n,H,W,C]"""
    from PIL import Image

    if not len(images):
        return ""
    _, height, width, channels = images.shape
    pad = max(1, width // 8)
    canvas = np.full((height, len(images) * (width + pad) - pad, channels), 128, dtype=np.uint8)
    for place, image in enumerate(images):
        canvas[:, place * (width + pad) : place * (width + pad) + width] = image
    picture = Image.fromarray(canvas[..., 0] if channels == 1 else canvas[..., :3])
    return data_url(picture, lossless=min(height, width) <= LOSSLESS)


def data_url(picture: object, *, lossless: bool) -> str:
    """Of a PIL image: a PNG, or a JPEG, which takes a tenth of a photograph's bytes."""
    buffer = io.BytesIO()
    kind, how = ("png", {"optimize": True}) if lossless else ("jpeg", {"quality": 85})
    picture.save(buffer, format=kind, **how)  # type: ignore[attr-defined]
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def sheet_url(png: bytes) -> str:
    """A PNG of samples, as it is where it is small, else made smaller."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(png))
        picture.load()
    except (UnidentifiedImageError, OSError):
        return "data:image/png;base64," + base64.b64encode(png).decode()
    if picture.width <= WIDEST and len(png) <= 100_000:
        return "data:image/png;base64," + base64.b64encode(png).decode()
    picture.thumbnail((WIDEST, 4 * WIDEST))
    return data_url(picture.convert("RGB"), lossless=False)
