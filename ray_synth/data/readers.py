"""A `data` section in, a `Listing` or its `ImageSet` out: one row per format in `READERS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ray_synth.catalog import CATALOG
from ray_synth.config import Data
from ray_synth.data.arrays import list_cifar10, list_cifar100, list_npz
from ray_synth.data.class_folders import images_directly_in, look_in
from ray_synth.data.decoding import Size, resized
from ray_synth.data.images import ImageSet
from ray_synth.data.layouts import list_known
from ray_synth.data.listing import Listing, names_of
from ray_synth.data.shards import ENDINGS, list_huggingface, list_parquet, list_webdataset
from ray_synth.errors import InputError


def list_images(data: Data) -> Listing:
    """The images that a `data` section names, not decoded yet."""
    try:
        return READERS[data.kind](data)
    except InputError as error:
        raise InputError(f"{error}{_meant(data)}") from None
    except OSError as error:
        raise InputError(
            f"data.path={data.path} cannot be read: {error.filename or data.root}: {error.strerror}"
        ) from None


def _meant(data: Data) -> str:
    """The end of a message about a source: which kind its file is of, or from where a path was looked for."""
    if data.path is None:
        return ""
    path = data.path
    if data.root.exists():
        kinds = dict.fromkeys(ENDINGS["parquet"], "parquet") | dict.fromkeys(ENDINGS["tar"], "webdataset")
        kinds[".npz"] = "npz"
        kind = next((kinds[ending] for ending in kinds if path.lower().endswith(ending)), data.kind)
        return f"; type --set data.kind={kind}" if kind != data.kind and data.root.is_file() else ""
    if Path(path).is_absolute():
        return ""
    here = Path.cwd()
    there = next((above / path for above in here.parents if (above / path).exists()), None)
    cure = f"type --set data.path={there}" if there is not None else "type --set data.path=FOLDER, a full path"
    return f"; data.path={path} was looked for from {here}: {cure}"


def read_images(data: Data) -> ImageSet:
    """The images that a `data` section names, all of them, in one size and mode."""
    return list_images(data).read(data.size, crop=data.crop)


def read_digits(image_size: int | None = None) -> ImageSet:
    """Scikit-learn's 1,797 handwritten digits, 8x8 grey; a part of the package, nothing is downloaded."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    if image_size is not None and image_size != images.shape[1]:
        images = np.stack([resized(image, (image_size, image_size)) for image in images])
    return ImageSet(
        pixels=images[..., None],
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(name) for name in digits.target_names),
    )


def list_digits(data: Data) -> Listing:
    digits = read_digits(data.image_size)
    names = names_of(f"digit {row}" for row in range(len(digits)))
    return Listing(items=digits.pixels, names=names, labels=digits.labels, class_names=digits.class_names)


def read_folder(path: str | Path, *, size: Size | None = None, channels: int | None = None) -> ImageSet:
    """A folder of class folders: `path/class_name/*.png`, or other images (`decoding.EXTENSIONS`), any case.

    Images of several sizes are resized to that of most of them (`decoding.Seen.size`), of several modes turned to
    colour; `notes` says so.
    `size` (height, width) and `channels` (1 or 3) fix both instead.

    Raises:
        InputError: no such folder, no class or one class only, an empty class, an image that cannot be read.
    """
    return list_folder(Path(path)).read(size, channels)


def list_folder(root: Path, *, least: int = 2) -> Listing:
    """As `read_folder`, nothing decoded yet. least: classes that there must be."""
    classes = look_in(root, least=least)
    names = names_of(file for members in classes.files.values() for file in members)
    return Listing(
        items=names.tolist(),
        names=names,
        labels=np.repeat(np.arange(len(classes.files)), [len(members) for members in classes.files.values()]),
        class_names=tuple(classes.files),
        notes=classes.notes,
    )


def class_files(root: Path) -> dict[str, list[str]]:
    """The image files of `root/class_name/`, by class and name; one class is enough. Raises InputError as
    `read_folder`."""
    return look_in(root, least=1).files


def list_unlabelled(root: Path) -> Listing:
    """A folder that holds images directly, of classes unknown: `root/*.png` and other images. Every label is 0."""
    files, notes = images_directly_in(root)
    names = names_of(files)
    return Listing(
        items=names.tolist(),
        names=names,
        labels=np.zeros(len(files), dtype=np.int64),
        class_names=("unlabelled",),
        notes=notes,
    )


READERS: dict[str, Callable[[Data], Listing]] = {
    "digits": list_digits,
    "folder": lambda data: list_folder(data.root),
    "npz": lambda data: list_npz(data.root, data.columns),
    "cifar10": lambda data: list_cifar10(data.root),
    "cifar100": lambda data: list_cifar100(data.root),
    "parquet": lambda data: list_parquet(data.root, data.columns),
    "webdataset": lambda data: list_webdataset(data.root, data.columns),
    "huggingface": lambda data: list_huggingface(data.root, data.columns),
    **dict.fromkeys(CATALOG, list_known),
}
