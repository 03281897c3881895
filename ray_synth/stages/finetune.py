"""The generator's settings in, a generator that images can be sampled from out: what it is, and its training."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

from ray_synth.config import digest
from ray_synth.generator import generator_of
from ray_synth.generator.base import Origin
from ray_synth.sampling.filtering import check_filters
from ray_synth.seeding import derive_seed
from ray_synth.stages.inputs import Inputs, Stage

RECORD = "generator/digest.json"


class GeneratorModel:
    """The generator of an experiment."""

    def __init__(self, inputs: Inputs):
        """Raises InputError for a generator that cannot be used."""
        self.inputs, e = inputs, inputs.experiment
        self.generator = generator_of(e.generator, e.generate, class_names=inputs.class_names, shape=inputs.shape)
        check_filters(e.generate.filter)
        self.notes = self.generator.check()

    @functools.cached_property
    def origin(self) -> Origin:
        """What the generator is: for one that this run trains, the digest of its settings and training images."""
        seed, real = self.inputs.experiment.seed, self.inputs.digests["generator"]
        return self.generator.origin(digest("finetune", self.generator.pixel_settings(), seed, real))

    def stage(self) -> Stage:
        generator = self.generator
        plan = f"nothing to train: {self.origin.model_id} as it is"
        if generator.fit_steps:
            plan = f"training the generator on {len(self.inputs.splits.generator):,} images"
        return Stage(
            digest("finetune", self.origin.model_revision, self.origin.parts),
            ("generator",),
            plan,
            generator.fit_steps or 1,
            self._work,
            ready=self.inputs.folder.exists(generator.weights or RECORD),
        )

    def _work(self, advance: Callable[[int], None]) -> None:
        generator, folder, origin = self.generator, self.inputs.folder, self.origin
        record = {"model_id": origin.model_id, "model_revision": origin.model_revision}
        if generator.fit_steps:
            from ray_synth.nodes import where_gpus_are

            seed = derive_seed("finetune", self.inputs.experiment.seed)
            for step in where_gpus_are(type(generator).fit, generator, folder, self.inputs.splits.generator, seed):
                advance(step)
            record["weights_sha256"] = hashlib.sha256(folder.read(generator.weights)).hexdigest()
        else:
            record |= {"model_license": origin.model_license, **origin.parts}
        folder.write_json(RECORD, record)
