"""A generator and the real images that it is fitted on in, its fitted parts in the run folder out: in one process, over
a pool of actors with a part each, or by a team that fits each part together; whole or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ray_synth.data.source import ImageSource
from ray_synth.generator.base import Generator, Parents
from ray_synth.runs import RunFolder
from ray_synth.sampling.pool import over_pool

if TYPE_CHECKING:
    from ray_synth.training.team import Team


def fit_one(
    generator: Generator[Any], folder: RunFolder, images: ImageSource, seed: int, parents: Parents | None
) -> Iterator[int]:
    """The only part, step by step: yields the number of those done."""
    from ray_synth.training.team import Team

    yield from generator.fitter(folder, images, seed, parents, Team())("")


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


def fit_together(
    arguments: tuple[str, Generator[Any], int],
    parts: Sequence[str],
    images: ImageSource,
    parents: Parents | None,
    *,
    progress: Callable[[Sequence[str]], None],
) -> None:
    """Fit parts one after the other, each by all of the generator's `fit_workers`. Ray must be up.

    arguments: as of `fit_several`. progress: called with the parts that are left, when one is done or the first of them
    has kept a checkpoint.
    """
    from ray_synth.nodes import cluster_nodes
    from ray_synth.training.team import check_workers, run_team

    url, generator, _ = arguments
    watched, nodes = _Watched(generator, RunFolder(url), parts), cluster_nodes()
    check_workers("generator.finetune.num_workers", generator.fit_workers, nodes.most_cpus, sum(nodes.most_gpus))
    run_team(
        _fit_all,
        (arguments, parts, images, parents),
        what="the training of an adapter",
        num_workers=generator.fit_workers,
        on_gpus=nodes.on_gpus,
        kept=watched.state,
        meanwhile=lambda: watched.tell(progress),
    )


class _Watched:
    """How far parts are that are fitted in their order: of thousands, the files of the first that is left are looked
    at."""

    def __init__(self, generator: Generator[Any], folder: RunFolder, parts: Sequence[str]):
        self.generator, self.folder, self.left = generator, folder, list(parts)
        self.told: Any = None

    def state(self) -> tuple[int, list[str | None]]:
        """Changes whenever a part is done or a checkpoint is kept."""
        while self.left and self.folder.exists(self.generator.fit_file(self.left[0])):
            del self.left[0]
        files = self.generator.fit_files(self.left[0]) if self.left else ()
        return len(self.left), [self.folder.version(file) for file in files]

    def tell(self, progress: Callable[[Sequence[str]], None]) -> None:
        if (now := self.state()) != self.told:
            self.told = now
            progress(self.left)


def _fit_all(
    given: tuple[tuple[str, Generator[Any], int], Sequence[str], ImageSource, Parents | None], team: Team
) -> None:
    (url, generator, seed), parts, images, parents = given
    fit = generator.fitter(RunFolder.on_worker(url), images, seed, parents, team)
    for part in parts:
        for _ in fit(part):
            pass


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
        import torch

        from ray_synth.training.team import Team

        team = Team(device=torch.device(device))
        self.fit = generator.fitter(RunFolder(url), shared[0], seed, shared[1], team)

    def __call__(self, item: dict[str, str]) -> str:
        for _ in self.fit(item["part"]):
            pass
        return item["part"]
