"""A batch of images in, the same batch out with a reason beside every image that should not be trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ray_synth.config import ClipFilter, Filter
from ray_synth.data.source import ImageSource
from ray_synth.features.clip import OpenClip, check_open_clip
from ray_synth.features.encoders import Encoder, encoder_of
from ray_synth.generator.base import Batch, Parents

BLANK_RANGE = 2  # of 255, in every channel
THUMBNAIL = 16  # pixels a side, or as many as a real image has
CALIBRATION_IMAGES = 2000
CALIBRATION_QUANTILE = 0.01
Judge = Callable[[list[np.ndarray], list[int]], np.ndarray]  # images, labels -> True where rejected


def check_filters(settings: Filter) -> None:
    """Raise InputError for a CLIP or an encoder that will not work."""
    if settings.near_copies and settings.features != "pixels":
        encoder_of(settings.features, device="cpu")
    if settings.clip is not None:
        check_open_clip(settings.clip.model, settings.clip.weights)


def build_filters(
    settings: Filter, class_names: Sequence[str], parents: Parents | None, device: str = "cpu"
) -> Callable[[Batch], Batch]:
    """All filters as one, the cheapest first. Each is asked only about what those before it kept."""
    judges: dict[str, Judge] = {}
    if settings.blank:
        judges["blank"] = lambda images, labels: np.array([is_blank(image) for image in images])
    if settings.near_copies and parents is not None:
        encoder = None if settings.features == "pixels" else encoder_of(settings.features, device=device)
        judges["near_copy"] = NearCopies(parents.source, encoder)
    if settings.clip is not None:
        judges["clip"] = ZeroShot(settings.clip, class_names, device)

    def filtered(batch: Batch) -> Batch:
        rejected = list(batch["rejected"])
        for reason, judge in judges.items():
            rows = [i for i, found in enumerate(rejected) if not found]
            if not rows:
                break
            wrong = judge([batch["image"][i] for i in rows], [batch["label"][i] for i in rows])
            for i in np.asarray(rows)[wrong]:
                rejected[i] = reason
        return {**batch, "rejected": rejected}

    return filtered


def is_blank(image: np.ndarray) -> bool:
    """One colour all over. image: uint8 [H,W,C]."""
    flat = image.reshape(-1, image.shape[-1])
    return bool((flat.max(axis=0).astype(int) - flat.min(axis=0) <= BLANK_RANGE).all())


class NearCopies:
    """Images that are closer to a real one than real ones are to each other.

    Compared are thumbnails, each brought to mean 0 and length 1, so that a copy that is brighter, sharper or larger is
    still one; or an encoder's features, seen from the mean of the real ones, in which a copy that is mirrored or cut
    stays near too. The threshold is the distance that one real image in a hundred has to its nearest neighbour: about
    as rare would the rejection of an image as new as a real one be.
    """

    def __init__(self, real: ImageSource, encoder: Encoder | None = None):
        self.side, self.encoder, self.centre = min(THUMBNAIL, *real.shape[:2]), encoder, np.float32(0)
        if encoder is None:
            self.real = np.concatenate([self._thumbnails(batch) for batch in real.batches()])
        else:
            features = np.concatenate([encoder(batch).astype(np.float32) for batch in real.batches()])
            self.centre = features.mean(axis=0)
            self.real = _directions(features - self.centre)
        some = np.random.default_rng(0).permutation(len(real))[:CALIBRATION_IMAGES]
        closeness = self.real[some] @ self.real.T
        closeness[np.arange(len(some)), some] = -np.inf
        self.limit = float(np.quantile(closeness.max(axis=1), 1 - CALIBRATION_QUANTILE)) if len(real) > 1 else 0.999

    def __call__(self, images: list[np.ndarray], labels: list[int]) -> np.ndarray:
        if self.encoder is None:
            seen = self._thumbnails(images)
        else:
            # One by one: sizes may differ.
            features = np.concatenate([self.encoder(image[None]).astype(np.float32) for image in images])
            seen = _directions(features - self.centre)
        found: np.ndarray = (seen @ self.real.T).max(axis=1) > self.limit
        return found

    def _thumbnails(self, images: Iterable[np.ndarray]) -> np.ndarray:
        return np.stack([thumbnail(image, self.side) for image in images])


def _directions(vectors: np.ndarray) -> np.ndarray:
    """[n,d] -> [n,d] of length 1."""
    directions: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return directions


def thumbnail(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H,W,C] -> float32 [3 side²] of mean 0 and length 1; correlations are products of two."""
    from PIL import Image

    small = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    small = small.resize((side, side), Image.Resampling.BOX if min(small.size) >= side else Image.Resampling.BICUBIC)
    values = np.asarray(small.convert("RGB"), dtype=np.float32).ravel()
    values -= values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values


class ZeroShot:
    """Images in which open_clip, asked with one prompt a class, does not see their class."""

    def __init__(self, settings: ClipFilter, class_names: Sequence[str], device: str):
        self.above_chance = settings.rule == "above_chance"
        self.clip = OpenClip(settings.model, settings.weights, device=device)
        self.texts = self.clip.text_features([settings.prompt.replace("{class}", name) for name in class_names])

    def __call__(self, images: list[np.ndarray], labels: list[int]) -> np.ndarray:
        probabilities = self.clip.class_probabilities(images, self.texts)
        if self.above_chance:
            unlikely: np.ndarray = probabilities[np.arange(len(labels)), labels] <= 1 / probabilities.shape[1]
            return unlikely
        wrong: np.ndarray = probabilities.argmax(axis=1) != np.asarray(labels)
        return wrong
