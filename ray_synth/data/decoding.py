"""Image files, encoded bytes or arrays in; pixels of one size and mode out. What cannot be read is refused by name."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ray_synth.errors import InputError
from ray_synth.hardware.machine import machine_memory, usable_cpus

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp"}
THREADS = min(16, 2 * usable_cpus())  # Pillow decodes outside Python's lock
WINDOW = 2048  # images in the queue of the threads at once
ORIENTATION = 274  # of EXIF; 5 to 8 change height and width
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
DRAFT_ABOVE = 256  # pixels of a longer side: smaller files gain nothing from draft mode, and stay as they are

Item = Path | bytes | np.ndarray
Size = tuple[int, int]
T = TypeVar("T")


def decoded(
    items: Sequence[Item] | np.ndarray,
    names: Sequence[str],
    shape: tuple[int, int, int],
    *,
    crop: bool,
    draft: bool = False,
) -> np.ndarray:
    """Images in one size and mode: uint8 [N,H,W,C] of `shape`.

    `crop` keeps proportions and cuts off what sticks out; without it images are stretched. `draft` as in
    `decoded_item`.

    Raises:
        InputError: an image that cannot be read, by its name; more images than memory holds.
    """
    out = room_for(len(items), shape)

    def one(row: int) -> None:
        least = shape[:2] if draft else None
        out[row] = unified(decoded_item(items[row], names[row], least=least), shape, crop=crop)

    for _ in _in_threads(one, len(items)):
        pass
    return out


def _in_threads(one: Callable[[int], T], count: int) -> Iterator[T]:
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, count, WINDOW):
            yield from pool.map(one, range(start, min(start + WINDOW, count)))


def look(items: Sequence[Item] | np.ndarray, names: Sequence[str] | np.ndarray) -> Seen:
    """Sizes and modes as the heads of files say them; no pixel is decoded.

    Raises:
        InputError: a file that is no image, by its name.
    """

    def one(row: int) -> tuple[Size, int, str]:
        item = items[row]
        if isinstance(item, np.ndarray):
            return (item.shape[0], item.shape[1]), 3 if item.ndim == 3 and item.shape[2] != 1 else 1, ""
        with _opened(item, names[row]) as image:
            mode, change = _wanted(image)
            return (image.size if _turned(image) else image.size[::-1]), 3 if mode == "RGB" else 1, change

    seen = Seen()
    for size, mode, change in _in_threads(one, len(items)):
        seen.sizes[size] += 1
        seen.modes[mode] += 1
        if change:
            seen.changed[change] += 1
    return seen


@dataclass
class Seen:
    """What was found among images: sizes, modes (1 grey, 3 colour), and what has to be changed."""

    sizes: Counter[Size] = field(default_factory=Counter)
    modes: Counter[int] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    def notes(self, shape: tuple[int, ...], *, crop: bool) -> list[str]:
        """What it took to bring all of them to `shape`, [H,W,C]."""
        notes = [f"{count} image(s) {what}" for what, count in sorted(self.changed.items())]
        height, width, target = shape
        resized = self.sizes.total() - self.sizes[height, width]
        if resized:
            how = "cropped and resized" if crop else "resized"
            notes.append(f"{resized} image(s) {how} to {width}x{height}; {len(self.sizes)} size(s) were found")
        turned = self.modes.total() - self.modes[target]
        if turned:
            notes.append(f"{turned} image(s) turned from {'grey to RGB' if target == 3 else 'RGB to grey'}")
        return notes


def room_for(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Memory for so many images: uint8 [count,H,W,C]. Raises InputError where it is more than may be taken."""
    needed, there = count * math.prod(shape), machine_memory()
    if needed > there:
        raise InputError(
            f"{count:,} images of {shape[1]}x{shape[0]} take {needed / 2**30:,.1f} GiB, this machine has "
            f"{there / 2**30:,.1f} GiB of memory for this process; give fewer or smaller ones, in an experiment file "
            f"by --set data.image_size={max(1, shape[0] // 2)}, or --set data.shots=16 --set "
            "data.max_validation=16 --set data.max_test=16"
        )
    return np.empty((count, *shape), dtype=np.uint8)


