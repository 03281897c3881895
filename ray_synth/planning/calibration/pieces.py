"""A checked run in; room for what is measured of it out: seconds per unit by the names of Rates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ray_synth.config import Experiment
from ray_synth.data.images import ImageSet
from ray_synth.planning.rates import Measure
from ray_synth.planning.sizes import Sizes
from ray_synth.planning.work import Work
from ray_synth.runs import RunFolder

if TYPE_CHECKING:
    from ray_synth.pipeline import Run

MOST_REAL, MOST_SYNTHETIC = 500, 4000  # images that a piece looks at
LEAST_SIGMA = 0.05
HERE = "measured here"


@dataclass
class Pieces:
    """What was measured so far, by the names of Rates."""

    run: Run
    work: Work
    sizes: Sizes
    say: Callable[[str], None]
    folder: RunFolder
    found: dict[str, Measure] = field(default_factory=dict)
    slots: int = 1  # of the pool, then of the trials
    cpus: int = 1  # that Ray has
    gpus: int = 0
    image_bytes: float | None = None

    @property
    def experiment(self) -> Experiment:
        return self.run.inputs.on_workers

    def note(self, name: str, seconds: float, sigma: float = 0.0, origin: str = HERE) -> None:
        self.found[name] = Measure(value=max(0.0, float(seconds)), sigma=max(LEAST_SIGMA, sigma), origin=origin)


@contextmanager
def timed(pieces: Pieces, name: str, sigma: float = 0.1) -> Iterator[None]:
    begin = time.monotonic()
    yield
    pieces.note(name, time.monotonic() - begin, sigma)


def spread(values: Sequence[float]) -> float:
    """Standard deviation of the logarithm of the mean of some repeated pieces."""
    positive = np.asarray([value for value in values if value > 0])
    if len(positive) < 2:
        return 0.0
    return float(np.log(positive).std(ddof=1) / math.sqrt(len(positive)))


def stand_in(real: ImageSet, per_class: int) -> ImageSet:
    """As many images of each class as asked, real ones over and over with noise on them: what a piece takes does not
    hang on what images show."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.resize(np.flatnonzero(real.labels == c), per_class) for c in np.unique(real.labels)])
    noise = rng.integers(-20, 21, (len(rows), *real.images.shape[1:]), dtype=np.int16)
    images = np.clip(real.images[rows].astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return ImageSet(images=images, labels=real.labels[rows], class_names=real.class_names)


def some(images: ImageSet, most: int) -> ImageSet:
    """At most so many, evenly over the classes."""
    if len(images) <= most:
        return images
    return images.take(np.sort(np.random.default_rng(0).permutation(len(images))[:most]))
