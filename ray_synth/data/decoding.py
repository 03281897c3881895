"""Image files, encoded bytes or arrays in; pixels of one size and mode out. What cannot be read is refused by name."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ray_synth.errors import InputError

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp"}
THREADS = min(16, 2 * (os.cpu_count() or 1))  # Pillow decodes outside Python's lock
WINDOW = 2048  # images in the queue of the threads at once
GREY = np.array([0.299, 0.587, 0.114])

Item = Path | bytes | np.ndarray
Size = tuple[int, int]


def read_pixels(
    items: Sequence[Item], names: Sequence[str], size: Size | None, channels: int | None, *, crop: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Pixels in one size and mode, uint8 [N,H,W,C], and what had to be changed.

    `size` (height, width) and `channels` (1 or 3) fix both; else images take the commonest size and, where modes
    differ, colour. `crop` keeps proportions and cuts off what sticks out; without it images are stretched.

    Raises:
        InputError: an image that cannot be read, by its name.
    """
    if isinstance(items, np.ndarray) and size in (None, items.shape[1:3]) and channels in (None, items.shape[3]):
        return items, []
    decoded: list[np.ndarray] = []
    changed: Counter[str] = Counter()
    sizes: Counter[Size] = Counter()

    def one(index: int) -> tuple[np.ndarray, Size, Counter[str]]:
        seen: Counter[str] = Counter()
        image = decoded_item(items[index], names[index], seen)
        # A known size is taken at once, so that large photos need not all be held.
        return (image if size is None else resized(image, size, crop=crop)), (image.shape[0], image.shape[1]), seen

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(items), WINDOW):
            for image, found, seen in pool.map(one, range(start, min(start + WINDOW, len(items)))):
                decoded.append(image)
                sizes[found] += 1
                changed.update(seen)
    notes = [f"{count} image(s) {what}" for what, count in sorted(changed.items())]
    return _unify(decoded, sizes, size, channels, crop, notes), notes


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
    grey = image.mode in ("1", "LA")
    changed[f"of mode {image.mode} turned to {'grey' if grey else 'RGB'}"] += 1
    return np.asarray(image.convert("L" if grey else "RGB"))


def _unify(
    decoded: list[np.ndarray],
    sizes: Counter[Size],
    size: Size | None,
    channels: int | None,
    crop: bool,
    notes: list[str],
) -> np.ndarray:
    """One size and one mode for all: uint8 [N,H,W,C]. `sizes` counts what was found."""
    height, width = size or min(sizes, key=lambda shape: (-sizes[shape], shape))
    different = sum(count for shape, count in sizes.items() if shape != (height, width))
    if different:
        how = "cropped and resized" if crop else "resized"
        notes.append(f"{different} image(s) {how} to {width}x{height}; {len(sizes)} size(s) were found")
    modes = Counter(3 if image.ndim == 3 else 1 for image in decoded)
    target = channels or max(modes)
    if any(mode != target for mode in modes):
        notes.append(
            f"{len(decoded) - modes[target]} image(s) turned from {'grey to RGB' if target == 3 else 'RGB to grey'}"
        )
    out = np.empty((len(decoded), height, width, target), dtype=np.uint8)
    for i, image in enumerate(decoded):
        out[i] = unified(resized(image, (height, width), crop=crop), (height, width, target))
    return out


def unified(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """One image, [H,W] or [H,W,3], in another size and mode: uint8 [H,W,C] of `shape`."""
    image = resized(image, shape[:2])
    if image.ndim == 3 and shape[2] == 1:
        image = np.round(image @ GREY).astype(np.uint8)
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
