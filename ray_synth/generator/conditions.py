"""A class and a range of indices in, what its images are sampled from out: prompts, seeds, parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_synth.config import GeneratorSettings, StableDiffusion
from ray_synth.data.images import ImageSet
from ray_synth.generator.batches import Batch
from ray_synth.generator.chunks import Chunk, Plan
from ray_synth.seeding import image_seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Parents:
    """The real images that synthetic ones come from or are compared with, ordered by key within a class.

    images: uint8 [N,H,W,C]; labels: [N]; keys: [N]; captions: [N], where prompts hold them; embeddings: of the classes
    [C,d] (visual guidance, variant paper) or of the images [N,d] (released).
    """

    images: np.ndarray
    labels: np.ndarray
    keys: Sequence[str]
    captions: Sequence[str] | None = None
    embeddings: np.ndarray | None = None

    @classmethod
    def of(cls, real: ImageSet) -> Parents:
        """In an order that does not depend on the order of reading."""
        keys = np.asarray(real.keys())
        order = np.lexsort((keys, real.labels))
        return cls(images=real.images[order], labels=real.labels[order], keys=keys[order].tolist())

    def row_of(self, label: int, index: int) -> int:
        """The parent of a class's image `index`: its real images in turn."""
        first, after = np.searchsorted(self.labels, [label, label + 1])
        return int(first + index % (after - first))


def conditions(
    plan: Plan, chunk: Chunk, settings: GeneratorSettings, class_names: Sequence[str], parents: Parents | None
) -> Batch:
    """The rows of one chunk, before sampling."""
    indices = range(chunk.start, chunk.stop)
    name = class_names[chunk.label]
    rows: list[int | None] = [None] * len(indices)
    prompts, negative = [name] * len(indices), ""
    if isinstance(settings, StableDiffusion):
        if settings.uses_parents and parents is not None:
            rows = [parents.row_of(chunk.label, index) for index in indices]
        captions = [""] * len(indices)
        if parents is not None and parents.captions is not None:
            captions = [parents.captions[row] for row in rows if row is not None]
        prompts = [
            filled(settings.prompt[index % len(settings.prompt)], name, settings, caption)
            for index, caption in zip(indices, captions, strict=True)
        ]
        negative = filled(settings.negative_prompt, name, settings)
    return {
        "key": [plan.key(chunk.label, index) for index in indices],
        "label": [chunk.label] * len(indices),
        "class_name": [name] * len(indices),
        "index": list(indices),
        "seed": [image_seed(plan.generator_digest, chunk.label, index) for index in indices],
        "prompt": prompts,
        "negative_prompt": [negative] * len(indices),
        "parent": rows,
        "parent_key": [None if row is None or parents is None else parents.keys[row] for row in rows],
    }


def filled(template: str, class_name: str, settings: StableDiffusion, caption: str = "") -> str:
    """A template with its words in. Names are text and nothing else: braces in one are not read again."""
    words: Mapping[str, str] = {
        "class": settings.class_words.get(class_name, class_name),
        "dataset": settings.dataset,
        "caption": caption,
    }
    parts = template.split("{")
    text = parts[0] + "".join(
        words[name] + rest if closed and name in words else "{" + name + closed + rest
        for name, closed, rest in (part.partition("}") for part in parts[1:])
    )
    return " ".join(text.split())
