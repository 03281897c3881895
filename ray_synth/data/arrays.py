"""Files of pixel arrays in, a `Listing` out: npz, and CIFAR-10 and CIFAR-100 as they were published."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.config import Columns
from ray_synth.data.columns import arrays_of
from ray_synth.data.listing import Listing, labels_of, names_of, parts_of
from ray_synth.data.pickled import NotPlain, plain_values
from ray_synth.errors import InputError

ANY = Columns()
NPZ = "images uint8 [N,H,W] or [N,H,W,C], labels [N]; and, where known, class_names [K], split [N] and split_names"


def list_npz(path: Path, asked: Columns = ANY) -> Listing:
    """`np.savez(path, images=..., labels=...)`, read without pickle; or a pair of arrays for each part, as Keras and
    MedMNIST have them.

    labels: integers, or names. split: names, or integers that index split_names. asked: what the arrays are called,
    where they have other names.

    Raises:
        InputError: no such file, a broken one, arrays that do not fit together, a label outside class_names.
    """
    if not path.is_file():
        raise InputError(f"npz file not found: {path}; it must hold {NPZ}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zipfile.error) as error:
        raise InputError(f"npz file {path} cannot be read: {error}; it must hold {NPZ}") from None
    except Exception as error:  # zlib.error, struct.error, NotImplementedError, ... of a damaged archive
        raise InputError(f"npz file {path} cannot be read: {type(error).__name__}: {error}") from None
    pairs = arrays_of(sorted(arrays), asked, f"npz file {path}", NPZ)
    names_asked = {role: getattr(asked, role) or role for role in ("class_name", "split")}
    for role, name in names_asked.items():
        if getattr(asked, role) is not None and name not in arrays:
            raise InputError(f"npz file {path} has no array data.columns.{role}={name!r}, it has {sorted(arrays)}")
    read = {"class_names", "split_names", *names_asked.values(), *(name for pair in pairs.values() for name in pair)}
    given = _joined([arrays[image] for image, _ in pairs.values()], [image for image, _ in pairs.values()], path)
    images = _checked_images(given, path)
    labels = _joined([arrays[label] for _, label in pairs.values()], [label for _, label in pairs.values()], path)
    labels = labels.reshape(-1) if labels.shape == (len(images), 1) else labels
    if labels.shape != (len(images),) or labels.dtype.kind not in "iuUS":
        raise InputError(
            f"npz file {path}: labels must be [{len(images)}] integers or names, one per image, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    names = names_of(f"{path}#row {row}" for row in range(len(images)))
    called = "class_names" if asked.class_name is None else asked.class_name
    known = _texts(arrays[called]) if called in arrays else None
    indices, class_names = labels_of(_plain(labels), known, names, str(path))
    parts = _npz_parts(arrays, names, path, names_asked["split"])
    if "" not in pairs:
        each = [part for part, (image, _) in pairs.items() for _ in range(len(arrays[image]))]
        parts = parts_of(each, names, str(path))
    unread = sorted(set(arrays) - read)
    notes = [f"arrays of {path.name} that are not read: {', '.join(unread[:10])}"] if unread else []
    return Listing(items=images, names=names, labels=indices, class_names=class_names, parts=parts, notes=tuple(notes))


def _joined(arrays: list[np.ndarray], names: list[str], path: Path) -> np.ndarray:
    """Those of all parts, one after the other."""
    for array, name in zip(arrays, names, strict=True):
        if array.ndim == 0 or (array.dtype.kind, array.shape[1:]) != (arrays[0].dtype.kind, arrays[0].shape[1:]):
            raise InputError(
                f"npz file {path}: {name} is {array.dtype} {list(array.shape)}, beside {names[0]}, which is "
                f"{arrays[0].dtype} {list(arrays[0].shape)}; it must hold {NPZ}"
            )
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _checked_images(images: np.ndarray, path: Path) -> np.ndarray:
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise InputError(
            f"npz file {path}: images must be uint8 [N,H,W], [N,H,W,1] or [N,H,W,3], got "
            f"{images.dtype} {list(images.shape)}; save them as (255 * images).round().astype('uint8') if they are "
            "floats in [0, 1], as images.transpose(0, 2, 3, 1) if their channels come first"
        )
    return images


def _npz_parts(
    arrays: dict[str, np.ndarray], images: np.ndarray, path: Path, called: str = "split"
) -> np.ndarray | None:
    if called not in arrays:
        return None
    split = arrays[called]
    if split.shape != images.shape or split.dtype.kind not in "iuUS":
        raise InputError(f"npz file {path}: split must be [{len(images)}], one per image, got {list(split.shape)}")
    if split.dtype.kind in "US":
        return parts_of(_texts(split), images, str(path))
    names = _texts(arrays["split_names"]) if "split_names" in arrays else ["train", "val", "test"]
    outside = [value for value in np.unique(split).tolist() if not 0 <= value < len(names)]
    if outside:
        raise InputError(f"npz file {path}: the split {outside[0]} is not among split_names, which are {names}")
    return parts_of([names[value] for value in split], images, str(path))


def _texts(values: np.ndarray) -> list[str]:
    return [_text(value) for value in values.reshape(-1).tolist()]


def _text(value: Any) -> str:
    """A name as text; bytes that are no UTF-8 stay told apart."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _plain(labels: np.ndarray) -> list[int | str]:
    return labels.tolist() if labels.dtype.kind in "iu" else list(_texts(labels))


