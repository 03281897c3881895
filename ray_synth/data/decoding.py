"""Image files, encoded bytes or arrays in; pixels of one size and mode out. What cannot be read is refused by name."""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ray_synth.data.depth import Depth, Range, deep_values, depth_of, is_deep, is_grey, on_white, range_of
from ray_synth.data.opening import HEIF, Broken, BrokenImages, Member, opened
from ray_synth.errors import InputError
from ray_synth.hardware.machine import machine_memory, usable_cpus

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm",
    ".pbm", ".pnm", ".avif", ".jp2", ".j2k", *(HEIF if importlib.util.find_spec("pillow_heif") else ()),
}  # fmt: skip
SHALLOW = {".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp"}  # never more than 8 bits a channel
THREADS = min(16, 2 * usable_cpus())  # Pillow decodes outside Python's lock
AT_ONCE = 16  # images that a thread is handed
WINDOW = 128  # such pieces in the queue of the threads at once
ORIENTATION = 274  # of EXIF; 5 to 8 change height and width
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
ENOUGH = 256  # pixels a side that images of many sizes are brought to at most: what networks look at
SEVERAL = "of several frames or pages, of which the first is taken"
CHECKED = 20_000  # images that are looked through for other broken ones, once one is
DRAFT_ABOVE = 256  # pixels of a longer side: smaller files gain nothing from draft mode, and stay as they are

Item = Path | str | Member | bytes | np.ndarray  # a file, what lies in one, or pixels
Size = tuple[int, int]
T = TypeVar("T")


def decoded(
    items: Sequence[Item] | np.ndarray,
    names: Sequence[str],
    shape: tuple[int, int, int],
    *,
    crop: bool,
    draft: bool = False,
    depth: Depth | None = None,
) -> np.ndarray:
    """Images in one size and mode: uint8 [N,H,W,C] of `shape`.

    `crop` keeps proportions and cuts off what sticks out; without it images are stretched. `draft` and `depth` as in
    `decoded_item`.

    Raises:
        InputError: images that cannot be read, by their names; more images than memory holds.
    """
    out = room_for(len(items), shape)

    def one(row: int) -> None:
        least = shape[:2] if draft else None
        out[row] = unified(_picture(items[row], names[row], least, depth), shape, crop=crop)

    for _ in _in_threads(one, len(items)):
        pass
    return out


