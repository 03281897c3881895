"""A generator and the real images that it is fitted on in, its fitted parts in the run folder out; over a pool of
actors where there are several, each part whole or from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ray_synth.data.source import ImageSource
from ray_synth.generator.base import Generator, Parents
from ray_synth.runs import RunFolder
from ray_synth.sampling.pool import over_pool


def fit_one(
    generator: Generator[Any], folder: RunFolder, images: ImageSource, seed: int, parents: Parents | None
) -> Iterator[int]:
    """The only part, step by step: yields the number of those done."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    yield from generator.fitter(folder, images, seed, parents, device)("")


def fit_several(
    arguments: tuple[str, Generator[Any], int],
    parts: Sequence[str],
    images: ImageSource,
    parents: Parents | None,
    *,
    pool: tuple[int, int] | None = None,
) -> Iterator[str]:
    """Names of parts, as they are done. Ray must be up.

    arguments: the run folder's address, generator and seed. pool: least and most actors; default as many as fit.
    """
    items = [{"part": part} for part in parts]
    yield from over_pool(items, _Fitting, arguments, (images, parents), pool=pool)


class _Fitting:
    """A Ray Data actor: loads what the parts share once, then fits one after the other."""

    def __init__(
        self,
        url: str,
        generator: Generator[Any],
        seed: int,
        shared: tuple[ImageSource, Parents | None],
        device: str,
    ):
        self.fit = generator.fitter(RunFolder(url), shared[0], seed, shared[1], device)

    def __call__(self, item: dict[str, str]) -> str:
        for _ in self.fit(item["part"]):
            pass
        return item["part"]
