"""The generator's settings in, a generator that images can be sampled from out: what it is, and its training."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ray_synth.config import digest
from ray_synth.generator.artifacts import CHECKPOINT
from ray_synth.generator.artifacts import DIGEST as RECORD
from ray_synth.hardware.gpus import FORWARD_AND_BACK, Gpu
from ray_synth.hardware.measure import Measure, spread
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.stages.inputs import Inputs
from ray_synth.stages.stage import Stage
from ray_synth.tasks import Task, Tasks

if TYPE_CHECKING:
    from ray_synth.generator.base import Origin
    from ray_synth.stages.bench import Bench

MEASURED_SECONDS = 5.0


class Finetune(Stage):
    """The generator of an experiment, and its training where this run trains it."""

    name = "finetune"
    purpose = "Train the generator"
    unit = "generator_step"

    def __init__(self, inputs: Inputs, others: Mapping[type[Stage], Stage]):
        """Raises InputError for a generator that cannot be used."""
        from ray_synth.generator import generator_of
        from ray_synth.sampling.filtering import check_filters

        super().__init__(inputs, others)
        e = self.experiment
        self.generator = generator_of(
            e.generator,
            e.generate,
            class_names=inputs.class_names,
            shape=inputs.shape,
            depth=inputs.splits.train.depth,
        )
        self._notes: list[str] = []
        if not inputs.described:
            check_filters(e.generate.filter)
            self._notes = self.generator.check()

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    @functools.cached_property
    def origin(self) -> Origin:
        """What the generator is: for one that this run trains, the digest of its settings and training images."""
        from ray_synth.generator.base import Origin

        e = self.experiment
        if self.inputs.described:
            return Origin(model_id="", model_revision="", model_license="", parts={})
        trained = digest("finetune", self.generator.pixel_settings(), e.seed, self.inputs.digests["generator"])
        return self.generator.origin(trained)

    @property
    def _steps(self) -> int:
        return self.generator.fit_steps

    @property
    def digest(self) -> str:
        return digest("finetune", self.origin.model_revision, self.origin.parts)

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("generator",)

    @property
    def sealed(self) -> Sequence[str]:
        return [file for file in self.folder.files("generator") if file.count("/") == 1]  # captions lie deeper

    @property
    def overview(self) -> str:
        return f"generator   {f'{self._steps:,} training steps' if self._steps else self.origin.model_id}"

    @property
    def ready(self) -> bool:
        return self.folder.exists(self.generator.weights or RECORD)

    @property
    def done(self) -> int:
        """Of a training that was cut off."""
        return self.generator.fit_done(self.folder) if self._steps and self.begun else 0

    def tasks(self) -> Sequence[Tasks]:
        left = self._steps - self.done
        if not left:
            return ()
        return (Tasks(tasks=(Task(name="generator", takes={"generator_step": left}),), starts={"generator_start": 1}),)

    @property
    def plan(self) -> str:
        if not self._steps:
            return f"nothing to train: {self.origin.model_id} as it is"
        images = len(self.inputs.splits.generator)
        batch = min(self.generator.fit_batch, images)
        return f"training the generator on {images:,} images: {self._steps - self.done:,} steps of {batch}"

    @property
    def total(self) -> int:
        return self._steps or 1

    def run(self, advance: Callable[[int], None]) -> None:
        generator, folder, origin = self.generator, self.folder, self.origin
        record = {"model_id": origin.model_id, "model_revision": origin.model_revision}
        if self._steps:
            from ray_synth.nodes import on_gpu_node
            from ray_synth.training.checkpoint import refuse_torn

            refuse_torn(folder, CHECKPOINT)
            seed = derive_seed("finetune", self.experiment.seed)
            for step in on_gpu_node(type(generator).fit, generator, folder, self.inputs.splits.generator, seed):
                advance(step)
            record["weights_sha256"] = hashlib.sha256(folder.read(generator.weights)).hexdigest()
        else:
            record |= {"model_license": origin.model_license, **origin.parts}
        folder.write_json(RECORD, record)

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        if not self._steps:
            return {}
        batch = min(self.generator.fit_batch, len(self.inputs.splits.generator))
        step = gpu.small_network(self.generator.evaluation_flops())
        return {
            "generator_start": gpu.overheads["generator_start"],
            "generator_step": step.times(FORWARD_AND_BACK * batch, note=f"batches of {batch}, forward and back"),
        }

    def calibrate(self, bench: Bench) -> None:
        """The generator of two steps also makes the images that are measured afterwards."""
        if not self._steps or not bench.wants("generator_step", "image"):
            return
        begin = time.monotonic()
        images, seconds = self.inputs.splits.generator, []
        for _ in self.generator.with_fit_steps(2).fit(bench.folder, images, 0):
            pass
        first = time.monotonic() - begin
        last, stop = time.monotonic(), time.monotonic() + MEASURED_SECONDS
        for step in self.generator.fit(RunFolder(f"{bench.folder.url}/more"), images, 0):
            now = time.monotonic()
            if step > 2:
                seconds.append(now - last)
            last = now
            if now > stop and len(seconds) >= 4:
                break
        each = float(np.mean(seconds)) if seconds else first / 2
        blocks = [float(part.mean()) for part in np.array_split(np.asarray(seconds), 4) if len(part)]
        bench.note("generator_step", each, spread(blocks))
        bench.note("generator_start", first - 2 * each, 0.2)
