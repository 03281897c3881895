"""Synthetic and real images in; how many of the first are copies of the second, and the closest pairs, out."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from ray_synth.config import Copies
from ray_synth.data.source import ImageSource
from ray_synth.evaluators.context import EvaluationContext, first_of
from ray_synth.features.cache import cached, features_folder
from ray_synth.features.copies import FALSE_ALARMS, NEIGHBOURS, Nearest, RealImages
from ray_synth.features.encoders import encoder_of
from ray_synth.nodes import on_gpu_node

PAIRS = 12  # in the gallery
SIDE = 128  # pixels a side that it shows at most


def copies(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """`copies/share` of the synthetic images that are nearer to a real one, of all that are not for testing, than new
    images are; `copies/found` of `copies/looked_at`; `copies/by_chance`, as many as may be found where none is;
    `copies/closest`, the least distance, as a share of that to the next 50 real images, and `copies/limit`.
    """
    settings, real = context.copies, context.all_but_test
    images = first_of(context.synthetic, settings.images)
    (compared,) = on_gpu_node(_compared, real, images, settings.word)
    nearest, limit, by_chance, seen_through = compared
    found = _are_copies(nearest, settings, limit)
    calibrated = settings.threshold is None and settings.similarity is None
    yield "copies/share", float(found.mean())
    yield "copies/found", float(found.sum())
    yield "copies/looked_at", float(len(images))
    yield "copies/closest", float(nearest.relative.min())
    yield "copies/closest_cosine", float(nearest.cosine.max())
    if calibrated:
        yield "copies/by_chance", by_chance * len(images)
    if settings.similarity is None:
        yield "copies/limit", settings.threshold or limit
    context.details["copies"] = {
        **seen_through,
        "real_images": len(real),
        "instead_of": settings.features if settings.word != settings.features else None,
        "rule": _rule(settings, limit),
        "pairs": _gallery(images, real, nearest, found),
    }


def _compared(
    real: ImageSource, images: ImageSource, word: str
) -> Iterator[tuple[Nearest, float, float, dict[str, Any]]]:
    """What is nearest to each image; the limit and how often it errs; what they are compared by. One value."""
    encoder = None if word == "pixels" else cached(encoder_of(word), features_folder())
    against = RealImages(real, encoder)
    batches = [against.nearest(list(batch)) for batch in images.batches()]
    nearest = Nearest(
        rows=np.concatenate([each.rows for each in batches]),
        distance=np.concatenate([each.distance for each in batches]),
        relative=np.concatenate([each.relative for each in batches]),
    )
    said = {"compared_by": against.name, "digest": encoder.digest if encoder else None, "views": len(against.views)}
    yield nearest, against.limit, against.by_chance, said


def _are_copies(nearest: Nearest, settings: Copies, limit: float) -> np.ndarray:
    if settings.similarity is not None:
        return nearest.cosine > settings.similarity
    return nearest.relative < (settings.threshold or limit)


def _rule(settings: Copies, limit: float) -> str:
    if settings.similarity is not None:
        return f"cosine to a real image above {settings.similarity:g}, as set"
    said = (
        f"nearer to a real image than {settings.threshold or limit:.3g} of the mean distance to the next {NEIGHBOURS}"
    )
    if settings.threshold is not None:
        return f"{said}, as set"
    return f"{said}: {100 * FALSE_ALARMS:g} % of the real images are so near to another one"


def _gallery(images: ImageSource, real: ImageSource, nearest: Nearest, found: np.ndarray) -> list[dict[str, Any]]:
    """The closest pairs, the closest first: their names, distances and pictures."""
    shown = np.argsort(nearest.relative, kind="stable")[:PAIRS]
    partners = nearest.rows[shown]
    pictures = [_picture(images.take(shown)), _picture(real.take(partners))]
    return [
        {
            "synthetic": images.name(int(row)),
            "real": real.name(int(partner)),
            "class": images.class_names[images.labels[row]],
            "real_class": real.class_names[real.labels[partner]],
            "distance": float(nearest.relative[row]),
            "cosine": float(nearest.cosine[row]),
            "copy": bool(found[row]),
            "pictures": [side[i] for side in pictures],
        }
        for i, (row, partner) in enumerate(zip(shown, partners, strict=True))
    ]


def _picture(images: ImageSource) -> list[str]:
    """Base64 of a PNG of each."""
    from PIL import Image

    found = []
    for image in images.within(SIDE).images():
        held = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(held, "PNG", optimize=True)
        found.append(base64.b64encode(held.getvalue()).decode())
    return found
