"""Batches cut and joined, and halved where memory runs out. Every filter and every sampler takes one and gives one."""

from __future__ import annotations

from ray_synth.errors import WorkError
from ray_synth.generator.base import Batch, Sampler


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    return {name: column[start:stop] for name, column in batch.items()}


def num_rows(batch: Batch) -> int:
    return len(batch["key"])


def joined(batches: list[Batch]) -> Batch:
    return {name: [value for batch in batches for value in batch[name]] for name in batches[0]}


class InBatches:
    """A sampler that takes any number of images, by one that takes `batch_size`; halves it when memory runs out.

    pad: fill up the last batch, and drop what was added: a compiled model would be compiled again for another size.
    """

    def __init__(self, sampler: Sampler, batch_size: int, *, pad: bool = False):
        self.sampler, self.batch_size, self.pad = sampler, batch_size, pad

    def __call__(self, batch: Batch) -> Batch:
        parts: list[Batch] = []
        start, count = 0, num_rows(batch)
        while start < count:
            part = rows_of(batch, start, min(count, start + self.batch_size))
            made = self._sampled(part)
            if made is None:
                _empty_cache()
                continue
            parts.append(made)
            start += num_rows(part)
        return joined(parts)

    def _sampled(self, part: Batch) -> Batch | None:
        """None where memory ran out, and the batch is smaller from now on."""
        count = num_rows(part)
        added = self.batch_size - count if self.pad else 0
        try:
            made = self.sampler({name: [*column, *column[-1:] * added] for name, column in part.items()})
            return rows_of(made, 0, count)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if count + added == 1:
                raise WorkError(
                    f"memory does not suffice for a single image ({str(error).splitlines()[0]}); "
                    "lower generator.image_size, set generator.dtype=float16, or share the GPU with fewer actors"
                ) from None
            self.batch_size = (count + added + 1) // 2
            return None


def is_out_of_memory(error: Exception) -> bool:
    """A GPU's OutOfMemoryError, or the CPU allocator's plain RuntimeError."""
    name = type(error).__name__
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
