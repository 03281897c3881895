"""A source in, an `ImageSet` out: one function per format, one row per format in `READERS`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ray_synth.config import Data
from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp"}


def read_images(data: Data) -> ImageSet:
    """The images that a `data` section names, in one size and mode."""
    return READERS[data.kind](data)


def read_digits(image_size: int | None = None) -> ImageSet:
    """Scikit-learn's 1,797 handwritten digits, 8x8 grey; a part of the package, nothing is downloaded."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    if image_size is not None and image_size != images.shape[1]:
        images = np.stack([_resized(image, (image_size, image_size)) for image in images])
    return ImageSet(
        images=images[..., None],
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(name) for name in digits.target_names),
    )


def read_folder(
    path: str | Path, *, image_size: int | None = None, size: tuple[int, int] | None = None, channels: int | None = None
) -> ImageSet:
    """A folder of class folders: `path/class_name/*.png|jpg|jpeg|webp`, any case.

    Images of several sizes are resized to the commonest one, of several modes turned to colour; `notes` says so.
    `size` (height, width) and `channels` (1 or 3) fix both instead.

    Raises:
        InputError: no such folder, no class or one class only, an empty class, an image that cannot be read.
    """
    listings = _class_listings(Path(path))
    files = _images_in(listings)
    flat = [file for members in files.values() for file in members]
    pixels, notes = _read_files(flat, (image_size, image_size) if image_size is not None else size, channels)
    return ImageSet(
        images=pixels,
        labels=np.repeat(np.arange(len(files)), [len(members) for members in files.values()]),
        class_names=tuple(files),
        sources=np.asarray([str(file) for file in flat], dtype=object),
        notes=(*_skipped([file for listing in listings.values() for file in listing]), *notes),
    )


def class_files(root: Path) -> dict[str, list[Path]]:
    """The image files of `root/class_name/`, by class and name. Raises InputError as `read_folder`."""
    return _images_in(_class_listings(root))


def _class_listings(root: Path) -> dict[str, list[Path]]:
    """Everything that lies in each class folder."""
    _check_is_folder(root, "it must hold one folder per class")
    try:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        listings = {folder.name: _visible_files(folder) for folder in folders}
        "".join(listings).encode()
    except OSError as error:
        raise InputError(f"image folder {error.filename} cannot be read: {error.strerror}") from None
    except UnicodeEncodeError:
        raise InputError(f"a class folder in {root} has a name that is not UTF-8; rename it") from None
    if not folders:
        raise InputError(f"no class folder in {root}; expected {root}/class_name/*.png (or jpg, jpeg, webp)")
    if len(folders) == 1:
        raise InputError(
            f"only one class in {root}: {folders[0].name!r}; a classifier needs at least two class folders"
        )
    return listings


def _images_in(listings: dict[str, list[Path]]) -> dict[str, list[Path]]:
    images = {
        name: [file for file in listing if file.suffix.lower() in EXTENSIONS] for name, listing in listings.items()
    }
    for name, files in images.items():
        if not files:
            raise InputError(
                f"class folder {name!r} holds no image; add {', '.join(sorted(EXTENSIONS))} files or remove the folder"
            )
    return images


def read_unlabelled(path: str | Path, *, size: tuple[int, int], channels: int) -> ImageSet:
    """A folder that holds images directly, of classes unknown: `path/*.png|jpg|jpeg|webp`. Every label is 0."""
    root = Path(path)
    _check_is_folder(root, "it must hold images, or one folder per class")
    try:
        listing = _visible_files(root)
    except OSError as error:
        raise InputError(f"image folder {error.filename} cannot be read: {error.strerror}") from None
    files = [p for p in listing if p.suffix.lower() in EXTENSIONS]
    if not files:
        raise InputError(
            f"no image in {root}; expected {root}/*.png (or jpg, jpeg, webp), or {root}/class_name/*.png where the "
            "classes are known"
        )
    pixels, notes = _read_files(files, size, channels)
    return ImageSet(
        images=pixels,
        labels=np.zeros(len(files), dtype=np.int64),
        class_names=("unlabelled",),
        sources=np.asarray([str(file) for file in files], dtype=object),
        notes=(*_skipped(listing), *notes),
    )


READERS = {
    "digits": lambda data: read_digits(data.image_size),
    "folder": lambda data: read_folder(data.path, image_size=data.image_size),
}


def _check_is_folder(root: Path, holds: str) -> None:
    if not root.exists():
        raise InputError(f"image folder not found: {root}; {holds}")
    if not root.is_dir():
        raise InputError(f"{root} is a file; give the folder: {holds}")


def _visible_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _skipped(listing: Sequence[Path]) -> list[str]:
    """What lies among the images and is none, counted by kind."""
    skipped = Counter(p.suffix.lower() or "no extension" for p in listing if p.suffix.lower() not in EXTENSIONS)
    return [f"{count} file(s) skipped, not an image: {kind}" for kind, count in sorted(skipped.items())]


def _read_files(
    files: Sequence[Path], wanted: tuple[int, int] | None, channels: int | None
) -> tuple[np.ndarray, list[str]]:
    """Pixels in one size and mode, uint8 [N,H,W,C], and what had to be changed."""
    decoded: list[np.ndarray] = []
    changed: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for file in files:
        image = decoded_file(file, changed)
        sizes[image.shape[0], image.shape[1]] += 1
        # A known size is taken at once, so that large photos need not all be held.
        decoded.append(image if wanted is None else _resized(image, wanted))
    notes = [f"{count} image(s) {what}" for what, count in sorted(changed.items())]
    return _unify(decoded, sizes, wanted, channels, notes), notes


def decoded_file(file: Path, changed: Counter[str]) -> np.ndarray:
    """One file as uint8 [H,W] (grey) or [H,W,3] (colour)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise InputError(f"image cannot be read: {file} ({error}); repair or remove it") from None
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
    sizes: Counter[tuple[int, int]],
    size: tuple[int, int] | None,
    channels: int | None,
    notes: list[str],
) -> np.ndarray:
    """One size and one mode for all: uint8 [N,H,W,C]. `sizes` counts what was found."""
    height, width = size or min(sizes, key=lambda shape: (-sizes[shape], shape))
    resized = sum(count for shape, count in sizes.items() if shape != (height, width))
    if resized:
        notes.append(f"{resized} image(s) resized to {width}x{height}; {len(sizes)} size(s) were found")
    modes = Counter(3 if image.ndim == 3 else 1 for image in decoded)
    target = channels or max(modes)
    if any(mode != target for mode in modes):
        notes.append(
            f"{len(decoded) - modes[target]} image(s) turned from {'grey to RGB' if target == 3 else 'RGB to grey'}"
        )
    out = np.empty((len(decoded), height, width, target), dtype=np.uint8)
    for i, image in enumerate(decoded):
        out[i] = unified(image, (height, width, target))
    return out


def unified(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """One image, [H,W] or [H,W,3], in another size and mode: uint8 [H,W,C] of `shape`."""
    image = _resized(image, shape[:2])
    if image.ndim == 3 and shape[2] == 1:
        image = np.round(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return image[..., None] if image.ndim == 2 else image


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    height, width = size
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
