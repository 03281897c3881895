"""Class and index in, an image that exists already out: the i-th file of its class, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ray_synth.data.decoding import THREADS, decoded_file, unified
from ray_synth.data.images import ImageSet
from ray_synth.data.leaks import Prints
from ray_synth.data.listing import names_of
from ray_synth.data.readers import class_files
from ray_synth.errors import InputError
from ray_synth.generator.batches import Batch
from ray_synth.generator.pretrained import files_digest

PIECE = 256  # images that are held at once


class FolderSampler:
    """batch -> batch. Images keep their size; a file that cannot be read is rejected."""

    def __init__(self, path: str, class_names: Sequence[str]):
        files = class_files(Path(path))
        self.files = [files[name] for name in class_names]

    def __call__(self, batch: Batch) -> Batch:
        """Adds image, uint8 [H,W,C] each, and rejected: `unreadable`, or `no_file` past the last one."""
        images, rejected = [], []
        for label, index in zip(batch["label"], batch["index"], strict=True):
            image, reason = np.zeros((1, 1, 1), dtype=np.uint8), ""
            if index >= len(self.files[label]):
                reason = "no_file"
            else:
                try:
                    image = decoded_file(self.files[label][index], Counter())
                except InputError:
                    reason = "unreadable"
            images.append(image[..., None] if image.ndim == 2 else image)
            rejected.append(reason)
        return {**batch, "image": images, "rejected": rejected}


def folder_prints(path: str, class_names: Sequence[str], each: int, shape: tuple[int, int, int]) -> Prints:
    """What the first `each` images of every class are compared by, in the shape [H,W,C] that they are trained on."""
    files = class_files(Path(path))
    chosen = [file for name in class_names for file in files[name][:each]]

    def pixels(file: Path) -> np.ndarray | None:
        try:
            return unified(decoded_file(file, Counter()), shape)
        except InputError:
            return None  # the sampler rejects it, and says so

    found = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(chosen), PIECE):
            piece = chosen[start : start + PIECE]
            images = {
                file: image for file, image in zip(piece, pool.map(pixels, piece), strict=True) if image is not None
            }
            found.append(
                Prints.of(
                    ImageSet(
                        images=np.stack([np.zeros(shape, dtype=np.uint8), *images.values()])[1:],
                        labels=np.zeros(len(images), dtype=np.int64),
                        class_names=tuple(class_names),
                        sources=names_of(images),
                    )
                )
            )
    return Prints.joined(found)


def check_folder(path: str, class_names: Sequence[str], images_per_class: int) -> None:
    """Raise InputError unless every class has a folder with enough images."""
    files = class_files(Path(path))
    lacking = [name for name in class_names if name not in files]
    if lacking:
        raise InputError(
            f"generator.path={path} has no folder for class {lacking[0]!r}"
            + (f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else "")
            + f"; it has {', '.join(sorted(files)[:10])}"
        )
    fewest = min(class_names, key=lambda name: len(files[name]))
    if len(files[fewest]) < images_per_class:
        raise InputError(
            f"generate.images_per_class must be <= {len(files[fewest])}, the images of class {fewest!r} in {path}; "
            f"got {images_per_class}; type --set generate.images_per_class={len(files[fewest])}"
        )


def folder_digest(path: str) -> str:
    """SHA-256 of the class names, file names and contents below a folder of class folders."""
    return files_digest(
        {f"{name}\0{file.name}": file for name, files in sorted(class_files(Path(path)).items()) for file in files}
    )