def _in_threads(one: Callable[[int], T], count: int) -> Iterator[T]:
    """What `one` gives for each row; rows that it cannot read are refused together, after the others."""
    broken: list[Broken] = []
    each = max(1, min(AT_ONCE, count // (4 * THREADS)))  # rows that a thread is handed: small images are quickly done

    def tried(row: int) -> T | BrokenImages:
        try:
            return one(row)
        except BrokenImages as error:
            return error

    def several(begin: int) -> list[T | BrokenImages]:
        return [tried(row) for row in range(begin, min(begin + each, count))]

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, count, WINDOW * each):
            for results in pool.map(several, range(start, min(start + WINDOW * each, count), each)):
                for found in results:
                    if isinstance(found, BrokenImages):
                        broken += found.found
                    else:
                        yield found
    if broken:
        raise BrokenImages(broken)


def broken_among(items: Sequence[Item] | np.ndarray, names: Sequence[str] | np.ndarray) -> list[Broken]:
    """Those that cannot be decoded, of the first CHECKED."""

    def one(row: int) -> None:
        decoded_item(items[row], names[row], least=(1, 1))

    try:
        for _ in _in_threads(one, min(len(items), CHECKED)):
            pass
    except BrokenImages as error:
        return list(error.found)
    return []


def depth_among(items: Sequence[Item] | np.ndarray, names: Sequence[str] | np.ndarray) -> Depth | None:
    """The scale of those images that have more than 8 bits a channel; None where none has. Unreadable ones say none."""

    def one(row: int) -> tuple[np.ndarray, np.ndarray | None] | None:
        item = items[row]
        if isinstance(item, np.ndarray):
            return None
        if isinstance(item, Path | str) and os.path.splitext(item)[1].lower() in SHALLOW:
            return None
        try:
            with opened(item, names[row]) as image:
                deep = is_deep(image)
            return deep_values(item, names[row]) if deep else None
        except BrokenImages:
            return None

    found = [range_of([each]) for each in _in_threads(one, len(items)) if each is not None]
    if not found:
        return None
    lowest, highest, whole = zip(*found, strict=True)
    return depth_of(Range(min(lowest), max(highest), all(whole)))


def look(items: Sequence[Item] | np.ndarray, names: Sequence[str] | np.ndarray) -> Seen:
    """Sizes and modes as the heads of files say them; pixels are decoded of images of more than 8 bits a channel only.

    Raises:
        InputError: files that are no images, by their names.
    """

    def one(row: int) -> tuple[Size, int, list[str], bool]:
        item = items[row]
        if isinstance(item, np.ndarray):
            return (item.shape[0], item.shape[1]), 3 if item.ndim == 3 and item.shape[2] != 1 else 1, [], False
        with opened(item, names[row]) as image:
            mode, change = _wanted(image)
            changes = [each for each in (change, SEVERAL if _has_frames(image) else "") if each]
            size = image.size if _turned(image) else image.size[::-1]
            return size, 3 if mode == "RGB" else 1, changes, is_deep(image)

    seen, deep = Seen(), []
    for row, (size, mode, changes, of_more_bits) in enumerate(_in_threads(one, len(items))):
        seen.sizes[size] += 1
        seen.modes[mode] += 1
        seen.changed.update(changes)
        if of_more_bits:
            deep.append(row)
    if deep:
        seen.deep = len(deep)
        seen.range = range_of(_in_threads(lambda at: deep_values(items[deep[at]], names[deep[at]]), len(deep)))
    return seen


@dataclass
class Seen:
    """What was found among images: sizes, modes (1 grey, 3 colour), what has to be changed, how many have more than 8
    bits a channel, and the lowest and highest value of these."""

    sizes: Counter[Size] = field(default_factory=Counter)
    modes: Counter[int] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    deep: int = 0
    range: Range = Range(0.0, 255.0)  # noqa: RUF009 - a tuple

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "sizes": [[*size, count] for size, count in self.sizes.items()],
            "modes": list(self.modes.items()),
            "changed": list(self.changed.items()),
            "deep": self.deep,
            "range": list(self.range),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Seen:
        return cls(
            sizes=Counter({(height, width): count for height, width, count in plain["sizes"]}),
            modes=Counter(dict(plain["modes"])),
            changed=Counter(dict(plain["changed"])),
            deep=plain["deep"],
            range=Range(*plain["range"]),
        )

    @classmethod
    def joined(cls, several: Sequence[Seen]) -> Seen:
        """Of several sets of images, what was found among all."""
        whole = cls()
        for each in several:
            whole.sizes.update(each.sizes)
            whole.modes.update(each.modes)
            whole.changed.update(each.changed)
            if each.deep:
                known = whole.range if whole.deep else each.range
                low, high, of_whole = (*zip(known, each.range, strict=True),)
                whole.range, whole.deep = Range(min(low), max(high), all(of_whole)), whole.deep + each.deep
        return whole

    def size(self) -> Size:
        """That of most images; where no size is that of most, a square of the median of the shorter sides, at most
        ENOUGH."""
        commonest, count = self.sizes.most_common(1)[0]
        side = min(ENOUGH, self._median_side())
        return commonest if 2 * count > self.sizes.total() else (side, side)

    def _median_side(self) -> int:
        return statistics.median_high(min(size) for size in self.sizes.elements())

    def size_notes(self) -> list[str]:
        """Where `size` had to choose."""
        if 2 * max(self.sizes.values()) > self.sizes.total():
            return []
        side, median = self.size()[0], self._median_side()
        least = "" if side == median else f" of {median}, at most {ENOUGH}"
        return [
            f"no size is that of most images: all become {side}x{side}, the median of their shorter sides{least} (in "
            "an experiment file data.image_size says another)"
        ]

    def depth(self) -> Depth | None:
        """The scale of those of more than 8 bits a channel."""
        return depth_of(self.range) if self.deep else None

    def notes(self, shape: tuple[int, ...], *, crop: bool, depth: Depth | None = None) -> list[str]:
        """What it took to bring all of them to `shape`, [H,W,C], and to the scale."""
        notes = [f"{count} image(s) {what}" for what, count in sorted(self.changed.items())]
        height, width, target = shape
        resized = self.sizes.total() - self.sizes[height, width]
        if resized:
            how = "cropped and resized" if crop else "resized"
            notes.append(f"{resized} image(s) {how} to {width}x{height}; {len(self.sizes)} size(s) were found")
        turned = self.modes.total() - self.modes[target]
        if turned:
            notes.append(f"{turned} image(s) turned from {'grey to RGB' if target == 3 else 'RGB to grey'}")
        if self.deep and depth is not None:
            lowest, highest, _ = self.range
            note = f"{self.deep} image(s) of more than 8 bits a channel: values from {depth} become 0 to 255"
            beyond = lowest < depth.low or highest > depth.high
            found = f"; they go from {lowest:g} to {highest:g}, and what lies beyond is cut off" if beyond else ""
            notes.append(note + found)
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


def decoded_item(item: Item, name: str, *, least: Size | None = None, depth: Depth | None = None) -> np.ndarray:
    """One image as uint8 [H,W] (grey) or [H,W,3] (colour).

    least: height and width that are enough. A large JPEG is then decoded at 1/2, 1/4 or 1/8 of its size (draft mode),
    the smallest that is no smaller than this; other formats know no such thing. depth: which values of more than 8 bits
    become 0 and 255; that of the image alone where it is not said.
    """
    return np.asarray(_picture(item, name, least, depth))


def _picture(item: Item, name: str, least: Size | None, depth: Depth | None) -> np.ndarray | Image.Image:
    """As `decoded_item`, in Pillow's memory where it lies there: what is resized next need not be copied twice."""
    from PIL import Image

    if isinstance(item, np.ndarray):
        return item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item
    if isinstance(item, Member):  # all of it is asked for: at once
        item = item.whole(name)
    with opened(item, name) as image:
        deep = is_deep(image)
        if not deep and least is not None and image.format in ("JPEG", "MPO") and max(image.size) > DRAFT_ABOVE:
            image.draft(None, least if _turned(image) else least[::-1])
        image.load()
        orientation = _orientation(image)
        if not deep:
            mode, _ = _wanted(image)
            if _transparent(image):  # what lies under transparent pixels is nobody's picture; viewers show white there
                shown = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
                return upright(np.asarray(shown.convert(mode)), orientation)
            shown = image if image.mode == mode else image.convert(mode)
            return shown if orientation == 1 else upright(np.asarray(shown), orientation)
    values, opaque = deep_values(item, name)
    return upright(on_white(values, opaque, depth or depth_of(range_of([(values, opaque)]))), orientation)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image [H,W,...] as viewers show one of this EXIF orientation, 1 to 8."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _orientation(image: Image.Image) -> int:
    """Of its EXIF data, 1 (upright) where these are none or broken: the picture is fine."""
    from PIL import Image

    if image.format == "TIFF":  # Pillow turns it when it decodes it
        return 1
    try:
        found = Image.Image.getexif(image).get(ORIENTATION, 1)  # a PNG's own would decode it
    except Exception:  # what broken tags make Pillow raise
        return 1
    return found if found in range(1, 9) else 1


def _turned(image: Image.Image) -> bool:
    """Whether a viewer shows its height as width."""
    return _orientation(image) in (5, 6, 7, 8)


def _has_frames(image: Image.Image) -> bool:
    """Whether it is animated, or has several pages. (The second picture of an MPO photograph is its preview.)"""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # of a file that is torn behind its first frame
        return False


def _wanted(image: Image.Image) -> tuple[str, str]:
    """The mode that an image is decoded to, L or RGB, and what has to be changed for it."""
    white = ", transparent parts white" if _transparent(image) else ""
    if image.mode in ("L", "RGB") and not white and not is_deep(image):
        return image.mode, ""
    deep = is_deep(image)
    grey = is_grey(image) if deep else image.mode in ("1", "L", "LA", "La")
    mode = "L" if grey else "RGB"
    if deep:
        return mode, f"of mode {image.mode} scaled to 8 bits{white}"
    return mode, f"of mode {image.mode} turned to {'grey' if mode == 'L' else 'RGB'}{white}"


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def unified(image: np.ndarray | Image.Image, shape: tuple[int, int, int], *, crop: bool = False) -> np.ndarray:
    """One image, [H,W] or [H,W,3] or of Pillow, in another size and mode: uint8 [H,W,C] of `shape`; grey stays [H,W,1].

    `crop` as in `decoded`: synthetic images must lose what real ones lose, or the two are not of one kind.
    """
    image = resized(image, shape[:2], crop=crop)
    if image.ndim == 3 and shape[2] == 1:
        image = np.round(image @ LUMA).astype(np.uint8)
    return image[..., None] if image.ndim == 2 else image


def resized(image: np.ndarray | Image.Image, size: Size, *, crop: bool = False) -> np.ndarray:
    """uint8 [H,W] or [H,W,C], or of Pillow, at another height and width: stretched, or of its middle what has these
    proportions."""
    from PIL import Image

    height, width = size
    found = image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]
    if found == size:
        return np.asarray(image)
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and image.shape[2] != 3:  # no picture that Pillow knows: channel by channel
            return np.stack([resized(image[..., c], size, crop=crop) for c in range(image.shape[2])], axis=-1)
        image = Image.fromarray(image)
    box = _middle(found, size) if crop else None
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


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
