"""Memory that runs out: smaller batches, the same images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_synth.errors import WorkError
from ray_synth.generator.base import Batch
from ray_synth.sampling.batches import InBatches


class Small:
    """A sampler with room for `room` images."""

    def __init__(self, room: int, error: Exception):
        self.room, self.error, self.sizes = room, error, list[int]()

    def __call__(self, batch: Batch) -> Batch:
        self.sizes.append(len(batch["key"]))
        if len(batch["key"]) > self.room:
            raise self.error
        return {
            **batch,
            "image": [np.full((1, 1, 1), k, np.uint8) for k in batch["key"]],
            "rejected": [""] * self.sizes[-1],
        }


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Exception) -> None:
    small = Small(5, error)
    sampler = InBatches(small, 32)
    made = sampler({"key": list(range(70))})
    assert [int(image[0, 0, 0]) for image in made["image"]] == list(range(70))
    assert small.sizes[:4] == [32, 16, 8, 4]
    assert set(small.sizes[4:]) <= {4, 2}
    sampler({"key": list(range(4))})
    assert small.sizes[-1] == 4  # what did not fit is not tried again
    padded = InBatches(Small(5, error), 32, pad=True)
    made = padded({"key": list(range(70))})
    assert [int(image[0, 0, 0]) for image in made["image"]] == list(range(70))
    assert set(padded.sampler.sizes[3:]) == {4}  # one size for a compiled model, after a smaller one was found
    with pytest.raises(WorkError, match="single image"):
        InBatches(Small(0, error), 8)({"key": [1]})
    with pytest.raises(ZeroDivisionError):
        InBatches(Small(0, ZeroDivisionError()), 8)({"key": [1]})
