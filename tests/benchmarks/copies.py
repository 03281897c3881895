"""Planted copies of real images among new ones: how many are found, and how many new ones are taken for copies.

    RAY_SYNTH_DATA=DATA OMP_NUM_THREADS=1 python -m tests.benchmarks.copies      # 4 minutes on a core
    RAY_SYNTH_DATA=DATA OMP_NUM_THREADS=1 python -m tests.benchmarks.copies cifar10 \\
        --features timm:tf_efficientnet_lite0 --seeds 1

1,000 images of the test side, which stand for those of a perfect generator and are as hard to tell from copies as any,
against 5,000 real ones (digits: 797); 20 of them are replaced by copies of a real image: exact, mirrored, JPEG (quality
75), a crop of 80 % of the side anywhere, brighter or darker by up to 40 %. Exits 1 where under 19 are found or over 5
are false.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ray_synth.data.images import ImageSet
from ray_synth.data.readers import read_digits
from ray_synth.features.copies import RealImages
from ray_synth.features.encoders import encoder_of

FILES = {"mnist": "mnist_full", "cifar10": "cifar10_dev_10k5k", "fashion_mnist": "fashion_mnist_dev_20k5k"}
CHANGES = ("exact", "mirrored", "jpeg", "cropped", "brightness")
REAL, NEW, PLANTED = 5000, 1000, 20
LEAST_FOUND, MOST_FALSE = 19, 5


def sides(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Real images and new ones, drawn by the seed, uint8 [n,H,W,C]."""
    rng = np.random.default_rng(seed)
    if name == "digits":
        images = read_digits().images()
        rows = rng.permutation(len(images))
        return images[rows[NEW:]], images[rows[:NEW]]
    with np.load(Path(os.environ["RAY_SYNTH_DATA"]) / f"{FILES[name]}.npz", allow_pickle=False) as file:
        images, split = file["images"], file["split"]
    images = images if images.ndim == 4 else images[..., None]
    real, new = (rng.permutation(np.flatnonzero(split == part)) for part in (0, 1))
    return images[real[:REAL]], images[new[:NEW]]


def changed(image: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 [H,W,C] -> the same shape."""
    if how == "exact":
        return image
    if how == "mirrored":
        return image[:, ::-1]
    if how == "brightness":
        return np.clip(image * rng.uniform(0.6, 1.4), 0, 255).astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if how == "jpeg":
        held = io.BytesIO()
        picture.save(held, "JPEG", quality=75)
        picture = Image.open(held)
    else:
        width, height = picture.size
        left, top = rng.uniform(0, 0.2, 2) * (width, height)
        box = (left, top, left + 0.8 * width, top + 0.8 * height)
        picture = picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)
    return np.asarray(picture).reshape(image.shape)


def planted(real: np.ndarray, new: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The new images with copies among them, where these stand, and of which real image each is one."""
    rng = np.random.default_rng(seed + 100)
    sources, places = rng.permutation(len(real))[:number], rng.permutation(len(new))[:number]
    images = new.copy()
    for i, (source, place) in enumerate(zip(sources, places, strict=True)):
        images[place] = changed(real[source], CHANGES[i % len(CHANGES)], rng)
    return images, places, sources


def measured(name: str, seed: int, number: int, features: str) -> bool:
    real, new = sides(name, seed)
    images, places, sources = planted(real, new, number, seed)
    begin = time.monotonic()
    source = ImageSet(pixels=real, labels=np.zeros(len(real), np.int64), class_names=("any",))
    against = RealImages(source, None if features == "pixels" else encoder_of(features, device="cpu"))
    limit, found = against.limit, against.nearest(list(images))
    seconds = time.monotonic() - begin
    copies = found.relative < limit
    hit = copies[places] & (found.rows[places] == sources)
    false = int(copies.sum() - copies[places].sum())
    missed = [CHANGES[i % len(CHANGES)] for i in np.flatnonzero(~hit)]
    print(
        f"| {name} | {features} | {seed} | {hit.sum()} of {number} | {', '.join(missed)} | {false} | {limit:.2f} | "
        f"{seconds:.0f} |",
        flush=True,
    )
    return hit.mean() >= LEAST_FOUND / PLANTED and false <= MOST_FALSE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["digits", "mnist", "cifar10"], help="digits, " + ", ".join(FILES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--planted", type=int, default=PLANTED)
    parser.add_argument("--features", default="pixels")
    given = parser.parse_args()
    print("| images | compared by | seed | found | missed | false alarms | limit | s |")
    print("|---|---|---|---|---|---|---|---|")
    kept = [measured(name, seed, given.planted, given.features) for name in given.sets for seed in range(given.seeds)]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