@dataclass(frozen=True, kw_only=True)
class Cifar:
    """One of the two releases: its folders, the files of each part, and where labels and class names are."""

    name: str
    folders: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    meta: tuple[str, str]
    names: str
    num_classes: int


# Python version and binary version of https://www.cs.toronto.edu/~kriz/cifar.html, as unpacked.
CIFAR10 = Cifar(
    name="cifar10",
    folders=("", "cifar-10-batches-py", "cifar-10-batches-bin"),
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    labels="labels",
    meta=("batches.meta", "batches.meta.txt"),
    names="label_names",
    num_classes=10,
)
CIFAR100 = Cifar(
    name="cifar100",
    folders=("", "cifar-100-python", "cifar-100-binary"),
    train=("train",),
    test=("test",),
    labels="fine_labels",
    meta=("meta", "fine_label_names.txt"),
    names="fine_label_names",
    num_classes=100,
)


def list_cifar10(root: Path) -> Listing:
    return _list_cifar(root, CIFAR10)


def list_cifar100(root: Path) -> Listing:
    return _list_cifar(root, CIFAR100)


def _list_cifar(root: Path, release: Cifar) -> Listing:
    folder, suffix = _cifar_folder(root, release)
    known = _cifar_names(folder, release, suffix)
    images, labels, names, parts = [], list[int | str](), list[str](), list[str]()
    for part, files in (("train", release.train), ("test", release.test)):
        for file in files:
            pixels, found = (_binary_batch if suffix else _pickled_batch)(folder / (file + suffix), release)
            images.append(pixels)
            labels += found
            names += [f"{folder / (file + suffix)}#row {row}" for row in range(len(found))]
            parts += [part] * len(found)
    indices, class_names = labels_of(labels, known, names, f"{release.name} in {folder}")
    stacked = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Listing(
        items=np.ascontiguousarray(stacked),
        names=names_of(names),
        labels=indices,
        class_names=class_names,
        parts=np.asarray(parts),
    )


def _cifar_folder(root: Path, release: Cifar) -> tuple[Path, str]:
    """The folder that holds the release, and the suffix of its files: none (Python version) or .bin (binary)."""
    for folder in release.folders:
        for suffix in ("", ".bin"):
            if (root / folder / (release.test[0] + suffix)).is_file():
                return root / folder, suffix
    raise InputError(
        f"{release.name} not found in {root}; expected {', '.join((*release.train, *release.test))} and "
        f"{release.meta[0]} (the Python version, unpacked), or the same with .bin and {release.meta[1]} (binary)"
    )


def _cifar_names(folder: Path, release: Cifar, suffix: str) -> list[str]:
    file = folder / release.meta[1 if suffix else 0]
    if suffix:
        try:
            return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"class names of {release.name} cannot be read: {file}: {error}") from None
    names = _field(_described(file), release.names, file)
    return [_text(name) for name in names]


def _binary_batch(file: Path, release: Cifar) -> tuple[np.ndarray, list[int | str]]:
    """Rows of 3,072 bytes after the label (CIFAR-10) or after the coarse and the fine label (CIFAR-100)."""
    bytes_before = 1 if release is CIFAR10 else 2
    raw = np.frombuffer(_contents(file), dtype=np.uint8)
    if len(raw) == 0 or len(raw) % (3072 + bytes_before):
        raise InputError(f"{file} is cut off: {len(raw)} bytes are no whole rows of {3072 + bytes_before}; copy again")
    rows = raw.reshape(-1, 3072 + bytes_before)
    return rows[:, bytes_before:], rows[:, bytes_before - 1].tolist()


def _pickled_batch(file: Path, release: Cifar) -> tuple[np.ndarray, list[int | str]]:
    batch = _described(file)
    data, labels = _field(batch, "data", file), _field(batch, release.labels, file)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape != (len(labels), 3072)
        or not all(isinstance(label, int) for label in np.asarray(labels, dtype=object))
    ):
        raise InputError(f"{file} does not hold uint8 [N,3072] pixels beside its {len(labels)} labels; copy it again")
    return data, [int(label) for label in labels]


def _field(batch: Any, name: str, file: Path) -> Any:
    """A value of the dictionary, whose keys are bytes where Python 2 wrote them."""
    if isinstance(batch, dict):
        for key in (name, name.encode()):
            if key in batch and isinstance(batch[key], list | np.ndarray):
                return batch[key]
    raise InputError(f"{file} holds no {name!r}; it is not the file of that name of the release")


def _described(file: Path) -> Any:
    """What a pickle of the release holds; no pickle machine runs it."""
    try:
        return plain_values(_contents(file))
    except NotPlain as error:
        raise InputError(f"{file} is refused: {error}; take the published file") from None


def _contents(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
