"""An image file or encoded bytes in; Pillow's image, not decoded yet, out; or which images are none, and why."""

from __future__ import annotations

import importlib.util
import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_synth.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

# What is opened, by its content; Pillow knows more, and for some of them it starts other programs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF")
HEIF = (".heic", ".heif", ".hif")  # where pillow-heif is installed
HEIF_CURE = "type pip install 'ray_synth[heif]' to read HEIC"
LARGEST = "RAY_SYNTH_MAX_MEGAPIXELS"  # in the environment: the largest image that is decoded
MEGAPIXELS = 160  # where it is not said: what the largest cameras take at once
POINTER = b"version https://git-lfs.github.com/spec/"
LISTED = 20
REPAIR = "repair or remove it"
PULL = "type git lfs pull where the images were cloned"


@dataclass(frozen=True, slots=True)
class Member:
    """What lies in the middle of a larger file, such as a tar shard, and is read when it is asked for."""

    file: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def whole(self, name: str) -> bytes:
        """Raises BrokenImages where it cannot be read. name: of the image, for the message."""
        try:
            return self.read_bytes()
        except OSError as error:
            raise BrokenImages([Broken(name, str(error))]) from None


@dataclass(frozen=True)
class Broken:
    """An image that cannot be read: why, and what helps."""

    name: str
    reason: str
    cure: str = REPAIR


class BrokenImages(InputError):
    """Images that cannot be read, each by its name."""

    def __init__(self, found: Sequence[Broken]):
        self.found = tuple(dict.fromkeys(found))
        super().__init__(_said(self.found))

    def __reduce__(self) -> Any:
        return type(self), (self.found,)


def _said(found: Sequence[Broken]) -> str:
    cures = dict.fromkeys(each.cure for each in found)
    parts = []
    for cure in cures:
        same = [each for each in found if each.cure == cure]
        named = ", ".join(f"{each.name} ({each.reason})" for each in same[:LISTED])
        more = f" and {len(same) - LISTED} more" if len(same) > LISTED else ""
        many = "image" if len(same) == 1 else f"{len(same)} images"
        told = cure.replace("remove it", "remove them") if len(same) > 1 else cure
        parts.append(f"{many} cannot be read: {named}{more}; {told}")
    return ". ".join(parts)


@contextmanager
def opened(item: Path | str | Member | bytes, name: str) -> Iterator[Image.Image]:
    """Pillow's image, of which the head is read.

    Raises:
        BrokenImages: it is none, or has more pixels than the limit; also what goes wrong inside of the block.
    """
    from PIL import Image

    try:
        with _limit_is_ours(), _readable(item) as file, Image.open(file, formats=_formats()) as image:
            _check_size(image, name)
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise BrokenImages([_reason(item, name, error)]) from None


@contextmanager
def _readable(item: Path | str | Member | bytes) -> Iterator[Any]:
    """What Pillow takes: of a member its part of the file, of which heads alone may be asked."""
    from PIL import ContainerIO

    if isinstance(item, Member):
        with open(item.file, "rb") as file:
            yield ContainerIO.ContainerIO(file, item.offset, item.size)
    else:
        yield io.BytesIO(item) if isinstance(item, bytes) else item


def _check_size(image: Image.Image, name: str) -> None:
    largest, pixels = largest_image(), image.size[0] * image.size[1]
    if pixels > largest * 1_000_000:
        wanted = -(-pixels // 1_000_000)
        raise BrokenImages([
            Broken(
                name,
                f"{image.size[0]}x{image.size[1]} are {wanted} megapixels",
                f"at most {largest} are decoded; make it smaller, or type {LARGEST}={wanted} in front of the command "
                "(in Python: os.environ) if it is your own",
            )
        ])  # fmt: skip


def largest_image() -> int:
    """The most megapixels of an image that is decoded. Raises InputError where the environment says no number."""
    given = os.environ.get(LARGEST, "").strip()
    if not given:
        return MEGAPIXELS
    if not given.isdecimal() or not 0 < int(given) <= 10_000:
        raise InputError(
            f"{LARGEST} must be a whole number from 1 to 10000, got {given!r}; type {LARGEST}={MEGAPIXELS}, or unset it"
        )
    return int(given)


def _reason(item: Path | str | Member | bytes, name: str, error: Exception) -> Broken:
    from PIL import UnidentifiedImageError, features

    if _head(item).startswith(POINTER):
        return Broken(name, "a pointer of Git LFS stands in its place", PULL)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in HEIF and importlib.util.find_spec("pillow_heif") is None:
        return Broken(name, "HEIC needs pillow-heif", HEIF_CURE)
    if suffix in (".avif", ".avifs") and not features.check("avif"):
        return Broken(name, "this Pillow reads no AVIF", "type pip install -U pillow")
    if not _head(item):
        return Broken(name, "it is empty" if _there(item) else "no such file")
    if isinstance(error, UnidentifiedImageError):
        return Broken(name, "no format of images that is read here")
    return Broken(name, str(error) or type(error).__name__)


def _there(item: Path | str | Member | bytes) -> bool:
    return isinstance(item, bytes) or os.path.exists(item.file if isinstance(item, Member) else item)


def _head(item: Path | str | Member | bytes) -> bytes:
    if isinstance(item, bytes):
        return item[:64]
    try:
        if isinstance(item, Member):
            return replace(item, size=min(item.size, 64)).read_bytes()
        with open(item, "rb") as file:
            return file.read(64)
    except OSError:
        return b""


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that are installed. Pillow is readied for them, once."""
    from PIL import Image

    # Of damaged EXIF it warns on the terminal, tag by tag; the picture is fine.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

    if importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


_lock = threading.Lock()
_inside = 0
_theirs: int | None = None


@contextmanager
def _limit_is_ours() -> Iterator[None]:
    """Without Pillow's own limit, which warns of a photograph and calls a larger one an attack; `_check_size` stands in
    its place. Other code of the process has Pillow's back afterwards."""
    global _inside, _theirs
    from PIL import Image

    with _lock:
        if not _inside:
            _theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                Image.MAX_IMAGE_PIXELS = _theirs
