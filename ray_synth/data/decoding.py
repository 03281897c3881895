"""Image files, encoded bytes or arrays in; pixels of one size and mode out. What cannot be read is refused by name."""

from __future__ import annotations

import io
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ray_synth.errors import InputError

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp"}
THREADS = min(16, 2 * (os.cpu_count() or 1))  # Pillow decodes outside Python's lock
WINDOW = 2048  # images in the queue of the threads at once
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

Item = Path | bytes | np.ndarray
Size = tuple[int, int]


def read_pixels(
    items: Sequence[Item] | np.ndarray,
    names: Sequence[str] | np.ndarray,
    size: Size | None,
    channels: int | None,
    *,
    crop: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Pixels in one size and mode, uint8 [N,H,W,C], and what had to be changed.

    `size` (height, width) and `channels` (1 or 3) fix both; else images take the commonest size and, where modes
    differ, colour. `crop` keeps proportions and cuts off what sticks out; without it images are stretched.

    Raises:
        InputError: an image that cannot be read, by its name.
    """
    if isinstance(items, np.ndarray) and size in (None, items.shape[1:3]) and channels in (None, items.shape[3]):
        return items, []
    if size is not None:
        check_memory(len(items), (*size, channels or 3))
    seen = Seen()
    decoded = _in_threads(items, names, seen, size, crop)
    if size is None:  # the commonest is known when all are decoded
        decoded = iter(list(decoded))
        size, channels = min(seen.sizes, key=lambda found: (-seen.sizes[found], found)), channels or max(seen.modes)
    shape = (*size, channels or 3)
    out = np.empty((len(items), *shape), dtype=np.uint8)
    for row, image in enumerate(decoded):
        out[row] = unified(image, shape, crop=crop)
    if channels is None and not seen.modes[3]:
        out = np.ascontiguousarray(out[..., :1])
    return out, seen.notes(out.shape[1:], crop=crop)


@dataclass
class Seen:
    """What was found among images that are decoded: sizes, modes (1 grey, 3 colour), and what had to be changed."""

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


def _in_threads(
    items: Sequence[Item] | np.ndarray, names: Sequence[str] | np.ndarray, seen: Seen, size: Size | None, crop: bool
) -> Iterator[np.ndarray]:
    """Every image in order, resized where the size is known: large photos need then not all be held."""

    def one(index: int) -> tuple[np.ndarray, Size, Counter[str]]:
        changed: Counter[str] = Counter()
        image = decoded_item(items[index], names[index], changed)
        return (image if size is None else resized(image, size, crop=crop)), (image.shape[0], image.shape[1]), changed

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(items), WINDOW):
            for image, found, changed in pool.map(one, range(start, min(start + WINDOW, len(items)))):
                seen.sizes[found] += 1
                seen.modes[3 if image.ndim == 3 else 1] += 1
                seen.changed.update(changed)
                yield image


def check_memory(count: int, shape: tuple[int, int, int]) -> None:
    """Raise InputError where so many images, [H,W,C] each, are more than this machine's memory can hold."""
    needed, there = count * math.prod(shape), machine_memory()
    if needed > there:
        raise InputError(
            f"{count:,} images of {shape[1]}x{shape[0]} take {needed / 2**30:,.1f} GiB, this machine has "
            f"{there / 2**30:,.1f} GiB of memory; type --set data.image_size={max(1, shape[0] // 2)}, or fewer images: "
            "--set data.shots=16 --set data.max_validation=16 --set data.max_test=16"
        )


def machine_memory() -> int:
    """Bytes of memory; where the system does not say (Windows), more than anybody needs."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def decoded_item(item: Item, name: str, changed: Counter[str]) -> np.ndarray:
    """One image as uint8 [H,W] (grey) or [H,W,3] (colour)."""
    if isinstance(item, np.ndarray):
        return item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item
    return _decoded(item, name, changed)


def decoded_file(file: Path, changed: Counter[str]) -> np.ndarray:
    """One file as uint8 [H,W] (grey) or [H,W,3] (colour)."""
    return _decoded(file, str(file), changed)


def _decoded(source: Path | bytes, name: str, changed: Counter[str]) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise InputError(f"image cannot be read: {name} ({error}); repair or remove it") from None
    if image.mode.startswith("I"):  # 16 bits a pixel; one scale for all images
        changed[f"of mode {image.mode} scaled to 8 bits"] += 1
        return np.clip(np.round(np.asarray(image, dtype=np.float64) * (255 / 65535)), 0, 255).astype(np.uint8)
    if image.mode in ("L", "RGB"):
        return np.asarray(image)
    mode = "L" if image.mode in ("1", "LA") else "RGB"
    what = f"of mode {image.mode} turned to {'grey' if mode == 'L' else 'RGB'}"
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # What lies under transparent pixels is nobody's picture; viewers show white there.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        what += ", transparent parts white"
    changed[what] += 1
    return np.asarray(image.convert(mode))


def unified(image: np.ndarray, shape: tuple[int, int, int], *, crop: bool = False) -> np.ndarray:
    """One image, [H,W] or [H,W,3], in another size and mode: uint8 [H,W,C] of `shape`; grey stays [H,W,1].

    `crop` as in `read_pixels`: synthetic images must lose what real ones lose, or the two are not of one kind.
    """
    image = resized(image, shape[:2], crop=crop)
    if image.ndim == 3 and shape[2] == 1:
        image = np.round(image @ LUMA).astype(np.uint8)
    return image[..., None] if image.ndim == 2 else image


def resized(image: np.ndarray, size: Size, *, crop: bool = False) -> np.ndarray:
    """uint8 [H,W] or [H,W,3] at another height and width: stretched, or of its middle what has these proportions."""
    from PIL import Image

    height, width = size
    if image.shape[:2] == size:
        return image
    box = _middle(image.shape[:2], size) if crop else None
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box))


def _middle(found: Size, wanted: Size) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest central box of `found` with the proportions of `wanted`."""
    scale = min(found[0] / wanted[0], found[1] / wanted[1])
    height, width = wanted[0] * scale, wanted[1] * scale
    left, top = (found[1] - width) / 2, (found[0] - height) / 2
    return left, top, left + width, top + height
