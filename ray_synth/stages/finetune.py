"""The generator's settings in, a generator that images can be sampled from out: what it is, and its training."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from ray_synth.config import Diffusion, digest
from ray_synth.seeding import derive_seed
from ray_synth.stages.inputs import Inputs, Stage

if TYPE_CHECKING:
    from ray_synth.generator.kinds import Origin


class GeneratorModel:
    """The generator of an experiment."""

    def __init__(self, inputs: Inputs):
        """Raises InputError for a generator that cannot be used."""
        from ray_synth.generator.kinds import check_generator

        self.inputs, e = inputs, inputs.experiment
        self.notes = check_generator(e.generator, e.generate, class_names=inputs.class_names, shape=inputs.shape)

    @functools.cached_property
    def origin(self) -> Origin:
        """What the generator is: for one that this run trains, the digest of its settings and training images."""
        from ray_synth.generator.kinds import origin_of, pixel_settings

        e = self.inputs.experiment
        trained = digest("finetune", pixel_settings(e.generator), e.seed, self.inputs.digests["generator"])
        return origin_of(e.generator, class_names=self.inputs.class_names, trained=trained)

    def stage(self) -> Stage:
        from ray_synth.generator.artifacts import WEIGHTS

        settings, folder = self.inputs.experiment.generator, self.inputs.folder
        if not isinstance(settings, Diffusion):
            plan, total, made = f"nothing to train: {self.origin.model_id} as it is", 1, "generator/digest.json"
        else:
            plan = f"training the generator on {len(self.inputs.splits.generator):,} images"
            total, made = settings.steps, WEIGHTS
        return Stage(
            digest("finetune", self.origin.model_revision, self.origin.parts),
            ("generator",),
            plan,
            total,
            self._work,
            ready=folder.exists(made),
        )

    def _work(self, advance: Callable[[int], None]) -> None:
        from ray_synth.generator.artifacts import WEIGHTS

        settings, folder, origin = self.inputs.experiment.generator, self.inputs.folder, self.origin
        record = {"model_id": origin.model_id, "model_revision": origin.model_revision}
        if isinstance(settings, Diffusion):
            from ray_synth.generator.finetune import finetuning
            from ray_synth.nodes import where_gpus_are

            seed = derive_seed("finetune", self.inputs.experiment.seed)
            for step in where_gpus_are(finetuning, folder, self.inputs.splits.generator, settings, seed):
                advance(step)
            record["weights_sha256"] = hashlib.sha256(folder.read(WEIGHTS)).hexdigest()
        else:
            record |= {"model_license": origin.model_license, **origin.parts}
        folder.write_json("generator/digest.json", record)
