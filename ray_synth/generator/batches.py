"""Columns in, columns out: what one image is sampled from, and how a batch is cut when memory runs out.

Every generator and every filter is a function from a batch to a batch. Columns of a batch: key, label, class_name,
index, seed, prompt, negative_prompt, parent (row of the real image behind it, or None), parent_key; a generator adds
image (uint8 [H,W,C] each) and rejected (a reason, empty for an image that is kept).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray_synth.errors import WorkError

Batch = dict[str, list[Any]]
Sampler = Callable[[Batch], Batch]


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    return {name: column[start:stop] for name, column in batch.items()}


def num_rows(batch: Batch) -> int:
    return len(batch["key"])


def joined(batches: list[Batch]) -> Batch:
    return {name: [value for batch in batches for value in batch[name]] for name in batches[0]}


class InBatches:
    """A sampler that takes any number of images, by one that takes `batch_size`; halves it when memory runs out."""

    def __init__(self, sampler: Sampler, batch_size: int):
        self.sampler, self.batch_size = sampler, batch_size

    def __call__(self, batch: Batch) -> Batch:
        parts: list[Batch] = []
        start, count = 0, num_rows(batch)
        while start < count:
            part = rows_of(batch, start, min(count, start + self.batch_size))
            try:
                parts.append(self.sampler(part))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if num_rows(part) == 1:
                    raise WorkError(
                        f"memory does not suffice for a single image ({str(error).splitlines()[0]}); "
                        "lower generator.image_size, set generator.dtype=float16, or share the GPU with fewer actors"
                    ) from None
                self.batch_size = (num_rows(part) + 1) // 2
                _empty_cache()
                continue
            start += num_rows(part)
        return joined(parts)


def is_out_of_memory(error: Exception) -> bool:
    """A GPU's OutOfMemoryError, or the CPU allocator's plain RuntimeError."""
    name = type(error).__name__
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
