"""The kind `folder`: images that exist already. Image i of a class is its i-th file, by name.

A class of which there are none gets none. Folders of several generators may stand side by side: classes of which one
has none get none of any, so that generators are compared on the same.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ray_synth.config import ImageFolder, digest, with_absolute_paths
from ray_synth.data.class_folders import Classes, look_in
from ray_synth.data.decoding import THREADS, decoded_item, depth_among, unified
from ray_synth.data.depth import Depth
from ray_synth.data.leaks import Fingerprints
from ray_synth.data.readers import class_files
from ray_synth.errors import InputError, listed, near_misses
from ray_synth.generator.base import Batch, Generator, Origin, Parents, Sampler, register
from ray_synth.generator.pretrained import files_digest
from ray_synth.generator.tiny import noisy_digits
from ray_synth.runs import RunFolder

PIECE = 256  # images that are held at once


@register
class FolderGenerator(Generator[ImageFolder]):
    """Class folders, as an export writes them."""

    Settings = ImageFolder
    share_of_steps = 0.0

    def check(self) -> list[str]:
        folders = self.settings.folders
        lacking = self._lacking()
        without = [name for name in self.class_names if any(name in names for names in lacking.values())]
        if len(without) == len(self.class_names):
            raise InputError(
                f"generator.path: {' and '.join(folders)} have images of no class in common, so there is nothing to "
                "choose between them; put their class folders into one folder and type --set generator.path=DIR"
            )
        used = [name for name in self.class_names if name not in without]
        for path, classes in self._classes.items():
            check_folder(path, used, self.generate.images_per_class, classes.files)
        if len(folders) > 1:
            self._refuse_equal()
        notes = [f"{path}: {note}" for path, classes in self._classes.items() for note in classes.notes]
        return notes + self._left_out() + (self._real_only(without, lacking) if without else [])

    @functools.cached_property
    def _classes(self) -> dict[str, Classes]:
        """What lies in each folder."""
        return {path: look_in(Path(path), least=1) for path in self.settings.folders.values()}

    def _lacking(self) -> dict[str, list[str]]:
        """Classes of which a generator has no image, by its name."""
        several = np.reshape(self.available(), (-1, len(self.class_names)))
        return {
            generator: [name for name, number in zip(self.class_names, numbers, strict=True) if not number]
            for generator, numbers in zip(self.settings.folders, several, strict=True)
        }

    def _real_only(self, without: list[str], lacking: dict[str, list[str]]) -> list[str]:
        """The line that says which classes get no synthetic images. lacking: those that a generator has none of."""
        if len(lacking) == 1:
            return [f"no synthetic images of class(es) {listed(without)} in {self.source}: they stay real only"]
        whose = "; ".join(f"{generator} has none of {listed(names)}" for generator, names in lacking.items() if names)
        return [
            f"class(es) {listed(without)} stay real only, for generators are compared on the classes that all have: "
            f"{whose}"
        ]

    def _left_out(self) -> list[str]:
        """Notes of classes that the real images do not have."""
        known = {*self.class_names, *map(folder_name, self.class_names)}
        found = {path: [name for name in classes.files if name not in known]
                 for path, classes in self._classes.items()}  # fmt: skip
        return [f"{path}: class(es) without real images are left out: {listed(names)}"
                for path, names in found.items() if names]  # fmt: skip

    def _refuse_equal(self) -> None:
        """Raises InputError where two generators are one under two names."""
        first: dict[str, str] = {}
        for name, content in self.contents.items():
            if content in first:
                one, other = self.settings.folders[first[content]], self.settings.folders[name]
                raise InputError(
                    f"generator.path: {first[content]} and {name} hold the same images ({one}, {other}), so there is "
                    f"nothing to choose between them; leave {name} out"
                )
            first[content] = name

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """Digest of each folder, by its name."""
        return {name: folder_digest(path) for name, path in self.settings.folders.items()}

    def origin(self, trained: str) -> Origin:
        several = tuple(
            Origin(
                model_id=f"folder/{name or Path(self.source).name}",
                model_revision=content,
                model_license="",
                parts={f"folder/{name}" if name else "folder": content},
            )
            for name, content in self.contents.items()
        )
        if not self.settings.names:
            return several[0]
        parts = {name: content for each in several for name, content in each.parts.items()}
        return Origin(
            model_id=f"folder/{'+'.join(self.settings.names)}",
            model_revision=digest("folders", list(parts.items())),  # their order is that of the images
            model_license="",
            parts=parts,
            each=several,
        )

    def pixel_settings(self) -> dict[str, Any]:
        depth = {} if self.scale is None else {"depth": [self.scale.low, self.scale.high]}
        return {"kind": self.settings.kind, **depth}

    @functools.cached_property
    def scale(self) -> Depth | None:
        """Of images with more than 8 bits a channel: that of the real ones, else one for all that lie here."""
        folders = [Path(path) for path in self.settings.folders.values()]
        if self.depth is not None or not all(folder.is_dir() for folder in folders):
            return self.depth
        files = [file for classes in self._classes.values() for members in classes.files.values() for file in members]
        return depth_among(files, files)

    def on_workers(self) -> FolderGenerator:
        """As of every generator; the scale is known by then."""
        settings, generate = with_absolute_paths(self.settings), with_absolute_paths(self.generate)
        return type(self)(settings, generate, class_names=self.class_names, shape=self.shape, depth=self.scale)

    @property
    def source(self) -> str:
        return ", ".join(self.settings.folders.values())

    def available(self) -> tuple[int, ...]:
        several = (
            folder_files(path, self.class_names, key=_key(name), files=self._classes[path].files)
            for name, path in self.settings.folders.items()
        )
        return tuple(len(files) for each in several for files in each)

    def fingerprints(self, each: int, *, crop: bool) -> Fingerprints:
        several = [
            folder_fingerprints(path, self.class_names, each, self.shape, crop=crop, depth=self.scale)
            for path in self.settings.folders.values()
        ]
        return several[0] if len(several) == 1 else Fingerprints.joined(several)

    def sampler(self, folder: RunFolder, parents: Parents | None, device: str) -> Sampler:
        several = [FolderSampler(path, self.class_names, self.scale) for path in self.settings.folders.values()]
        return SideBySide(several) if self.settings.names else several[0]

    def small(self, models: Path) -> dict[str, Any]:
        places = {name: str(models / f"digits{number or ''}") for number, name in enumerate(self.settings.folders)}
        return {**self.settings.model_dump(), "path": places if self.settings.names else places[""]}

    def tiny_models(self) -> dict[str, Callable[[Path], object]]:
        return {
            f"digits{number or ''}": functools.partial(noisy_digits, seed=number)
            for number in range(len(self.settings.folders))
        }


class FolderSampler:
    """batch -> batch. Images keep their size; a file that cannot be read is rejected."""

    def __init__(self, path: str, class_names: Sequence[str], depth: Depth | None = None):
        self.files, self.depth = folder_files(path, class_names), depth

    def __call__(self, batch: Batch) -> Batch:
        """Adds image, uint8 [H,W,C] each, and rejected: `unreadable`, or `no_file` past the last one."""
        images, rejected = [], []
        for label, index in zip(batch["label"], batch["index"], strict=True):
            image, reason = np.zeros((1, 1, 1), dtype=np.uint8), ""
            if index >= len(self.files[label]):
                reason = "no_file"
            else:
                file = self.files[label][index]
                try:
                    image = decoded_item(file, file, depth=self.depth)
                except InputError:
                    reason = "unreadable"
            images.append(image[..., None] if image.ndim == 2 else image)
            rejected.append(reason)
        return {**batch, "image": images, "rejected": rejected}


class SideBySide:
    """batch -> batch, by the sampler of its generator: a chunk is of one."""

    def __init__(self, samplers: Sequence[Sampler]):
        self.samplers = samplers

    def __call__(self, batch: Batch) -> Batch:
        (which,) = set(batch["generator"])
        made: Batch = self.samplers[which](batch)
        return made


def folder_fingerprints(
    path: str,
    class_names: Sequence[str],
    each: int,
    shape: tuple[int, int, int],
    *,
    crop: bool,
    depth: Depth | None = None,
) -> Fingerprints:
    """What the first `each` images of every class are compared by, in the shape [H,W,C] that they are trained on."""
    chosen = [file for files in folder_files(path, class_names) for file in files[:each]]

    def pixels(file: str) -> np.ndarray | None:
        try:
            return np.broadcast_to(unified(decoded_item(file, file, depth=depth), shape, crop=crop), shape)
        except InputError:
            return None  # the sampler rejects it, and says so

    found = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(chosen), PIECE):
            piece = chosen[start : start + PIECE]
            read = [(image, file) for image, file in zip(pool.map(pixels, piece), piece, strict=True)
                    if image is not None]  # fmt: skip
            if read:
                found.append(Fingerprints.of_pixels(np.stack([image for image, _ in read]), [name for _, name in read]))
    return Fingerprints.joined(found) if found else Fingerprints.of_pixels(np.empty((0, *shape), dtype=np.uint8), [])


def check_folder(
    path: str, class_names: Sequence[str], images_per_class: int | None, files: Mapping[str, list[str]] | None = None
) -> None:
    """Raise InputError unless there are enough images of every class that has any. files: as of `folder_files`."""
    several = folder_files(path, class_names, files=files)
    fewest, name = min((len(members), name) for members, name in zip(several, class_names, strict=True) if members)
    if images_per_class is not None and fewest < images_per_class:
        raise InputError(
            f"generate.images_per_class must be <= {fewest}, the images of class {name!r} in {path}; "
            f"got {images_per_class}; type --set generate.images_per_class={fewest}, or =null to take of each class as "
            "many as the ratios need, or remove the folder of that class to leave it real only"
        )


def _key(name: str) -> str:
    return f"generator.path.{name}" if name else "generator.path"


def folder_files(
    path: str,
    class_names: Sequence[str],
    *,
    key: str = "generator.path",
    files: Mapping[str, list[str]] | None = None,
) -> list[list[str]]:
    """The images of every class, by name; none of one that has no folder. The folder is called as the class, or as an
    export would call it. files: what lies there, where that is known.

    Raises:
        InputError: a folder for no class at all, or one whose name misses that of a class narrowly; or as
            `read_folder`.
    """
    files = class_files(Path(path)) if files is None else files
    folders = [name if name in files else folder_name(name) for name in class_names]
    lacking = [name for name, folder in zip(class_names, folders, strict=True) if folder not in files]
    near = near_misses(lacking, sorted(set(files) - set(folders)))
    if near or len(lacking) == len(class_names):
        first = near[0][0] if near else lacking[0]
        spelled = folder_name(first)
        raise InputError(
            f"{key}={path} has no folder for class {first!r}"
            + (f", which would be called {spelled}" if spelled != first else "")
            + (f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else "")
            + f"; it has {', '.join(sorted(files)[:10])}"
            + (f"; rename {near[0][1]!r} to {spelled!r}" if near else "; give the folders the names of classes")
        )
    return [files.get(folder, []) for folder in folders]


def folder_name(class_name: str) -> str:
    """A class name as the name of one folder; letters of every script stay as they are."""
    unsafe = set('/\\:*?"<>|%') | {chr(code) for code in range(32)}
    name = "".join(quote(letter, safe="") if letter in unsafe else letter for letter in class_name)
    return "%2E" + name[1:] if name.startswith(".") else name  # a hidden folder, or the one above


def folder_digest(path: str) -> str:
    """SHA-256 of the class names, file names and contents below a folder of class folders."""
    found = sorted(class_files(Path(path)).items())
    return files_digest({f"{name}\0{os.path.basename(file)}": Path(file) for name, files in found for file in files})
