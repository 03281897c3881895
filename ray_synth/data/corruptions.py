"""Images in, the same images corrupted out: five of the common corruptions of Hendrycks & Dietterich, 2019.

With the constants of CIFAR-10-C for images of up to 64 pixels a side, and of ImageNet-C above; an image's noise follows
from its place in the set. As published, values are cut off below the next whole one. ImageNet-C's own files went
through JPEG (quality 85) once more; these have not.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_synth.data.source import ImageSource, Rows
from ray_synth.seeding import derive_seed

STRENGTHS = (1, 2, 3, 4, 5)
SMALL_SIDE = 64  # pixels, up to which the constants are CIFAR-10-C's


def gaussian_noise(image: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Normal noise on every value. scale: its standard deviation, of values in [0, 1]."""
    return _whole(image / 255.0 + rng.normal(scale=scale, size=image.shape))


def gaussian_blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """sigma: pixels; the border is repeated, and the kernel ends at four sigma."""
    from scipy.ndimage import gaussian_filter

    return _whole(gaussian_filter(image / 255.0, (sigma, sigma, 0), mode="nearest", truncate=4.0))


def contrast(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """The distance to each channel's mean, times a factor."""
    values = image / 255.0
    mean = values.mean(axis=(0, 1), keepdims=True)
    return _whole((values - mean) * factor + mean)


def pixelate(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Made smaller to a share of its sides, and as large as before again, each by the mean of an area."""
    from PIL import Image

    height, width = image.shape[:2]
    small = _pillow(image).resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)).reshape(image.shape)


def jpeg_compression(image: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Through a JPEG file of Pillow's quality."""
    from PIL import Image

    file = io.BytesIO()
    _pillow(image).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file)).reshape(image.shape)


def _whole(values: np.ndarray) -> np.ndarray:
    return np.asarray((np.clip(values, 0, 1) * 255).astype(np.uint8))


def _pillow(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
# Each with its constants at the five strengths: of small images (make_cifar_c.py), of large ones (make_imagenet_c.py).
CORRUPTED_BY: dict[str, tuple[Corruption, tuple[float, ...], tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}


def constants_for(shape: tuple[int, int, int]) -> str:
    """Whose constants images of a shape take."""
    return "CIFAR-10-C" if max(shape[:2]) <= SMALL_SIDE else "ImageNet-C"


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrupted(ImageSource):
    """Images of another source, `whole`, each corrupted when it is asked for. places: [N] in the set, for its noise."""

    whole: ImageSource
    corruption: str
    strength: int
    seed: int
    places: np.ndarray

    def images(self, rows: Rows | None = None) -> np.ndarray:
        change, small, large = CORRUPTED_BY[self.corruption]
        constant = (small if constants_for(self.shape) == "CIFAR-10-C" else large)[self.strength - 1]
        places = self.places if rows is None else self.places[rows]
        out = self.whole.images(rows).copy()
        for row, place in enumerate(places.tolist()):
            rng = np.random.default_rng(derive_seed(self.corruption, self.strength, self.seed, place))
            out[row] = change(out[row], constant, rng)
        return out

    def _taken(self, rows: Rows) -> dict[str, Any]:
        return {"whole": self.whole.take(rows), "places": self.places[rows]}


def corrupted(images: ImageSource, corruption: str, strength: int, seed: int) -> Corrupted:
    """The images under one corruption. strength: 1 to 5."""
    return Corrupted(
        labels=images.labels,
        class_names=images.class_names,
        shape=images.shape,
        whole=images,
        corruption=corruption,
        strength=strength,
        seed=seed,
        places=np.arange(len(images)),
    )
