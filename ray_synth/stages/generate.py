"""A generator in, synthetic images in chunks out: how many are asked for, those that are missing made, all read back.

Where the file names no number there are those that the estimate looks at, and what a trial needs is made then.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ray_synth.config import ImageFolder, StableDiffusion, digest, with_absolute_paths
from ray_synth.data.images import ImageSet, synthetic_counts
from ray_synth.data.leaks import Prints, refuse_judged
from ray_synth.generator import chunks
from ray_synth.generator.chunks import Plan
from ray_synth.generator.generation import Generation, Rejected
from ray_synth.stages.finetune import GeneratorModel
from ray_synth.stages.inputs import Inputs, Stage

if TYPE_CHECKING:
    from ray_synth.generator.conditions import Parents

MAX_REJECTED_LISTED = 1000
MAX_COMPARED = 20_000  # images of a folder that are looked at before anything starts


class SyntheticImages:
    """The synthetic images of a run."""

    _read: ImageSet | None = None
    _compared = 0  # images of each class of a folder that were compared with validation and test

    def __init__(self, inputs: Inputs, model: GeneratorModel):
        """Raises InputError for images that the classifier is judged on, and for captions that do not fit."""
        self.inputs, self.model, self.experiment = inputs, model, inputs.experiment
        self.folder = inputs.folder
        self.notes = self._check_judged()
        self.captions: dict[str, str] | None = None
        settings = self.experiment.generator
        if isinstance(settings, StableDiffusion) and settings.captions and settings.captions.path:
            from ray_synth.generator.describe import read_captions

            self.captions = read_captions(settings.captions.path, inputs.splits.generator, self.experiment.data.path)

    def _check_judged(self) -> list[str]:
        """Images that exist already may be those that the classifier is judged on: refused. Returns notes.

        A look at some, before anything starts; what it leaves out is compared when the images are read.
        """
        generator = self.experiment.generator
        if not isinstance(generator, ImageFolder) or self.folder.is_complete("generate", self.plan.chunk_digest):
            return []
        # May be more than are asked: some are rejected.
        self._compared = max(1, MAX_COMPARED // len(self.inputs.class_names))
        partly = (
            f"the first {self._compared:,} synthetic images per class were compared with validation and test; the rest "
            "will be when they are used"
        )
        notes = self._refuse_judged(generator, self._compared)
        return notes + ([partly] if self._compared < self.images_per_class else [])

    def _refuse_judged(self, generator: ImageFolder, each: int) -> list[str]:
        from ray_synth.generator.image_folder import folder_prints

        crop = self.experiment.data.crop
        synthetic = folder_prints(generator.path, self.inputs.class_names, each, self.inputs.shape, crop=crop)
        return refuse_judged(synthetic, {name: Prints.of(self.inputs.sets[name]) for name in ("validation", "test")})

    # How many.

    @functools.cached_property
    def most_per_class(self) -> int:
        """Synthetic images per class at most: those asked for, or what the largest ratio needs and there can be."""
        e = self.experiment
        if e.generate.images_per_class is not None:
            return e.generate.images_per_class
        limit = max(e.sweep.top_ratio, e.estimate.max_ratio, e.estimate.pilot_ratio)
        wanted = int(np.ceil(limit * self.inputs.real_counts.max()))
        return min([wanted, *(self._base_plan.available or ())])

    @property
    def images_per_class(self) -> int:
        """Those asked for; else the pilot of the estimate, and what trials needed since."""
        return self.experiment.generate.images_per_class or max(int(self.pilot.max()), self._grown)

    @functools.cached_property
    def _grown(self) -> int:
        """Images per class that were made for trials."""
        record = self.folder.stage("generate")
        if record is None or not record.complete or record.digest != self._base_plan.chunk_digest:
            return 0
        return int(self.folder.read_json("generation.json").get("images_per_class", 0))

    @property
    def pilot(self) -> np.ndarray:
        """Synthetic images of each class that the estimate looks at. [C]"""
        wanted = synthetic_counts(self.inputs.real_counts, self.experiment.estimate.pilot_ratio)
        return np.clip(wanted, 1, self.most_per_class)

    @property
    def total(self) -> int:
        return self.images_per_class * len(self.inputs.class_names)

    def max_ratio(self, limit: float) -> float:
        """The largest ratio up to `limit` for which every class has enough synthetic images."""
        return min(limit, self.most_per_class / int(self.inputs.real_counts.max()))

    # What they are.

    @property
    def plan(self) -> Plan:
        """The synthetic images that are asked for."""
        return dataclasses.replace(self._base_plan, images_per_class=self.images_per_class)

    @functools.cached_property
    def _base_plan(self) -> Plan:
        """The plan but for the number. Its digests cover what an image is a function of, and no more."""
        from ray_synth.generator.kinds import available_images, file_settings, pixel_settings, sampling_settings

        e, real = self.experiment, self.inputs.digests["generator"]
        looks_at_real = isinstance(e.generator, StableDiffusion) and e.generator.uses_real_images
        generator_digest = digest(
            "generate",
            pixel_settings(e.generator),
            self.model.origin.model_revision,
            self.model.origin.parts,
            sampling_settings(e.generate),
            e.seed,
            list(self.inputs.class_names),
            real if looks_at_real else None,
        )
        chunk_digest = digest(
            generator_digest, file_settings(e.generate), real if e.generate.filter.near_copies else None
        )
        return Plan(
            generator_digest=generator_digest,
            chunk_digest=chunk_digest,
            num_classes=len(self.inputs.class_names),
            images_per_class=0,
            chunk_size=e.generate.chunk_size,
            max_attempts=e.generate.max_attempts,
            available=available_images(e.generator, self.inputs.class_names),
        )

    @property
    def digest(self) -> str:
        """Of the synthetic images as they are trained on: the chunks, and how they are brought to the real ones' size.

        The digests of the real images need not say the latter, which may be square already.
        """
        return digest(self.plan.chunk_digest, "crop") if self.experiment.data.crop else self.plan.chunk_digest

    # Making them.

    def stage(self) -> Stage:
        finished = chunks.finished_chunks(self.folder, self.plan)
        work_left = chunks.work_left(finished, self.plan)
        missing = work_left.missing
        there = min(max(0, self.total - work_left.num_images), sum(len(chunk) - chunk.rejected for chunk in finished))

        def work(advance: Callable[[int], None]) -> None:
            advance(there)
            if missing:  # else it was killed between the last chunk and the record
                self.inputs.start_ray()
            self._make(self.plan, lambda made: advance(there + made), self._parents() if missing else None)

        plan = f"generating {work_left.num_images:,} images in {len(missing):,} chunks" + (
            f"; {there:,} are there" if there else ""
        )
        return Stage(
            self.plan.chunk_digest,
            ("synthetic", "generation.json"),
            plan,
            self.total,
            work,
            ready=not missing and not work_left.short,
            named_by_content=True,
        )

    def for_ratio(self, ratio: float) -> ImageSet:
        """The synthetic images, enough of them for a ratio: where a trial needs more than there are, they are made."""
        needed = int(synthetic_counts(self.inputs.real_counts, ratio).max())
        if needed > self.images_per_class:
            more = (needed - self.images_per_class) * len(self.inputs.class_names)
            self.inputs.start_ray()
            plan = dataclasses.replace(self._base_plan, images_per_class=needed)
            said = f"{more:,} more images, for a trial at ratio {ratio:g}"
            with self.inputs.reporter.part("generate", said, more) as advance:
                self._make(plan, advance, self._parents())
            self._grown = needed
        return self.all

    def _make(self, plan: Plan, progress: Callable[[int], None], parents: Parents | None) -> None:
        """What is missing of a plan, and generation.json. progress: called with the number of images made here."""
        from ray_synth.generator.generate import Job, generate_chunks

        made = 0

        def count(images: int) -> None:
            nonlocal made
            made += images
            progress(made)

        e = self.experiment
        job = Job(
            url=self.folder.absolute_url,
            plan=plan,
            generator=with_absolute_paths(e.generator),
            generate=with_absolute_paths(e.generate),
            class_names=self.inputs.class_names,
            origin=self.model.origin,
        )
        generate_chunks(self.folder, job, parents, progress=count, say=self.inputs.reporter.say)
        for _ in chunks.read_rows(self.folder, plan, ["key"]):
            pass  # reading checks that the keys are those of the plan
        self._write_generation(plan)

    def _parents(self) -> Parents | None:
        """The real images that the generator or a filter looks at, with their captions and embeddings."""
        from ray_synth.generator.conditions import Parents

        settings, names = self.experiment.generator, self.inputs.class_names
        conditioned = isinstance(settings, StableDiffusion) and settings.uses_real_images
        if not conditioned and not self.experiment.generate.filter.near_copies:
            return None
        parents = Parents.of(self.inputs.splits.generator)
        if isinstance(settings, StableDiffusion) and conditioned:
            from ray_synth.generator.describe import described_parents
            from ray_synth.generator.kinds import captioned_prompts, long_prompts

            parts = self.model.origin.parts
            parents = described_parents(self.folder, parents, with_absolute_paths(settings), self.captions, parts)
            if parents.captions is not None:
                prompts = captioned_prompts(settings, names, parents.labels.tolist(), parents.captions)
                for note in long_prompts(settings, prompts):
                    self.inputs.reporter.say(f"generate: {note}")
        return parents

    def _write_generation(self, plan: Plan) -> None:
        """generation.json: how many images were made and kept, and what was set aside, by reason and key."""
        counts, rejected = chunks.rejected_counts(self.folder, plan, listed=MAX_REJECTED_LISTED, first="killed_worker")
        made = sum(map(len, chunks.finished_chunks(self.folder, plan)))
        generation = Generation(
            model_id=self.model.origin.model_id,
            model_revision=self.model.origin.model_revision,
            model_license=self.model.origin.model_license,
            images_per_class=plan.images_per_class,
            asked=plan.images_per_class * plan.num_classes,
            made=made,
            kept=made - sum(counts.values()),
            rejected=counts,
            rejected_keys=tuple(Rejected(key=key, reason=reason) for key, reason in rejected),
        )
        self.folder.write_json("generation.json", generation.to_dict())

    def generation(self) -> Generation:
        """generation.json."""
        return Generation.from_dict(self.folder.read_json("generation.json"))

    # Reading them.

    @property
    def all(self) -> ImageSet:
        """All synthetic images that are asked for so far; read once for each number of them."""
        if self._read is None or len(self._read) < self.total:
            self._read = self._read_all()
        return self._read

    def _read_all(self) -> ImageSet:
        generator = self.experiment.generator
        used = max((chunk.stop for chunk in chunks.finished_chunks(self.folder, self.plan)), default=0)
        if isinstance(generator, ImageFolder) and used > self._compared:
            # The files, not the chunks: these may hold them recompressed.
            for note in self._refuse_judged(generator, used):
                self.inputs.reporter.say(f"  note: {note}")
        return chunks.read_synthetic(
            self.folder,
            self.plan,
            class_names=self.inputs.class_names,
            shape=self.inputs.shape,
            crop=self.experiment.data.crop,
        )

    def export(self, kind: str) -> str:
        """Write the kept images as `folder` or `webdataset`; returns where in the run folder."""
        from ray_synth.generator.export import export_images

        with self.inputs.reporter.stage("export", f"writing {self.total:,} images", self.total) as advance:
            return export_images(
                self.folder,
                self.plan,
                kind,
                class_names=self.inputs.class_names,
                extension=self.experiment.generate.format,
                progress=advance,
            )
