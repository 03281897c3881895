"""A checked run in; room for what its stages measure of themselves out: seconds per unit, in a temporary folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ray_synth.data.images import ImageSet
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.hardware.measure import Measure
from ray_synth.nodes import Nodes, cluster_nodes
from ray_synth.runs import RunFolder
from ray_synth.stages.inputs import Inputs

MOST_REAL, MOST_SYNTHETIC = 500, 4000  # images that a piece looks at
LEAST_SIGMA = 0.05
HERE = "measured here"


@dataclass
class Bench:
    """What was measured so far. wanted: units of the tasks that are left; folder: a temporary one."""

    inputs: Inputs
    folder: RunFolder
    wanted: frozenset[str]
    found: dict[str, Measure] = field(default_factory=dict)
    cpus: int = 1  # that Ray has
    gpus: int = 0
    image_bytes: float | None = None

    def wants(self, *units: str) -> bool:
        return bool(self.wanted & set(units))

    def note(self, unit: str, seconds: float, sigma: float = 0.0, origin: str = HERE) -> None:
        self.found[unit] = Measure(value=max(0.0, float(seconds)), sigma=max(LEAST_SIGMA, sigma), origin=origin)

    @contextmanager
    def timed(self, unit: str, sigma: float = 0.1) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.note(unit, time.monotonic() - begin, sigma)

    def start_ray(self) -> None:
        """Start it, and see what it has: once, by the first stage that needs it.

        Raises:
            InputError: RAY_ADDRESS names a cluster with other machines than this one.
        """
        if "ray_start" in self.found:
            return
        with self.timed("ray_start"):
            self.inputs.start_ray()
        nodes = cluster_nodes()
        refuse_others(nodes)
        self.cpus, self.gpus = int(nodes.cpus), sum(nodes.gpus)


def refuse_others(nodes: Nodes) -> None:
    """What is measured lies in a temporary folder, which other machines do not see, and counts for one node."""
    up = len(nodes.gpus)
    if up > 1 or nodes.grows:
        has = f"has {up} machines" if up > 1 else "adds machines"
        raise InputError(
            f"a calibration measures one machine, and the cluster of RAY_ADDRESS {has}; type --gpu NAME or --rates "
            "FILE with --nodes, or unset RAY_ADDRESS on one of its machines and type --save-rates FILE there"
        )


def joins_cluster() -> bool:
    """Whether Ray is started before anything is measured, since a cluster may be refused."""
    return bool(os.environ.get("RAY_ADDRESS"))


def stand_in(real: ImageSource, per_class: int | np.ndarray) -> ImageSource:
    """As many images of each class as asked, one number or [C], real ones over and over with noise on them: what a
    piece takes does not hang on what images show."""
    rng = np.random.default_rng(0)
    asked = np.broadcast_to(per_class, real.num_classes)
    rows = np.concatenate([np.resize(np.flatnonzero(real.labels == c), asked[c]) for c in np.unique(real.labels)])
    noise = rng.integers(-20, 21, (len(rows), *real.shape), dtype=np.int16)
    images = np.clip(real.images(rows).astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return ImageSet(pixels=images, labels=real.labels[rows], class_names=real.class_names)


def some(images: ImageSource, most: int) -> ImageSource:
    """At most so many, drawn at random."""
    if len(images) <= most:
        return images
    return images.take(np.sort(np.random.default_rng(0).permutation(len(images))[:most]))
