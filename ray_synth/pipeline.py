"""An experiment file in, a finished run folder out: the stages in order, each skipped when its digest is complete.

A stage's digest covers its settings and the content of what it reads, so it is known when its turn comes: whatever
changed upstream makes exactly those stages stale that depend on it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import (
    Diffusion,
    Experiment,
    ImageFolder,
    StableDiffusion,
    changed,
    digest,
    load_experiment,
    with_absolute_paths,
)
from ray_synth.data.images import ImageSet, first_per_class, synthetic_counts
from ray_synth.data.leaks import Prints, refuse_judged
from ray_synth.data.readers import NEEDS_RAY
from ray_synth.data.splits import Splits, read_splits
from ray_synth.errors import InputError
from ray_synth.generator import chunks
from ray_synth.generator.chunks import Plan
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.runtime import ray_session
from ray_synth.seeding import derive_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ray_synth.classifier.final import Training
    from ray_synth.generator.conditions import Parents
    from ray_synth.generator.kinds import Origin
    from ray_synth.sweep.ledger import Ledger
    from ray_synth.sweep.space import Space

STAGES = ("finetune", "generate", "estimate", "sweep", "train", "evaluate", "report")
EXPORTS = ("folder", "webdataset")
MAX_REJECTED_LISTED = 1000
REGIONS = "model/regions.json"
MAX_COMPARED = 20_000  # images of a folder that are looked at before anything starts
RESULTS = {"evaluate": ("metrics.json", "summary.json"), "report": ("report.html",)}


def run(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    until: str = "report",
    dry_run: bool = False,
    smoke: bool = False,
    export: str | None = None,
    extend: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Do what `ray-synth run` does, up to and including the stage `until`.

    Args:
        path: experiment file.
        out: run folder, a path or an fsspec URL; default `runs/NAME`.
        overrides: dotted key -> value, e.g. {"data.shots": 5}.
        dry_run: check everything, count what would be done, and write nothing.
        smoke: run the file in small, without its data and models, in `runs/NAME-smoke`; the figures mean nothing.
        export: also write the kept images to OUT/export, as `folder` or `webdataset`.
        extend: add so many trials to a finished sweep.

    Returns:
        summary.json, or the result of the last stage where it stops earlier.

    Raises:
        InputError: wrong input, found before anything starts.
        WorkError: a stage failed; what is finished is kept, and the next call continues.
    """
    if until not in STAGES:
        raise InputError(f"until must be one of {', '.join(STAGES)}, got {until!r}")
    if export is not None and export not in EXPORTS:
        raise InputError(f"--export takes {' or '.join(EXPORTS)}, got {export!r}; type --export folder")
    experiment, reporter = load_experiment(path, overrides, seed=seed), reporter or Reporter()
    if smoke:
        from ray_synth.smoke import WARNING, shrunk, tiny_models

        reporter.say(WARNING)
        experiment = shrunk(experiment, tiny_models(experiment))
    job = Run(experiment, RunFolder(out if out is not None else Path("runs") / experiment.name), reporter)
    if dry_run:
        return job.check()
    result = job.perform(until, extend=extend)
    if export is not None:
        job.export(export)
    return result


@dataclass(frozen=True)
class Stage:
    """One stage when its turn has come. `plan` says what it will do, with counts; `total` is what its bar counts to."""

    digest: str
    outputs: tuple[str, ...]
    plan: str
    total: int
    work: Callable[[Callable[[int], None]], None]
    ready: bool = True  # False: the record may say complete, but more is asked for now
    named_by_content: bool = False  # the outputs' own names say of which settings they are


