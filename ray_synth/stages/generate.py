"""A generator in, synthetic images in chunks out: how many are asked for, those that are missing made, all read back.

Where the file names no number there are those that the estimate looks at, and what a trial needs is made then.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.allocation import Allocation, largest_ratio, synthetic_counts, uneven
from ray_synth.config import digest, said
from ray_synth.data.images import first_per_class, held, side_by_side
from ray_synth.data.leaks import refuse_judged
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError, Spoiled, listed
from ray_synth.hardware.measure import Measure
from ray_synth.runs import RunFolder
from ray_synth.sampling import chunks
from ray_synth.sampling.chunks import Plan
from ray_synth.sampling.digests import encoder_files, file_settings, sampling_settings
from ray_synth.sampling.generation import Generation, Rejected
from ray_synth.stages.finetune import SD_SIDE, Finetune
from ray_synth.stages.inputs import Inputs
from ray_synth.stages.stage import Stage
from ray_synth.tasks import InPool, Task, Tasks

if TYPE_CHECKING:
    from ray_synth.generator.base import Parents
    from ray_synth.hardware.gpus import Gpu
    from ray_synth.sampling.generate import Job
    from ray_synth.stages.bench import Bench

RECORD = "generation.json"
MAX_REJECTED_LISTED = 1000
DESCRIBED = {"scheduler", "num_inference_steps", "guidance_scale", "noise_variance", "format", "quality"}  # on a card
MAX_COMPARED = 20_000  # images of a folder that are looked at before anything starts
# Bytes a pixel of an image file. jpeg: 110 kB of 512x512 (sweeps/imagenet.yaml); png, webp: reckoned from it.
BYTES_PER_PIXEL = {"jpeg": 0.42, "png": 1.7, "webp": 0.35}


class Generate(Stage):
    """The synthetic images of a run."""

    name = "generate"
    purpose = "Generate the synthetic images"
    needs = (Finetune,)
    reads = ()  # settings say what an image is
    unit = "image"
    named_by_content = True
    keeps = (RECORD,)

    _read: ImageSource | None = None
    _compared = 0  # images of each class of a folder that were compared with validation and test

    def __init__(self, inputs: Inputs, others: Mapping[type[Stage], Stage]):
        """Raises InputError for images that the classifier is judged on, for captions that do not fit, and for classes
        that nothing would be trained on of."""
        super().__init__(inputs, others)
        self.model = self.of(Finetune)
        self.generator = self.model.generator
        self._refuse_unseen()
        self._notes = [] if inputs.described else self._check_judged()

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def _refuse_unseen(self) -> None:
        """Raise InputError where synthetic images alone are trained on and a class has none."""
        unseen = np.flatnonzero((self.inputs.real_counts > 0) & ~self.inputs.given)
        if len(unseen) and not self.experiment.data.use_real:
            raise InputError(
                f"data.use_real is false, and class(es) {listed([self.inputs.class_names[c] for c in unseen])} have no "
                f"images in {self.generator.source}: nothing would be trained on of them; add some, or type --set "
                "data.use_real=true"
            )

    def _check_judged(self) -> list[str]:
        """Images that exist already may be those that the classifier is judged on: refused. Returns notes.

        A look at some, before anything starts; what it leaves out is compared when the images are read.
        """
        self.model.check_captions()
        if not self.generator.source or self.folder.is_complete(self.name, self.images.chunk_digest):
            return []
        # May be more than are asked: some are rejected.
        self._compared = max(1, MAX_COMPARED // max(1, int(self.inputs.given.sum())))
        partly = (
            f"the first {self._compared:,} synthetic images per class were compared with validation and test; the rest "
            "will be when they are used"
        )
        notes = self._refuse_judged(self._compared)
        return notes + ([partly] if self._compared < self.images_per_class.max() else [])

    def _refuse_judged(self, each: int) -> list[str]:
        synthetic = self.generator.fingerprints(each, crop=self.experiment.data.crop)
        return refuse_judged(
            synthetic, {name: self.inputs.splits.fingerprints[name] for name in ("validation", "test")}
        )

    # How many.

    @property
    def allocations(self) -> tuple[Allocation, ...]:
        """Those that trainings may ask for."""
        return self.experiment.sweep.choices_of("allocation") or (self.experiment.data.allocation,)

    @property
    def generators(self) -> tuple[str, ...]:
        """Names of several, whose images are made side by side, as many of each; empty where there is one."""
        return self.experiment.generator.names

    @property
    def candidates(self) -> tuple[str, ...]:
        """Those of them that trainings may ask for."""
        return self.experiment.sweep.choices_of("generator")

    @property
    def _sides(self) -> int:
        return max(1, len(self.generators))

    @property
    def allocated(self) -> tuple[str, ...]:
        """What trainings depend on, for their digests: nothing where classes are equal, and all allocations one."""
        return (self.experiment.data.allocation,) if uneven(self.inputs.real_counts, self.inputs.given) else ()

    def counts(self, ratio: float, real: np.ndarray | None = None) -> np.ndarray:
        """Synthetic images of each class that are enough for a ratio to the real ones (or to other counts), however
        they are allocated. [C]"""
        real, given = self.inputs.real_counts if real is None else real, self.inputs.given
        return np.asarray(np.max([synthetic_counts(real, ratio, each, given) for each in self.allocations], axis=0))

    @functools.cached_property
    def most_per_class(self) -> np.ndarray:
        """Synthetic images of each class at most, by each generator: those asked for, or what the largest ratio needs
        and there can be; none of a class that has none. [C]"""
        e = self.experiment
        if e.generate.images_per_class is not None:
            return np.where(self.inputs.given, e.generate.images_per_class, 0)
        top = max(e.sweep.top_ratio, e.estimate.max_ratio, e.estimate.pilot_ratio)
        wanted: np.ndarray = np.maximum(self.counts(top), self.counts(top, self.inputs.tried_counts)).clip(1)
        if self.inputs.available is not None:
            wanted = np.minimum(wanted, self._of_each(self.inputs.available))
        return np.asarray(wanted)

    @property
    def images_per_class(self) -> np.ndarray:
        """Those asked for, of each generator; else the pilot of the estimate, and what trials needed since. [C]"""
        if self.experiment.generate.images_per_class is not None:
            return self.most_per_class
        return np.asarray(np.maximum(self.pilot, self._grown))

    @functools.cached_property
    def _grown(self) -> np.ndarray:
        """Images of each class that were made for trials. [C]"""
        record = self.folder.stage(self.name)
        if record is not None and (not record.complete or record.digest != self._base.chunk_digest):
            return np.zeros(len(self.inputs.class_names), dtype=np.int64)
        if record is not None and RECORD not in self.folder.spoiled(self.name):
            with suppress(FileNotFoundError, Spoiled):
                return self._of_each(self.result().images_per_class)
        # What was written of it is lost: as many as there are.
        kept = np.zeros(self._sides * len(self.inputs.class_names), dtype=np.int64)
        for chunk in chunks.finished_chunks(self.folder, self._base):
            kept[chunk.label] += len(chunk) - chunk.rejected
        return np.asarray(np.minimum(self._of_each(kept), self.most_per_class))

    def _of_each(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Of each class, what every generator has. [G*C] -> [C]"""
        return np.asarray(np.asarray(numbers).reshape(self._sides, -1).min(axis=0))

    @property
    def pilot(self) -> np.ndarray:
        """Synthetic images of each class that the estimate looks at: those of a ratio to `pilot_real`, at most
        `estimate.max_images` however they are allocated, and at least one. [C]"""
        real, most = self.pilot_real, self.experiment.estimate.max_images
        ratio = self.experiment.estimate.pilot_ratio
        while (total := int(self.counts(ratio, real).sum())) > most:
            ratio *= most / total
        return np.asarray(np.clip(self.counts(ratio, real), 1, self.most_per_class))

    @functools.cached_property
    def pilot_real(self) -> np.ndarray:
        """Real images of each class that the estimate looks at: all, or the class's share of those that it looks at at
        most, and at least two. [C]"""
        real, most = self.inputs.real_counts, self.experiment.estimate.max_images
        if real.sum() <= most:
            return real
        share = synthetic_counts(real, most / int(real.sum()), "proportional")
        return np.asarray(np.clip(share, np.minimum(real, 2), real))

    @property
    def total(self) -> int:
        return self._sides * int(self.images_per_class.sum())

    def _per_class(self, ratio: float, real: np.ndarray | None = None) -> np.ndarray:
        """Images of each class once there are enough for a ratio (`counts`). [C]"""
        return np.asarray(np.minimum(np.maximum(self.images_per_class, self.counts(ratio, real)), self.most_per_class))

    def number_for(self, ratio: float, real: np.ndarray | None = None, *, after: float = 0.0) -> int:
        """Images in all once there are enough for a ratio (`counts`), and for trials up to another one."""
        tried = self._per_class(after, self.inputs.tried_counts)
        return self._sides * int(np.maximum(self._per_class(ratio, real), tried).sum())

    @property
    def pilot_total(self) -> int:
        """Synthetic images that the estimate looks at, of all candidates."""
        return max(1, len(self.candidates)) * int(self.pilot.sum())

    def max_ratio(self, limit: float) -> float:
        """The largest ratio up to `limit` for which every class that has synthetic images has enough of them."""
        several, most = (self.inputs.real_counts, self.inputs.tried_counts), self.most_per_class
        short = [real for real in several if (self.counts(limit, real) > most).any()]
        return min([limit, *(largest_ratio(real, most, each) for real in short for each in self.allocations)])

    # What they are.

    @property
    def images(self) -> Plan:
        """The synthetic images that are asked for."""
        return self.images_up_to(self.images_per_class)

    def images_up_to(self, per_class: np.ndarray) -> Plan:
        """per_class: [C], by each generator."""
        return dataclasses.replace(self._base, images_per_class=self._sides * tuple(per_class.tolist()))

    @functools.cached_property
    def _base(self) -> Plan:
        """The plan but for the number. Its digests cover what an image is a function of, and no more."""
        e, real, origin = self.experiment, self.inputs.digests["generator"], self.model.origin
        described = self.inputs.described
        generator_digest = digest(
            "generate",
            self.generator.pixel_settings(),
            origin.model_revision,
            origin.parts,
            sampling_settings(e.generate),
            e.seed,
            list(self.inputs.class_names),
            real if self.generator.uses_real_images else None,
        )
        files = None if described else file_settings(e.generate)
        return Plan(
            generator_digest=generator_digest,
            chunk_digest=digest(generator_digest, files, real if e.generate.filter.near_copies else None),
            images_per_class=(0,) * self._sides * len(self.inputs.class_names),
            chunk_size=e.generate.chunk_size,
            max_attempts=e.generate.max_attempts,
            available=self.inputs.available,
            generators=self.generators,
        )

    @property
    def digest(self) -> str:
        return self._base.chunk_digest

    @property
    def trained_on(self) -> str:
        """Digest of the synthetic images as they are trained on: the chunks, how they are brought to the real ones'
        size (the digests of the real images need not say it, which may be square already), and what they are chosen by
        from which pool."""
        data, said = self.experiment.data, list[Any]()
        if data.crop:
            said.append("crop")
        if data.selection != "random":
            features = self.inputs.seen_through
            said += [data.selection, features, encoder_files(features), self.images_per_class.tolist()]
        return digest(self.digest, *said) if said else self.digest

    @property
    def outputs(self) -> tuple[str, ...]:
        return (chunks.FOLDER, RECORD)

    @property
    def overview(self) -> str:
        e = self.experiment
        more = ", more when a trial needs them" if e.generate.images_per_class is None else ""
        said = f"images      {self.total:,} synthetic{more}, ratios 0 to {self.max_ratio(e.sweep.top_ratio):g}"
        wanted = min(e.sweep.top_ratio, e.estimate.max_ratio)
        if self.max_ratio(wanted) >= wanted:
            return said
        need = int(self.counts(wanted).max())  # one number for all classes is what can be typed
        cure = f"needs {need:,} images per class; type --set generate.images_per_class={need} to search it"
        if self.inputs.available is not None and (self.counts(wanted) > self._of_each(self.inputs.available)).any():
            cure = self._what_lacks(self.counts(wanted), self._of_each(self.inputs.available))
        return f"{said}\n  note: ratio {wanted:g} {cure}"

    def _what_lacks(self, asked: np.ndarray, there: np.ndarray) -> str:
        """What a ratio needs beyond the images that exist. asked, there: [C]"""
        label = int(np.argmax(asked / np.maximum(there, 1)))
        or_less = ", or remove its folder to leave that class real only" if (there > 0).sum() > 1 else ""
        return (
            f"needs {asked[label]:,} images of class {self.inputs.class_names[label]!r}, and there are "
            f"{there[label]:,}; add some to {self.generator.source}{or_less}"
        )

    # What is left.

    def _left(self) -> chunks.Remaining:
        return chunks.work_left(chunks.finished_chunks(self.folder, self.images), self.images)

    @property
    def ready(self) -> bool:
        left = self._left()
        return not left.missing and not left.short

    @property
    def done(self) -> int:
        finished = chunks.finished_chunks(self.folder, self.images)
        kept = sum(len(chunk) - chunk.rejected for chunk in finished)
        return min(max(0, self.total - self._left().num_images), kept)

    @property
    def plan(self) -> str:
        left, there, steps = self._left(), self.done, self.generator.denoising_steps
        of_steps = f" of {steps} steps" if steps else ""
        return f"generating {left.num_images:,} images{of_steps} in {len(left.missing):,} chunks" + (
            f"; {there:,} are there" if there else ""
        )

    def tasks(self) -> Sequence[Tasks]:
        return self._making(self._left().missing)

    def more_for(self, ratio: float, real: np.ndarray | None = None, *, after: float = 0.0) -> Sequence[Tasks]:
        """What trainings at a ratio (`counts`) ask for beyond what this stage makes, and beyond what trials up to
        another ratio asked."""
        asked, before = self._per_class(ratio, real), self._per_class(after, self.inputs.tried_counts)
        if (asked <= before).all():
            return ()
        there = chunks.finished_chunks(self.folder, self.images)
        for each in (self.images_per_class, before):
            there = sorted([*there, *chunks.work_left(there, self.images_up_to(each)).missing])
        return self._making(chunks.work_left(there, self.images_up_to(asked)).missing)

    def _making(self, missing: Sequence[chunks.Chunk]) -> Sequence[Tasks]:
        if not missing:
            return ()
        tasks = tuple(Task(name=chunk.name, takes={"chunk": 1, "image": len(chunk)}) for chunk in missing)
        return (Tasks(tasks=tasks, starts={"pool_start": 1}, way=self.pool),)

    @property
    def pool(self) -> InPool:
        """How chunks are made."""
        from ray_synth.sampling.generate import IN_FLIGHT

        generate = self.experiment.generate
        finished = chunks.finished_chunks(self.folder, self.images)
        return InPool(
            most_actors=generate.pool[1] if generate.pool else None,
            gpus_per_actor=generate.gpus_per_actor,
            in_flight=IN_FLIGHT,
            image_bytes=self._image_bytes(finished),
            file_bytes=chunks.CHUNK_BYTES,
            images_there=sum(map(len, finished)),
            files_there=len(finished),
        )

    def _image_bytes(self, finished: Sequence[chunks.Chunk]) -> float:
        """Of an image file: of those that are there, else reckoned."""
        looked_at = finished[:20]
        if not looked_at:
            pixels = self.generator.image_side**2 * self.inputs.shape[2] / 3
            return pixels * BYTES_PER_PIXEL[self.experiment.generate.format]
        sizes = [self.folder.size(f"{chunks.FOLDER}/{chunk.name}") for chunk in looked_at]
        each = (sum(sizes) - chunks.CHUNK_BYTES * len(sizes)) / sum(map(len, looked_at))
        return max(1.0, each)

    @property
    def _pilot_is_a_part(self) -> bool:
        """Whether the estimate looks at so few of the images that it pays to leave the others alone."""
        return self.experiment.data.selection == "random" and 2 * self.pilot_total < self.total

    def reading_pilot(self) -> Tasks:
        """What the estimate reads back: its pilot, or all images, for whoever comes after it."""
        if not self._pilot_is_a_part:
            return self.reading()
        number = self.pilot_total
        return Tasks(tasks=(Task(name=f"read {number} images of the pilot", takes={"read_image": number}),))

    def reading(self, ratio: float = 0.0, real: np.ndarray | None = None, *, after: float = 0.0) -> Tasks:
        """All images read back, once there are enough, as of `number_for`: by the first stage that looks at them."""
        number = self.number_for(ratio, real, after=after)
        return Tasks(tasks=(Task(name=f"read {number} images", takes={"read_image": number}),), once="reading")

    @property
    def caveats(self) -> Sequence[str]:
        found, e = [], self.experiment
        if e.generate.filter.clip is not None or e.generate.filter.near_copies:
            found.append("what filters take away, and is made anew, is not counted")
        if self.generator.descriptions():
            real = len(self.inputs.splits.generator)
            found.append(f"what models say of {real:,} real images before, such as captions, is not counted")
        return found

    # Making them.

    def run(self, advance: Callable[[int], None]) -> None:
        there, missing = self.done, bool(self._left().missing)
        advance(there)
        if missing:  # else it was killed between the last chunk and the record
            self.inputs.start_ray()
        self._make(self.images, lambda made: advance(there + made), self.parents(self.folder) if missing else None)

    def for_ratio(self, ratio: float, real: np.ndarray | None = None) -> ImageSource:
        """The synthetic images, enough of them for a ratio (`counts`): where a training needs more than there are, they
        are made."""
        needed = np.maximum(self.images_per_class, self.counts(ratio, real))
        more = self._sides * int((needed - self.images_per_class).sum())
        if more:
            self.inputs.start_ray()
            said = f"{more:,} more images, for a trial at ratio {ratio:g}"
            with self.inputs.reporter.part(self.name, said, more) as advance:
                self._make(self.images_up_to(needed), advance, self.parents(self.folder))
            self._grown = needed
        return self.all

    def job(self, url: str, plan: Plan) -> Job:
        """What an actor must know to make chunks of a plan in a run folder."""
        from ray_synth.sampling.generate import Job

        return Job(url=url, plan=plan, generator=self.generator.on_workers(), origin=self.model.origin)

    def _make(self, plan: Plan, progress: Callable[[int], None], parents: Parents | None) -> None:
        """What is missing of a plan, and generation.json. progress: called with the number of images made here."""
        from ray_synth.sampling.generate import generate_chunks

        made = 0

        def count(images: int) -> None:
            nonlocal made
            made += images
            progress(made)

        job = self.job(self.folder.absolute_url, plan)
        generate_chunks(self.folder, job, parents, progress=count, say=self.inputs.reporter.say)
        for _ in chunks.read_rows(self.folder, plan, ["key"]):
            pass  # reading checks that the keys are those of the plan
        self._write_generation(plan)

    def parents(self, folder: RunFolder, *, of_class: tuple[int, int] | None = None) -> Parents | None:
        """The real images that the generator or a filter looks at, with their captions and embeddings, which are kept
        in a run folder. of_class: of one class alone, and so many."""
        if not self.generator.uses_real_images and not self.experiment.generate.filter.near_copies:
            return None
        parents = self.model.parents(folder, of_class=of_class)
        for note in self.generator.described_notes(parents):
            self.inputs.reporter.say(f"{self.name}: {note}")
        return parents

    def _write_generation(self, plan: Plan) -> None:
        """generation.json: how many images were made and kept, and what was set aside, by reason and key."""
        counts, rejected = chunks.rejected_counts(self.folder, plan, listed=MAX_REJECTED_LISTED, first="killed_worker")
        made, origin = sum(map(len, chunks.finished_chunks(self.folder, plan))), self.model.origin
        generation = Generation(
            model_id=origin.model_id,
            model_revision=origin.model_revision,
            model_license=origin.model_license,
            images_per_class=plan.images_per_class,
            asked=sum(plan.images_per_class),
            made=made,
            kept=made - sum(counts.values()),
            rejected=counts,
            rejected_keys=tuple(Rejected(key=key, reason=reason) for key, reason in rejected),
        )
        self.folder.write_json(RECORD, generation.to_dict())
        self.folder.reseal(self.name, [RECORD])  # images that a trial asked for came when the stage was complete

    # Reading them.

    def result(self) -> Generation:
        """generation.json."""
        return self.folder.read_record(RECORD, Generation)

    def show(self) -> None:
        from ray_synth.tables import print_generation

        print_generation(self.result())

    def summary(self) -> Mapping[str, Any]:
        return {"num_real": int(self.inputs.real_counts.sum()), "num_generated": self.total}

    @property
    def all(self) -> ImageSource:
        """All synthetic images that are asked for so far, of several generators one after the other; found once for
        each number of them."""
        if self._read is None or len(self._read) < self.total:
            self._read = self._read_all()
        return self._read

    def of_generator(self, name: str | None) -> ImageSource:
        """All of one of several generators; all where no name is given."""
        return self.all if name is None else self.all.take(side_by_side(len(self.all), self.generators)[name])

    @property
    def pilot_images(self) -> ImageSource:
        """The synthetic images that the estimate looks at; of several generators one after the other."""
        images = self._listed() if self._pilot_is_a_part else self.all
        rows = [
            part.start + first_per_class(images.labels[part], self.pilot)
            for part in side_by_side(len(images), self.generators or ("",)).values()
        ]
        return images.take(np.concatenate(rows))

    def _read_all(self) -> ImageSource:
        images = self._listed()
        if self.experiment.data.selection == "random":
            return held(images)
        from ray_synth.estimate import leading_features
        from ray_synth.sampling.selection import covariance_order

        real, e = self.inputs.splits.train, self.experiment
        self.inputs.reporter.say(f"  choosing among {len(images):,} synthetic images by each class's covariance")
        ours, theirs = leading_features([real, images], features=self.inputs.seen_through, seed=e.seed)
        order = [
            rows.start + covariance_order(ours, real.labels, theirs[rows], images.labels[rows], seed=e.seed)
            for rows in side_by_side(len(images), self.generators or ("",)).values()
        ]
        return held(images.take(np.concatenate(order)))

    def _listed(self) -> ImageSource:
        """All that are asked for so far, not decoded, but for a comparison with what the classifier is judged on."""
        used = max((chunk.stop for chunk in chunks.finished_chunks(self.folder, self.images)), default=0)
        if self.generator.source and used > self._compared:
            # The files, not the chunks: these may hold them recompressed.
            for note in self._refuse_judged(used):
                self.inputs.reporter.say(f"  note: {note}")
        names, crop = self.inputs.class_names, self.experiment.data.crop
        return chunks.read_synthetic(self.folder, self.images, class_names=names, shape=self.inputs.shape, crop=crop)

    @property
    def filters(self) -> list[str]:
        """Names of those that look at the images."""
        return [name for name, on in self.experiment.generate.filter if on and name != "features"]

    def export(self, kind: str, figures: Mapping[str, Any]) -> str:
        """Write the kept images as one of `EXPORTS`; returns where in the run folder. figures: of summary.json."""
        from ray_synth import __version__
        from ray_synth.sampling.card import About
        from ray_synth.sampling.export import Exported, export_images

        origin, generate = self.model.origin, self.experiment.generate
        about = About(
            name=self.experiment.name,
            version=__version__,
            origins=[(each.model_id, each.model_revision, each.model_license) for each in origin.each or (origin,)],
            settings={} if self.generator.source else generate.model_dump(mode="json", include=DESCRIBED),
            filters=self.filters,
            rejected=self.result().rejected,
            figures=figures,
        )
        images = Exported(
            folder=self.folder,
            plan=self.images,
            class_names=self.inputs.class_names,
            extension=generate.format,
            about=about,
        )
        with self.inputs.reporter.stage("export", f"writing {self.total:,} images", self.total) as advance:
            return export_images(images, kind, progress=advance)

    # What it takes.

    def measured_with(self) -> Mapping[str, str | int]:
        e = self.experiment
        sampled = {"scheduler", "num_inference_steps", "guidance_scale", "batch_size", "filter", "format", "quality"}
        return {
            "generator": digest(e.generator.kind, said(e.generator, without={"steps"}), said(e.generate, only=sampled))
        }

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        generator, over = self.generator, gpu.overheads
        pixels = (generator.image_side / SD_SIDE) ** 2
        steps = generator.denoising_steps
        starts, image = over["tune_start"], over["read_image"]  # of files
        flops = generator.evaluation_flops() if steps else 0.0
        if flops:
            evaluations = steps * (2 if generator.guided else 1)
            image = gpu.small_network(flops).times(evaluations, note=f"{evaluations} evaluations an image")
        elif steps:
            starts, step = over["pool_start"], gpu.rates["step_compiled" if generator.pads_batches else "step"]
            decoder = gpu.flops["decoder_steps"]
            count = (steps * (1.0 if generator.guided else 0.5) + decoder.value) * pixels
            sigma = decoder.sigma * decoder.value * pixels / count
            note = f"{steps} steps and the decoder, {generator.image_side} pixels a side"
            image = step.times(count, sigma=sigma, note=note)
        return {
            "pool_start": starts,
            "chunk": over["chunk"],
            "image": image,
            "read_image": over["read_back"].times(pixels),
        }

    def calibrate(self, bench: Bench) -> None:
        from ray_synth.stages.bench_sampling import measure_reading, measure_sampling

        if bench.wants("image"):
            bench.start_ray()
            job = self.job(bench.folder.absolute_url, self.images_up_to(np.full(len(self.inputs.class_names), 10**6)))
            parents = self.parents(bench.folder, of_class=(0, 8))
            measure_sampling(bench, job, parents, self.experiment.generate, int(self.images_per_class.max()))
        if bench.wants("read_image"):
            measure_reading(bench, self.folder, self.images, self.generator)
