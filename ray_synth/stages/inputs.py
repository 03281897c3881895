"""An experiment and its folder in, what every stage reads out: the real images, their digests, the run's Ray."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import RANDOM, Experiment, file_in, with_absolute_paths
from ray_synth.data.images import first_per_class, share_of_each
from ray_synth.data.listing import FileImages, file_of
from ray_synth.data.looks import Through, here, looks_folder
from ray_synth.data.opening import Member
from ray_synth.data.published import published_splits
from ray_synth.data.source import ImageSource, joined
from ray_synth.data.splits import Splits, read_splits
from ray_synth.errors import InputError
from ray_synth.hardware.gpus import Card
from ray_synth.hardware.machine import short_of_memory
from ray_synth.kept import Arrays
from ray_synth.nodes import blind_to, through_nodes, told_by_workers
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.runtime import ray_session

if TYPE_CHECKING:
    from ray_synth.generator import Generator

MANY = 20_000  # images of files: looking at so many takes long enough to say so


class Inputs:
    """One experiment in one run folder, and its real images.

    described: the images are not here. Their numbers are those published, for a plan; nothing can be looked at.
    gpu: tells what it will be done on, where that is known; asked once, and only by who needs it.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        reporter: Reporter,
        *,
        described: bool = False,
        gpu: Callable[[], Card | None] = lambda: None,
    ):
        self.experiment, self.folder, self.reporter, self.described = experiment, folder, reporter, described
        self._gpu = gpu
        self.resources, self.watched = ExitStack(), False
        try:
            self.splits: Splits = (
                published_splits(experiment.data)
                if described
                else read_splits(experiment.data, experiment.seed, self._looked_at)
            )
        except BaseException:
            self.resources.close()
            raise
        self.sets = self.splits.named()

    @functools.cached_property
    def on_workers(self) -> Experiment:
        """The experiment as workers read it, whose current folder is another one."""
        return with_absolute_paths(self.experiment)

    @functools.cached_property
    def gpu(self) -> Card | None:
        """What the work will be done on, where that is known."""
        return self._gpu()

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        return {name: "" if self.described else images.digest() for name, images in self.sets.items()}

    @functools.cached_property
    def generator(self) -> Generator[Any]:
        """What makes the synthetic images, or holds them."""
        from ray_synth.generator import generator_of

        e, depth = self.experiment, self.splits.train.depth
        return generator_of(e.generator, e.generate, class_names=self.class_names, shape=self.shape, depth=depth)

    @functools.cached_property
    def available(self) -> tuple[int, ...] | None:
        """Synthetic images of each class that exist already, where they do; as of every generator."""
        return None if self.described else self.generator.available()

    @property
    def given(self) -> np.ndarray:
        """Whether a class has synthetic images at all, of each generator. [C]"""
        numbers = self.available or (1,) * len(self.class_names)
        return np.asarray(np.reshape(numbers, (-1, len(self.class_names))).min(axis=0) > 0)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.splits.train.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.splits.train.shape

    @functools.cached_property
    def real_counts(self) -> np.ndarray:
        """Real training images of each class."""
        return self.splits.train.counts

    @functools.cached_property
    def tried_counts(self) -> np.ndarray:
        """Real training images of each class that trials of the sweep take. [C]"""
        return share_of_each(self.real_counts, self.experiment.sweep.real_share)

    @property
    def tried_share(self) -> float:
        """Of all real training images, with what rounding up adds to `sweep.real_share`."""
        return float(self.tried_counts.sum() / max(1, self.real_counts.sum()))

    @functools.cached_property
    def tried(self) -> ImageSource:
        """These images: the first of each class in its seeded order; a smaller share is a part of a larger one."""
        train = self.splits.train
        if self.tried_share == 1:
            return train
        return train.take(first_per_class(train.labels, self.tried_counts))

    @functools.cached_property
    def seen_through(self) -> str:
        """What the estimate sees images through, `auto` resolved where it is a network."""
        from ray_synth.features.automatic import automatic_word

        word = self.experiment.estimate.features
        return automatic_word(self.shape) or word if word == "auto" else word

    @functools.cached_property
    def classifier_files(self) -> list[str]:
        """What lies in the files that the classifier starts from and that its regions are seen through."""
        from ray_synth.features.packaged import packaged_digests
        from ray_synth.generator.pretrained import content_digest
        from ray_synth.sampling.digests import encoder_files

        e = self.experiment
        named = [file_in(model) for model in (e.classifier.model, *e.sweep.choices_of("model"))]
        files = (e.classifier.weights, *e.sweep.choices_of("weights"), *(file for _, file in named))
        own = [content_digest(Path(file)) for file in files if file and file != RANDOM]
        return own + [d for model, _ in named for d in packaged_digests(model)] + encoder_files(e.partition.features)

    def _looked_at(self, look: Callable[[ImageSource], Arrays], sources: Sequence[ImageSource]) -> Iterator[Arrays]:
        """What a look at images of files finds: of many, by all nodes of a cluster that is joined, and with a bar."""
        total, done = sum(map(len, sources)), 0
        if total < MANY:
            yield from here(look, sources)
            return
        through: Through = here
        if os.environ.get("RAY_ADDRESS"):
            self.start_ray()
            self._check_seen(sources[0])
            through = through_nodes
        plan = f"{total:,} images are looked at, once; what is found stays in {looks_folder()}"
        with self.reporter.stage("images", plan, total) as advance:
            for source, found in zip(sources, through(look, sources), strict=True):
                done += len(source)
                advance(done)
                yield found

    def check_seen(self) -> None:
        """Raise InputError for real images in files that a node of the cluster does not see. Ray must be up."""
        for images in self.sets.values():
            self._check_seen(images)

    def _check_seen(self, images: ImageSource) -> None:
        if not isinstance(images, FileImages) or not isinstance(images.items[0], str | Member):
            return
        file = file_of(images.items[0])
        address = blind_to(file)
        if address is not None:
            raise InputError(
                f"data.path={self.experiment.data.path}: the node {address} does not see {file}, and the "
                "images are too many to be sent; put them where all nodes find them by the same path"
            )

    def start_ray(self) -> None:
        """Ray is started by the first stage that needs it, and stopped at the end of the run, or before."""
        import ray

        if not ray.is_initialized():
            self.resources.enter_context(ray_session())
        if not self.watched:
            self.watched = True
            self.resources.enter_context(told_by_workers(self.reporter.say))

    def spare_memory(self) -> None:
        """Between two stages, where there is little: what Ray keeps of the first, half a gigabyte, is given back."""
        if short_of_memory():
            self.resources.close()
            self.watched = False

    def all_but_test(self) -> ImageSource:
        """Every real image that may be looked at more than once."""
        disjoint = self.experiment.data.generator_split == "disjoint"
        names = ("train", "validation", *(("generator",) if disjoint else ()))
        return joined([self.sets[name] for name in names])

    def report_moved(self, moved: list[str], why: str = "settings changed") -> None:
        if moved:
            self.reporter.say(f"{why}: moved the old {', '.join(moved)} to {self.folder.url}/stale/")