class Run:
    """One experiment in one run folder."""

    _read: ImageSet | None = None
    compared = 0  # images of each class of a folder that were compared with validation and test

    def __init__(self, experiment: Experiment, folder: RunFolder, reporter: Reporter):
        self.experiment, self.folder, self.reporter = experiment, folder, reporter
        with ExitStack() as opened:
            if experiment.data.kind in NEEDS_RAY:  # kept for the stages: starting it takes seconds
                opened.enter_context(ray_session())
            self.splits: Splits = read_splits(experiment.data, experiment.seed)
            self.sets = self.splits.named()
            self._check_classifier()
            self._check_generator()
            self.resources = opened.pop_all()

    def _check_classifier(self) -> None:
        import torch

        from ray_synth.classifier.final import check_workers
        from ray_synth.classifier.models import check_model
        from ray_synth.clip import OpenClip
        from ray_synth.sweep.places import Places

        e = self.experiment
        shape: tuple[int, int, int] = self.splits.train.images.shape[1:]
        check_model(e.classifier, shape)
        for name, choice in self._choices("model", "weights", "image_size"):
            try:
                check_model(changed(e.classifier, {name: choice}), shape)
            except InputError as error:
                raise InputError(f"sweep.space.{name}: {choice!r} does not do: {error}") from None
        if e.partition.encoder:
            OpenClip(*e.partition.encoder)  # loads it: weights that do not fit would fail in every trial
        if not os.environ.get("RAY_ADDRESS"):
            cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
            Places.of(e.sweep, cpus=cpus, gpus=gpus)
            if not gpus:
                check_workers(e.classifier.num_workers, cpus)
        self._space()
        samples = len(self.splits.train) + self.most_images * len(self.class_names)
        if e.partition.clusters(len(self.class_names)) > samples:
            raise InputError(
                f"partition.num_clusters must be at most {samples:,}, the real and synthetic images, "
                f"got {e.partition.clusters(len(self.class_names)):,}; "
                f"type --set partition.num_clusters={2 * len(self.class_names)}"
            )

    def _check_generator(self) -> None:
        from ray_synth.generator.kinds import check_generator

        e = self.experiment
        shape: tuple[int, int, int] = self.splits.train.images.shape[1:]
        self.notes = [
            *self.splits.notes,
            *check_generator(e.generator, e.generate, class_names=self.class_names, shape=shape),
        ]
        self.notes += self._check_synthetic()
        self.captions: dict[str, str] | None = None
        if isinstance(e.generator, StableDiffusion) and e.generator.captions and e.generator.captions.path:
            from ray_synth.generator.describe import read_captions

            self.captions = read_captions(e.generator.captions.path, self.splits.generator, e.data.path)

    def _check_synthetic(self) -> list[str]:
        """Images that exist already may be those that the classifier is judged on: refused. Returns notes.

        A look at some, before anything starts; what it leaves out is compared when the images are read.
        """
        generator = self.experiment.generator
        if not isinstance(generator, ImageFolder) or self.folder.is_complete("generate", self.plan.chunk_digest):
            return []
        self.compared = max(1, MAX_COMPARED // len(self.class_names))  # may be more than are asked: some are rejected
        partly = (
            f"the first {self.compared:,} synthetic images per class were compared with validation and test; the rest "
            "will be when they are used"
        )
        notes = self._refuse_judged(generator, self.compared)
        return notes + ([partly] if self.compared < self.images_per_class else [])

    def _refuse_judged(self, generator: ImageFolder, each: int) -> list[str]:
        from ray_synth.generator.image_folder import folder_prints

        shape: tuple[int, int, int] = self.splits.train.images.shape[1:]
        synthetic = folder_prints(generator.path, self.class_names, each, shape, crop=self.experiment.data.crop)
        return refuse_judged(synthetic, {name: Prints.of(self.sets[name]) for name in ("validation", "test")})

    # What is known before anything starts.

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        return {name: images.digest() for name, images in self.sets.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.splits.train.class_names

    @functools.cached_property
    def real_counts(self) -> np.ndarray:
        return np.bincount(self.splits.train.labels, minlength=len(self.class_names))

    @functools.cached_property
    def most_images(self) -> int:
        """Synthetic images per class at most: those asked for, or what the largest ratio needs and there can be."""
        e = self.experiment
        if e.generate.images_per_class is not None:
            return e.generate.images_per_class
        limit = max(e.sweep.top_ratio, e.estimate.max_ratio, e.estimate.pilot_ratio)
        return min([int(np.ceil(limit * self.real_counts.max())), *(self._base_plan.available or ())])

    @property
    def images_per_class(self) -> int:
        """Those asked for; else the pilot of the estimate, and what trials needed since."""
        return self.experiment.generate.images_per_class or max(self.pilot.max(), self._grown)

    @functools.cached_property
    def _grown(self) -> int:
        """Images per class that were made for trials."""
        record = self.folder.stage("generate")
        if record is None or not record.complete or record.digest != self._base_plan.chunk_digest:
            return 0
        return int(self.folder.read_json("generation.json").get("images_per_class", 0))

    @property
    def pilot(self) -> np.ndarray:
        """Synthetic images of each class that the estimate looks at."""
        wanted = synthetic_counts(self.real_counts, self.experiment.estimate.pilot_ratio)
        return np.clip(wanted, 1, self.most_images)

    @property
    def num_synthetic(self) -> int:
        return self.images_per_class * len(self.class_names)

    @functools.cached_property
    def origin(self) -> Origin:
        """What the generator is: for one that this run trains, the digest of its settings and training images."""
        from ray_synth.generator.kinds import origin_of, pixel_settings

        e = self.experiment
        trained = digest("finetune", pixel_settings(e.generator), e.seed, self.digests["generator"])
        return origin_of(e.generator, class_names=self.class_names, trained=trained)

    @property
    def plan(self) -> Plan:
        """The synthetic images that are asked for."""
        return dataclasses.replace(self._base_plan, images_per_class=self.images_per_class)

    @functools.cached_property
    def _base_plan(self) -> Plan:
        """The plan but for the number. Its digests cover what an image is a function of, and no more."""
        from ray_synth.generator.kinds import available_images, file_settings, pixel_settings, sampling_settings

        e = self.experiment
        looks_at_real = isinstance(e.generator, StableDiffusion) and e.generator.uses_real_images
        generator_digest = digest(
            "generate",
            pixel_settings(e.generator),
            self.origin.model_revision,
            self.origin.parts,
            sampling_settings(e.generate),
            e.seed,
            list(self.class_names),
            self.digests["generator"] if looks_at_real else None,
        )
        chunk_digest = digest(
            generator_digest,
            file_settings(e.generate),
            self.digests["generator"] if e.generate.filter.near_copies else None,
        )
        return chunks.Plan(
            generator_digest=generator_digest,
            chunk_digest=chunk_digest,
            num_classes=len(self.class_names),
            images_per_class=0,
            chunk_size=e.generate.chunk_size,
            max_attempts=e.generate.max_attempts,
            available=available_images(e.generator, self.class_names),
        )

    @property
    def synthetic_digest(self) -> str:
        """Of the synthetic images as they are trained on: the chunks, and how they are brought to the real ones' size.

        The digests of the real images need not say the latter, which may be square already.
        """
        return digest(self.plan.chunk_digest, "crop") if self.experiment.data.crop else self.plan.chunk_digest

    @functools.cached_property
    def classifier_files(self) -> list[str]:
        """What lies in the files that the classifier starts from and that its regions are seen through."""
        from ray_synth.generator.pretrained import content_digest

        weights, features = self.experiment.classifier.weights, self.experiment.partition.encoder
        searched = [choice for _, choice in self._choices("weights")]
        return [content_digest(Path(file)) for file in (weights, features and features[1], *searched) if file]

    def _choices(self, *names: str) -> list[tuple[str, Any]]:
        """What the sweep may choose for these settings: (name, choice)."""
        searched = self.experiment.sweep.searched
        return [(name, choice) for name in names if name in searched for choice in searched[name].choices or ()]

    def max_ratio(self, limit: float) -> float:
        """The largest ratio up to `limit` for which every class has enough synthetic images."""
        return min(limit, self.most_images / int(self.real_counts.max()))

    def check(self) -> dict[str, Any]:
        """Say what would be done, and write nothing."""
        with self.resources:
            self.folder.check_free_for(self.experiment)
            self.reporter.say(self._overview())
        return {"name": self.experiment.name, "stages": list(STAGES), "sets": {n: len(s) for n, s in self.sets.items()}}

    def _overview(self) -> str:
        e = self.experiment
        sets = ", ".join(f"{len(images):,} {name}" for name, images in self.sets.items())
        trainings = 3 * e.evaluate.repeats
        budget = (
            f"{e.classifier.updates:,} updates" if e.classifier.budget == "updates" else f"{e.classifier.epochs} epochs"
        )
        trains = isinstance(e.generator, Diffusion)
        lines = [
            f"{e.name}: {len(self.class_names)} classes; real images: {sets}",
            f"  generator   {e.generator.steps:,} training steps"
            if trains
            else f"  generator   {self.origin.model_id}",
            f"  images      {self.num_synthetic:,} synthetic"
            + (", more when a trial needs them" if e.generate.images_per_class is None else "")
            + f", ratios 0 to {self.max_ratio(e.sweep.top_ratio):g}",
            f"  sweep       {e.sweep.num_trials} trials of at most {budget}"
            + (f", {e.sweep.repeats} seeds each" if e.sweep.repeats > 1 else ""),
            f"  final       {trainings} trainings of {budget}, then the test set is read once",
        ]
        wanted = min(e.sweep.top_ratio, e.estimate.max_ratio)
        if self.max_ratio(wanted) < wanted:
            need = int(np.ceil(wanted * self.real_counts.max()))
            lines.append(
                f"  note: ratio {wanted:g} needs {need} images per class; "
                f"type --set generate.images_per_class={need} to search it"
            )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    # The work.

    def perform(self, until: str, *, extend: int | None = None) -> dict[str, Any]:
        done = 0
        with self.resources:
            if extend is not None:
                self.folder.check_free_for(self.experiment)
                self._extend(extend)
            moved = self.folder.open_for(self.experiment)
            self.reporter.log_to(self.folder)
            self.reporter.log(f"--- {self.experiment.name}, until {until}")
            self._report_moved(moved)
            self._write_splits()
            for name in STAGES[: STAGES.index(until) + 1]:
                stage: Stage = getattr(self, f"_{name}")()
                if stage.ready and self.folder.is_complete(name, stage.digest):
                    continue
                if not done:
                    self.reporter.say(self._overview())
                done += 1
                self._set_results_aside(name, stage)
                with self.folder.working_on(
                    name, stage.digest, stage.outputs, named_by_content=stage.named_by_content
                ) as moved:
                    self._report_moved(moved)
                    with self.reporter.stage(name, stage.plan, stage.total) as advance:
                        stage.work(advance)
        if not done:
            self.reporter.say(f"{self.experiment.name}: everything up to {until} is complete in {self.folder.url}")
        return self._result(until)

    def _result(self, until: str) -> dict[str, Any]:
        if until in ("evaluate", "report"):
            self._write_summary()
            summary: dict[str, Any] = self.folder.read_json("summary.json")
            return summary
        if until == "estimate":
            return self._estimated()
        if until == "sweep":
            return self._swept()
        if until == "generate":
            generation: dict[str, Any] = self.folder.read_json("generation.json")
            return generation
        return {"stage": until, "folder": self.folder.url}

    def export(self, kind: str) -> None:
        from ray_synth.generator.export import export_images

        with self.reporter.stage("export", f"writing {self.num_synthetic:,} images", self.num_synthetic) as advance:
            place = export_images(
                self.folder,
                self.plan,
                kind,
                class_names=self.class_names,
                extension=self.experiment.generate.format,
                progress=advance,
            )
        self.reporter.say(f"images: {self.folder.url}/{place}")

    def _set_results_aside(self, name: str, stage: Stage) -> None:
        """Before a stage is redone with other settings: figures of the old ones must not stand beside it."""
        before = self.folder.stage(name)
        if before is not None and before.digest != stage.digest:
            later = STAGES[STAGES.index(name) :]
            results = [file for stage_name, files in RESULTS.items() if stage_name in later for file in files]
            self._report_moved(self.folder.set_aside(results, "results"))

    def _report_moved(self, moved: list[str]) -> None:
        if moved:
            self.reporter.say(f"settings changed: moved the old {', '.join(moved)} to {self.folder.url}/stale/")

    def _write_splits(self) -> None:
        content = {
            "digests": self.digests,
            "generator_split": self.experiment.data.generator_split,
            "keys": {name: images.keys() for name, images in self.sets.items()},
        }
        if self.folder.exists("splits.json"):
            if self.folder.read_json("splits.json") == content:
                return
            self.folder.set_aside(["splits.json"], "splits")
        self.folder.write_json("splits.json", content)

    def _ray(self) -> None:
        """Ray is started by the first stage that needs it, and stopped at the end of the run."""
        import ray

        if not ray.is_initialized():
            self.resources.enter_context(ray_session())

    def _finetune(self) -> Stage:
        from ray_synth.generator.artifacts import WEIGHTS

        settings = self.experiment.generator
        origin = self.origin
        trains = isinstance(settings, Diffusion)

        def work(advance: Callable[[int], None]) -> None:
            record = {"model_id": origin.model_id, "model_revision": origin.model_revision}
            if isinstance(settings, Diffusion):
                from ray_synth.generator.finetune import finetune

                finetune(
                    self.folder,
                    self.splits.generator,
                    settings,
                    seed=derive_seed("finetune", self.experiment.seed),
                    progress=advance,
                )
                record["weights_sha256"] = hashlib.sha256(self.folder.read(WEIGHTS)).hexdigest()
            else:
                record |= {"model_license": origin.model_license, **origin.parts}
            self.folder.write_json("generator/digest.json", record)

        return Stage(
            digest("finetune", origin.model_revision, origin.parts),
            ("generator",),
            f"training the generator on {len(self.splits.generator):,} images"
            if trains
            else f"nothing to train: {origin.model_id} as it is",
            settings.steps if isinstance(settings, Diffusion) else 1,
            work,
            ready=self.folder.exists(WEIGHTS if trains else "generator/digest.json"),
        )

    def _generate(self) -> Stage:
        finished = chunks.finished_chunks(self.folder, self.plan)
        work_left = chunks.work_left(finished, self.plan)
        total, missing = self.num_synthetic, work_left.missing
        there = min(max(0, total - work_left.num_images), sum(len(chunk) - chunk.rejected for chunk in finished))

        def work(advance: Callable[[int], None]) -> None:
            advance(there)
            if missing:  # else it was killed between the last chunk and the record
                self._ray()
            self._make_images(self.plan, lambda made: advance(there + made), self._parents() if missing else None)

        plan = f"generating {work_left.num_images:,} images in {len(missing):,} chunks" + (
            f"; {there:,} are there" if there else ""
        )
        return Stage(
            self.plan.chunk_digest,
            ("synthetic", "generation.json"),
            plan,
            total,
            work,
            ready=not missing and not work_left.short,
            named_by_content=True,
        )

    def _make_images(self, plan: Plan, progress: Callable[[int], None], parents: Parents | None) -> None:
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
            class_names=self.class_names,
            origin=self.origin,
        )
        generate_chunks(self.folder, job, parents, progress=count, say=self.reporter.say)
        for _ in chunks.read_rows(self.folder, plan, ["key"]):
            pass  # reading checks that the keys are those of the plan
        self._write_generation(plan)

    def images_for(self, ratio: float) -> ImageSet:
        """The synthetic images, enough of them for a ratio: where a trial needs more than there are, they are made."""
        needed = int(synthetic_counts(self.real_counts, ratio).max())
        if needed > self.images_per_class:
            more = (needed - self.images_per_class) * len(self.class_names)
            self.reporter.say(f"generate: {more:,} more images, for a trial at ratio {ratio:g}")
            self._ray()
            self._make_images(
                dataclasses.replace(self._base_plan, images_per_class=needed), lambda made: None, self._parents()
            )
            self._grown = needed
        return self._synthetic

    def _parents(self) -> Parents | None:
        """The real images that the generator or a filter looks at, with their captions and embeddings."""
        from ray_synth.generator.conditions import Parents

        settings = self.experiment.generator
        conditioned = isinstance(settings, StableDiffusion) and settings.uses_real_images
        if not conditioned and not self.experiment.generate.filter.near_copies:
            return None
        parents = Parents.of(self.splits.generator)
        if isinstance(settings, StableDiffusion) and conditioned:
            from ray_synth.generator.describe import described_parents
            from ray_synth.generator.kinds import captioned_prompts, long_prompts

            parents = described_parents(
                self.folder, parents, with_absolute_paths(settings), self.captions, self.origin.parts
            )
            if parents.captions is not None:
                prompts = captioned_prompts(settings, self.class_names, parents.labels.tolist(), parents.captions)
                for note in long_prompts(settings, prompts):
                    self.reporter.say(f"generate: {note}")
        return parents

    def _write_generation(self, plan: Plan) -> None:
        """generation.json: how many images were made and kept, and what was set aside, by reason and key."""
        counts, rejected = chunks.rejected_counts(self.folder, plan, listed=MAX_REJECTED_LISTED, first="killed_worker")
        made = sum(map(len, chunks.finished_chunks(self.folder, plan)))
        shown = [{"key": key, "reason": reason} for key, reason in rejected]
        self.folder.write_json(
            "generation.json",
            {
                "model_id": self.origin.model_id,
                "model_revision": self.origin.model_revision,
                "model_license": self.origin.model_license,
                "images_per_class": plan.images_per_class,
                "asked": plan.images_per_class * plan.num_classes,
                "made": made,
                "kept": made - sum(counts.values()),
                "rejected": counts,
                "rejected_keys": shown,
            },
        )

    @property
    def _synthetic(self) -> ImageSet:
        """All synthetic images that are asked for so far; read once for each number of them."""
        if self._read is None or len(self._read) < self.num_synthetic:
            self._read = self._read_synthetic()
        return self._read

    def _read_synthetic(self) -> ImageSet:
        generator = self.experiment.generator
        used = max((chunk.stop for chunk in chunks.finished_chunks(self.folder, self.plan)), default=0)
        if isinstance(generator, ImageFolder) and used > self.compared:
            # The files, not the chunks: these may hold them recompressed.
            for note in self._refuse_judged(generator, used):
                self.reporter.say(f"  note: {note}")
        return chunks.read_synthetic(
            self.folder,
            self.plan,
            class_names=self.class_names,
            shape=self.splits.train.images.shape[1:],
            crop=self.experiment.data.crop,
        )

    def _estimate(self) -> Stage:
        settings, classifier = self.experiment.estimate, self.experiment.classifier
        real_weight = classifier.real_weight if classifier.weighting == "fixed" else None
        limit = self.max_ratio(settings.max_ratio)
        pilot = self.pilot
        seed = derive_seed("estimate", self.experiment.seed) % 2**32

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.bound.estimator import estimate_ratio

            real, synthetic = self.splits.train, self._synthetic
            rows = first_per_class(synthetic.labels, pilot)
            estimate = estimate_ratio(
                real.images,
                real.labels,
                synthetic.images[rows],
                synthetic.labels[rows],
                max_ratio=limit,
                real_weight=real_weight,
                confidence=settings.confidence,
                seed=seed,
            )
            self.folder.write_json("estimate.json", estimate.to_dict())
            advance(1)

        plan = f"predicting the ratio from {self.real_counts.sum():,} real and {pilot.sum():,} synthetic images"
        stage_digest = digest(
            "estimate",
            settings,
            limit,
            real_weight,
            seed,
            pilot.tolist(),
            self.synthetic_digest,
            self.digests["train"],
        )
        return Stage(stage_digest, ("estimate.json",), plan, 1, work)

    def _estimated(self) -> dict[str, Any]:
        estimate: dict[str, Any] = self.folder.read_json("estimate.json")
        return estimate

    def _predicted_ratio(self) -> float:
        return min(float(self._estimated()["ratio"]), self.max_ratio(self.experiment.estimate.max_ratio))

    def _sweep(self) -> Stage:
        from ray_synth.sweep import tuner
        from ray_synth.sweep.ledger import Ledger

        e = self.experiment
        limit = self.max_ratio(e.sweep.top_ratio)
        prediction = self._estimated()
        told = {
            "none": (),
            "points": ("ratio", "interval"),
            "distribution": ("ratio", "interval", "curve", "confidence"),
        }
        estimate = {name: prediction[name] for name in told[e.sweep.prior]}

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.report.search import trial_events
            from ray_synth.report.trials import live_table, trial_line

            self._ray()
            kept = [trial for trial in Ledger(self.folder).trials if not trial.again]
            logged = {trial.trial_id for trial in kept if self.folder.exists(_events(trial.trial_id))}

            def show(ledger: Ledger, running: Mapping[str, Any]) -> None:
                advance(len(ledger.ended))
                for trial_id in ledger.ended.keys() - logged:
                    self.reporter.log(trial_line(ledger.ended[trial_id], e.sweep.metric))
                    self.folder.write(_events(trial_id), trial_events(ledger.ended[trial_id]))
                    logged.add(trial_id)
                self.reporter.below(live_table(ledger.trials, running, e.sweep.metric))

            tuner.run_sweep(
                self.folder,
                with_absolute_paths(e),
                self.splits.train,
                self.splits.validation,
                self.images_for,
                estimate=estimate or None,
                max_ratio=limit,
                shown=show,
            )
            self._draw_search()

        stage_digest = digest(
            "sweep",
            e.sweep.model_dump(mode="json", exclude={"num_trials", "concurrency", "tolerance", "gpus_per_trial"}),
            e.classifier.model_dump(mode="json", exclude={"num_workers"}),
            e.partition,
            self.classifier_files,
            e.data.use_real,
            e.seed,
            limit,
            estimate,
            self.synthetic_digest,
            self.digests["train"],
            self.digests["validation"],
        )
        ledger, record = Ledger(self.folder), self.folder.stage("sweep")
        if record is not None and record.digest != stage_digest:
            ledger.forget()  # of other settings: it will be set aside
        ended, total = len(ledger.ended), self._total(ledger)
        searched = ", ".join(dict.fromkeys(("synthetic_ratio", *e.sweep.searched)))
        plan = f"{total} trials of {searched}" + (f"; {ended} are there" if ended else "")
        return Stage(stage_digest, ("sweep",), plan, total, work, ready=ended >= total)

    def _swept(self) -> dict[str, Any]:
        """What the sweep found: the best trial, the cheapest good one, and the best of the others."""
        from ray_synth.sweep.ledger import best_trial, cheapest_trial, read_trials

        trials, settings = read_trials(self.folder), self.experiment.sweep
        best = best_trial(trials, settings.metric)
        return {
            "folder": self.folder.url,
            "metric": settings.metric,
            "tolerance": settings.tolerance,
            "trials": trials,
            "best": best,
            "cheapest": cheapest_trial(trials, settings.tolerance, settings.metric),
        }

    def _extend(self, trials: int) -> None:
        """Ask for more trials of a finished sweep. One that is still to be finished goes on first, so that the same
        command continues an extension that was killed."""
        from ray_synth.sweep.ledger import Ledger

        record = self.folder.stage("sweep")
        predicted = self.folder.exists("estimate.json")
        if record is None or not predicted or record.digest != self._sweep().digest:
            raise InputError(
                f"--extend adds trials to a finished sweep, and {self.folder.url} holds none with these settings; "
                "leave --extend out first"
            )
        ledger = Ledger(self.folder)
        ended, total = len(ledger.ended), self._total(ledger)
        if not record.complete or ended < total:
            self.reporter.say(
                f"--extend: the sweep has {ended} of {total} trials; these are finished, and none is added"
            )
            return
        ledger.target = total + trials
        if self._total(ledger) == total:
            raise InputError(f"--extend: sweep.space holds no other setting than the {total} that were tried")
        ledger.extend(total + trials)

    def _draw_search(self) -> None:
        """Pictures beside the table, for who asks for the sweep alone."""
        from ray_synth.report.plots import as_svg, ratio_curve
        from ray_synth.sweep.ledger import best_trial, read_trials

        trials = read_trials(self.folder)
        best = best_trial(trials, self.experiment.sweep.metric).setting.synthetic_ratio
        curve = ratio_curve(self._estimated(), trials, best, self._predicted_ratio())
        for name, figure in (("ratio", curve), ("search", self._search_picture())):
            self.folder.write(f"sweep/{name}.svg", as_svg(figure).encode())

    def _search_picture(self) -> Figure:
        from ray_synth.report.search import search_picture
        from ray_synth.sweep.ledger import Ledger
        from ray_synth.sweep.search import importances

        ledger, metric = Ledger(self.folder), self.experiment.sweep.metric
        return search_picture(ledger.trials, importances(ledger, self._space(), metric), metric)

    def _space(self) -> Space:
        from ray_synth.sweep.space import Space

        e = with_absolute_paths(self.experiment)  # as the trials have it
        return Space(e, num_classes=len(self.class_names), max_ratio=self.max_ratio(e.sweep.top_ratio))

    def _total(self, ledger: Ledger) -> int:
        """Trials in the end: those asked for, those a sweep was extended to, or all that there are to choose from."""
        from ray_synth.sweep.search import Search

        estimate = self._estimated() if self.folder.exists("estimate.json") else None
        return Search.total_of(ledger, with_absolute_paths(self.experiment), self._space(), estimate)

    def _settings(self) -> dict[str, Any]:
        """The three settings that are compared at the end, by name."""
        from ray_synth.sweep.ledger import best_trial, read_trials
        from ray_synth.sweep.space import default_setting

        e, classes = with_absolute_paths(self.experiment), len(self.class_names)
        return {
            "real_only": default_setting(e, classes, 0.0),
            "at_predicted": default_setting(e, classes, self._predicted_ratio()),
            "best": best_trial(read_trials(self.folder), e.sweep.metric).setting,
        }

    def _trainings(self) -> Iterator[Any]:
        from ray_synth.classifier.final import Training

        for name, setting in self._settings().items():
            for repeat in range(self.experiment.evaluate.repeats):
                arguments = {
                    "setting": setting,
                    "seed": derive_seed("final", self.experiment.seed, repeat),
                    "diagnosed": repeat == 0,
                }
                yield Training(name=f"{name}-{repeat}", arguments=arguments)

    def _train(self) -> Stage:
        e = self.experiment
        trainings = list(self._trainings())

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.classifier import final
            from ray_synth.sweep.trial import known_features, train_setting

            self._ray()
            settings = self._settings()
            synthetic = self.images_for(max(setting.synthetic_ratio for setting in settings.values()))
            self.folder.write_json("model/settings.json", {k: s.to_dict() for k, s in settings.items()})
            train = functools.partial(
                train_setting,
                experiment=with_absolute_paths(e),
                real=self.splits.train,
                synthetic=synthetic,
                validation=self.splits.validation,
                features=known_features(e, self.splits.train, synthetic),
            )
            final.train_final(self.folder, trainings, train, num_workers=e.classifier.num_workers, progress=advance)
            best = [t for t in trainings if t.name.startswith("best-")]
            classifier = settings["best"].applied_to(e.classifier)
            loaded = [final.load_run(self.folder, t, classifier, self.splits.train) for t in best]
            model, accuracy = max(loaded, key=lambda pair: pair[1])
            description = {
                "classifier": classifier.model_dump(mode="json"),
                "shape": list(self.splits.train.images.shape[1:]),
                "class_names": list(self.class_names),
                "setting": settings["best"].to_dict(),
                "validation_accuracy": accuracy,
            }
            final.save_classifier(self.folder, model, description)
            self._write_regions(best[0])
            advance(len(trainings))

        stage_digest = digest(
            "train",
            [[t.name, t.arguments["setting"].to_dict(), t.arguments["seed"]] for t in trainings],
            e.classifier,
            e.partition,
            self.classifier_files,
            e.data.use_real,
            e.seed,
            self.synthetic_digest,
            self.digests["train"],
            self.digests["validation"],
        )
        plan = "final trainings: real only, at the predicted ratio, at the swept best"
        return Stage(stage_digest, ("model",), plan, len(trainings), work)

    def _write_regions(self, best: Training) -> None:
        """The regions of the best setting: which image lies in which, by key, and what they are like."""
        self.folder.write("model/regions.parquet", self.folder.read(best.regions))
        self.folder.write_json(REGIONS, self.folder.read_json(best.region_report))

    def _histories(self) -> dict[str, Any]:
        """What was measured while the first training of each setting ran."""
        files = {t.name.rsplit("-", 1)[0]: t.history for t in self._trainings() if t.arguments["diagnosed"]}
        return {name: self.folder.read_json(file) for name, file in files.items() if self.folder.exists(file)}

    def _evaluate(self) -> Stage:
        e = self.experiment
        trained = self.folder.stage("train")

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.classifier.final import load_run
            from ray_synth.evaluation.accuracy import final_accuracy
            from ray_synth.evaluation.fidelity import label_fidelity, spectral_distance

            models = (
                (training.name.rsplit("-", 1)[0], load_run(self.folder, training, classifier, self.splits.train)[0])
                for training in self._trainings()
                for classifier in [training.arguments["setting"].applied_to(e.classifier)]
            )  # one at a time
            metrics = dict(final_accuracy(models, self.splits.test))
            advance(1)
            judge_train = self._all_but_test()
            metrics |= label_fidelity(judge_train, self.splits.test, self._synthetic, seed=derive_seed("judge", e.seed))
            advance(2)
            metrics |= spectral_distance(self.splits.train, self._synthetic)
            self.folder.write_json("metrics.json", {k: v for k, v in metrics.items() if np.isfinite(v)})
            self._write_summary()
            advance(3)

        plan = f"reading the {len(self.splits.test):,} test images, once"
        stage_digest = digest(
            "evaluate", trained.digest if trained else "", self.digests, self.images_per_class, e.seed
        )
        return Stage(stage_digest, RESULTS["evaluate"], plan, 3, work)

    def _all_but_test(self) -> ImageSet:
        names = ("train", "validation") + (("generator",) if self.experiment.data.generator_split == "disjoint" else ())
        return ImageSet(
            images=np.concatenate([self.sets[name].images for name in names]),
            labels=np.concatenate([self.sets[name].labels for name in names]),
            class_names=self.class_names,
        )

    def _write_summary(self) -> None:
        """summary.json from what the other files say; untouched when it says the same already."""
        from ray_synth.sweep.ledger import cheapest_trial, read_trials

        estimate, metrics = self._estimated(), self.folder.read_json("metrics.json")
        settings = self.folder.read_json("model/settings.json")  # as trained
        records = {name: self.folder.stage(name) for name in STAGES}
        names = tuple(settings)
        trials, search = read_trials(self.folder), self.experiment.sweep
        cheapest = cheapest_trial(trials, search.tolerance, search.metric)
        summary = {
            "name": self.experiment.name,
            "predicted_ratio": self._predicted_ratio(),
            "interval": estimate["interval"],
            "verdict": estimate["verdict"],
            "best_ratio": settings["best"]["synthetic_ratio"],
            "best_setting": settings["best"],
            "accuracy": {name: metrics[f"accuracy/{name}"] for name in names},
            "accuracy_std": {name: metrics[f"accuracy/{name}/std"] for name in names},
            "repeats": self.experiment.evaluate.repeats,
            "label_fidelity": metrics["label_fidelity"],
            "num_real": int(self.real_counts.sum()),
            "num_generated": self.num_synthetic,
            "num_trials": len(trials),
            "cheapest": {"trial_id": cheapest.trial_id, "tolerance": search.tolerance, **cheapest.setting.to_dict()},
            "seconds": {name: record.seconds for name, record in records.items() if record and record.complete},
        }
        if self.folder.exists("summary.json"):
            before = self.folder.read_json("summary.json")
            if before == summary:
                return
            if before | {"seconds": {}} != summary | {"seconds": {}}:
                self._report_moved(self.folder.set_aside(["summary.json"], "results"))
        self.folder.write_json("summary.json", summary)

    def _report(self) -> Stage:
        from ray_synth.sweep.ledger import LEDGER, read_trials

        self._write_summary()
        summary = self.folder.read_json("summary.json")

        def work(advance: Callable[[int], None]) -> None:
            from ray_synth.report.html import write_report

            write_report(
                self.folder,
                summary=summary,
                generation=self.folder.read_json("generation.json"),
                estimate=self._estimated(),
                metrics=self.folder.read_json("metrics.json"),
                trials=read_trials(self.folder),
                real=self.splits.generator,
                synthetic=self._synthetic,
                settings=self.experiment.model_dump(mode="json"),
                histories=self._histories(),
                regions=self.folder.read_json(REGIONS),
                search=self._search_picture(),
            )
            advance(1)

        stage_digest = digest(
            "report",
            summary | {"seconds": {}},
            self.folder.read_json("metrics.json"),
            self.folder.read_json("generation.json"),
            self._estimated(),
            hashlib.sha256(self.folder.read(LEDGER)).hexdigest(),
        )
        return Stage(stage_digest, RESULTS["report"], "writing report.html", 1, work)


def _events(trial_id: str) -> str:
    """What TensorBoard reads of a trial."""
    return f"sweep/tensorboard/{trial_id}/events.out.tfevents.0.{trial_id}"
