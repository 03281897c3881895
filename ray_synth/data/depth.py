"""Images of more than 8 bits a channel in, their values out, and which of them become 0 and 255: one scale for all."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ray_synth.data.opening import Broken, BrokenImages, Member, opened

if TYPE_CHECKING:
    from PIL import Image

FILLED = 0.25  # of the numbers that a depth has: values that fill less of them are scaled by their own range
# Of colour images Pillow keeps the upper byte of two; read in the other order, the lower one.
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
COLOUR = ("RGB;16", "RGBA;16", "RGBX;16")
GREY_ALPHA = "LA;16B"


@dataclass(frozen=True)
class Depth:
    """The values that become 0 and 255."""

    low: float
    high: float

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Any numbers -> uint8 of the same shape; what lies beyond is cut off."""
        wide = (values.astype(np.float64) - self.low) * (255 / (self.high - self.low))
        return np.clip(np.round(wide), 0, 255).astype(np.uint8)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


class Range(NamedTuple):
    """The lowest and the highest value of a set, and whether its values are whole numbers."""

    lowest: float
    highest: float
    whole: bool = True


def depth_of(found: Range) -> Depth:
    """The scale of a set with these values: from 0 to the highest number of as many bits as they need, 8 at least, so
    that images of 12 bits keep them and honest ones of 16 stay what an 8-bit copy is; floats up to 1 from 0 to 1.

    Values that fill a small part of that, or are below 0, are scaled from the lowest to the highest.
    """
    lowest, highest, whole = found
    top = 1.0 if highest <= 1 and not whole else _whole_bits(highest)
    narrow = lowest < 0 or highest - lowest < FILLED * top
    if narrow and highest > lowest and (lowest < 0 or lowest > FILLED * top):
        return Depth(lowest, highest)
    return Depth(0.0, top)


def _whole_bits(highest: float) -> float:
    return float(2 ** max(8, math.floor(max(highest, 1)).bit_length()) - 1)


def is_deep(image: Image.Image) -> bool:
    """Whether it has more than 8 bits a channel, by its head."""
    return image.mode.startswith(("I", "F")) or _rawmode(image) is not None


def is_grey(image: Image.Image) -> bool:
    """Whether one of more than 8 bits has one channel, beside its transparency."""
    return image.mode.startswith(("I", "F")) or _rawmode(image) == GREY_ALPHA


def _rawmode(image: Image.Image) -> str | None:
    """How the file holds 16 bits of several channels; None where it holds something else."""
    for tile in getattr(image, "tile", None) or ():
        args = tile[3]
        rawmode = args[0] if isinstance(args, tuple) and args else args
        if isinstance(rawmode, str) and (rawmode[:-1] in COLOUR or rawmode == GREY_ALPHA):
            return rawmode
    return None


def deep_values(item: Path | str | Member | bytes | np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Values [H,W] or [H,W,3] as the file holds them, and how opaque pixels are [H,W] in [0, 1], where it says.

    Raises:
        BrokenImages: an image that cannot be read, or whose values are not finite.
    """
    if isinstance(item, np.ndarray):
        return item, None
    with opened(item, name) as image:
        key = image.info.get("transparency")
        rawmode = _rawmode(image)
        if rawmode is None:
            image.load()
            values = np.asarray(image)
        elif rawmode == GREY_ALPHA:  # four bytes a pixel, as RGBA has
            halves = _read_as(image, "RGBA").astype(np.int64)
            return halves[..., 0] * 256 + halves[..., 1], (halves[..., 2] * 256 + halves[..., 3]) / 65535
        else:
            upper = np.asarray(image).astype(np.int64)
    if rawmode is not None:
        with opened(item, name) as image:
            values = upper * 256 + _read_as(image, rawmode[:-1] + OTHER_BYTE[rawmode[-1]])
    if not np.isfinite(values).all():
        raise BrokenImages([Broken(name, "it holds values that are not finite")])
    if values.ndim == 3 and values.shape[2] == 4:
        return values[..., :3], values[..., 3] / 65535
    if isinstance(key, int) and values.ndim == 2:
        return values, (values != key).astype(np.float64)
    if isinstance(key, tuple) and values.ndim == 3:
        return values, (values != np.asarray(key)).any(axis=2).astype(np.float64)
    return values, None


def _read_as(image: Image.Image, rawmode: str) -> np.ndarray:
    """The same bytes, taken for another order."""
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile  # type: ignore[attr-defined]
    ]
    return np.asarray(image)


def on_white(values: np.ndarray, opaque: np.ndarray | None, depth: Depth) -> np.ndarray:
    """uint8 of the same shape: scaled, transparent parts white."""
    scaled = depth.scaled(values)
    if opaque is None:
        return scaled
    share = opaque[..., None] if scaled.ndim == 3 else opaque
    shown: np.ndarray = np.round(scaled * share + 255 * (1 - share)).astype(np.uint8)
    return shown


def range_of(images: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> Range:
    """The lowest and the highest value of what `deep_values` found, where something is to be seen."""
    lowest, highest, whole = math.inf, -math.inf, True
    for values, opaque in images:
        seen = values if opaque is None else values[opaque > 0]
        if seen.size:
            lowest, highest = min(lowest, float(seen.min())), max(highest, float(seen.max()))
            whole = whole and seen.dtype.kind in "iu"
    return Range(lowest, highest, whole) if lowest <= highest else Range(0.0, 255.0)
