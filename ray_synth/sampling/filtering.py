"""A batch of images in, the same batch out with a reason beside every image that should not be trained on, and what
filters measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_synth.config import ClipFilter, Filter
from ray_synth.features.clip import OpenClip, check_open_clip
from ray_synth.features.copies import RealImages
from ray_synth.features.encoders import encoder_of
from ray_synth.generator.base import Batch, Parents

BLANK_RANGE = 2  # of 255, in every channel


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What a filter says of images: which to set aside, and the score that it goes by, by its column in a chunk. [n]"""

    rejected: np.ndarray
    column: str = ""
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))


Judge = Callable[[list[np.ndarray], list[int]], Judged]  # images, labels


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
        judges["blank"] = lambda images, labels: Judged(rejected=np.array([is_blank(image) for image in images]))
    if settings.near_copies and parents is not None:
        encoder = None if settings.features == "pixels" else encoder_of(settings.features, device=device)
        real = RealImages(parents.source, encoder)
        judges["near_copy"] = lambda images, labels: _near_copies(real, images)
    if settings.clip is not None:
        judges["clip"] = ZeroShot(settings.clip, class_names, device)

    def filtered(batch: Batch) -> Batch:
        rejected = list(batch["rejected"])
        scores: Batch = {}
        for reason, judge in judges.items():
            rows = [i for i, found in enumerate(rejected) if not found]
            if not rows:
                break
            judged = judge([batch["image"][i] for i in rows], [batch["label"][i] for i in rows])
            for i in np.asarray(rows)[judged.rejected]:
                rejected[i] = reason
            if judged.column:
                column = scores.setdefault(judged.column, [None] * len(rejected))
                for i, score in zip(rows, judged.scores.tolist(), strict=True):
                    column[i] = score
        return {**batch, "rejected": rejected, **scores}

    return filtered


def _near_copies(real: RealImages, images: list[np.ndarray]) -> Judged:
    relative = real.nearest(images).relative
    return Judged(rejected=relative < real.limit, column="near_copy_distance", scores=relative)


def is_blank(image: np.ndarray) -> bool:
    """One colour all over. image: uint8 [H,W,C]."""
    flat = image.reshape(-1, image.shape[-1])
    return bool((flat.max(axis=0).astype(int) - flat.min(axis=0) <= BLANK_RANGE).all())


class ZeroShot:
    """Images in which open_clip, asked with one prompt a class, does not see their class."""

    def __init__(self, settings: ClipFilter, class_names: Sequence[str], device: str):
        self.above_chance = settings.rule == "above_chance"
        self.clip = OpenClip(settings.model, settings.weights, device=device)
        self.texts = self.clip.text_features([settings.prompt.replace("{class}", name) for name in class_names])

    def __call__(self, images: list[np.ndarray], labels: list[int]) -> Judged:
        probabilities = self.clip.class_probabilities(images, self.texts)
        own = probabilities[np.arange(len(labels)), labels]
        if self.above_chance:
            wrong = own <= 1 / probabilities.shape[1]
        else:
            wrong = probabilities.argmax(axis=1) != np.asarray(labels)
        return Judged(rejected=wrong, column="clip_probability", scores=own)
