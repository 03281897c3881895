"""A class and a range of indices in, what its images are sampled from out: seeds, prompts, parents."""

from __future__ import annotations

from typing import Any

from ray_synth.generator.base import Batch, Generator, Parents
from ray_synth.sampling.chunks import Chunk, Plan
from ray_synth.seeding import image_seed


def conditions(plan: Plan, chunk: Chunk, generator: Generator[Any], parents: Parents | None) -> Batch:
    """The rows of one chunk, before sampling."""
    indices, (which, label) = range(chunk.start, chunk.stop), plan.place(chunk.label)
    batch: Batch = {
        "key": [plan.key(chunk.label, index) for index in indices],
        "label": [label] * len(indices),
        "class_name": [generator.class_names[label]] * len(indices),
        "index": list(indices),
        "seed": [image_seed(plan.generator_digest, chunk.label, index) for index in indices],
        **generator.conditions(label, indices, parents),
    }
    if plan.generators:
        batch["generator"] = [which] * len(indices)
    batch["parent_key"] = [None if row is None or parents is None else parents.keys[row] for row in batch["parent"]]
    return batch