def decoded_item(item: Item, name: str, *, least: Size | None = None) -> np.ndarray:
    """One image as uint8 [H,W] (grey) or [H,W,3] (colour).

    least: height and width that are enough. A large JPEG is then decoded at 1/2, 1/4 or 1/8 of its size (draft mode),
    the smallest that is no smaller than this; other formats know no such thing.
    """
    from PIL import Image, ImageOps

    if isinstance(item, np.ndarray):
        return item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item
    with _opened(item, name) as opened:
        if least is not None and max(opened.size) > DRAFT_ABOVE:
            opened.draft(None, least if _turned(opened) else least[::-1])
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits a pixel; one scale for all images
        return np.clip(np.round(np.asarray(image, dtype=np.float64) * (255 / 65535)), 0, 255).astype(np.uint8)
    if image.mode in ("L", "RGB"):
        return np.asarray(image)
    mode, _ = _wanted(image)
    if _transparent(image):  # what lies under transparent pixels is nobody's picture; viewers show white there
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert(mode))


def _turned(image: Image.Image) -> bool:
    """Whether a viewer shows its height as width."""
    from PIL import Image

    return Image.Image.getexif(image).get(ORIENTATION) in (5, 6, 7, 8)  # a PNG's own would decode it


@contextmanager
def _opened(item: Path | bytes, name: str) -> Iterator[Image.Image]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            yield image
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise InputError(f"image cannot be read: {name} ({error}); repair or remove it") from None


def _wanted(image: Image.Image) -> tuple[str, str]:
    """The mode that an image is decoded to, L or RGB, and what has to be changed for it."""
    if image.mode.startswith("I"):
        return "L", f"of mode {image.mode} scaled to 8 bits"
    if image.mode in ("L", "RGB"):
        return image.mode, ""
    mode = "L" if image.mode in ("1", "LA") else "RGB"
    change = f"of mode {image.mode} turned to {'grey' if mode == 'L' else 'RGB'}"
    return mode, f"{change}, transparent parts white" if _transparent(image) else change


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def unified(image: np.ndarray, shape: tuple[int, int, int], *, crop: bool = False) -> np.ndarray:
    """One image, [H,W] or [H,W,3], in another size and mode: uint8 [H,W,C] of `shape`; grey stays [H,W,1].

    `crop` as in `decoded`: synthetic images must lose what real ones lose, or the two are not of one kind.
    """
    image = resized(image, shape[:2], crop=crop)
    if image.ndim == 3 and shape[2] == 1:
        image = np.round(image @ LUMA).astype(np.uint8)
    return image[..., None] if image.ndim == 2 else image


def resized(image: np.ndarray, size: Size, *, crop: bool = False) -> np.ndarray:
    """uint8 [H,W] or [H,W,C] at another height and width: stretched, or of its middle what has these proportions."""
    from PIL import Image

    height, width = size
    if image.shape[:2] == size:
        return image
    if image.ndim == 3 and image.shape[2] != 3:  # no picture that Pillow knows: channel by channel
        return np.stack([resized(image[..., c], size, crop=crop) for c in range(image.shape[2])], axis=-1)
    box = _middle(image.shape[:2], size) if crop else None
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box))


def fitted(size: Size, side: int) -> Size:
    """Height and width of these proportions, at most `side` pixels each; a smaller one stays as it is."""
    longer = max(size)
    if longer <= side:
        return size
    height, width = (max(1, round(length * side / longer)) for length in size)
    return height, width


def _middle(found: Size, wanted: Size) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest central box of `found` with the proportions of `wanted`."""
    scale = min(found[0] / wanted[0], found[1] / wanted[1])
    height, width = wanted[0] * scale, wanted[1] * scale
    left, top = (found[1] - width) / 2, (found[0] - height) / 2
    return left, top, left + width, top + height
