"""A checked experiment and how many images its sets hold in, the work of every stage as counts out. Writes nothing.

What is complete in the run folder is not counted again, by the stages' own digests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import Diffusion, Experiment, ImageFolder, StableDiffusion
from ray_synth.planning.sizes import Sizes, sizes_of
from ray_synth.seeding import derive_seed
from ray_synth.stages.inputs import STAGES

if TYPE_CHECKING:
    from ray_synth.pipeline import Run
    from ray_synth.stages.inputs import Stage

SD_SIDE = 512  # of Stable Diffusion where the file does not say
# Bytes a pixel of an image file. jpeg: 110 kB of 512x512 (sweeps/imagenet.yaml); png, webp: reckoned from it.
BYTES_PER_PIXEL = {"jpeg": 0.42, "png": 1.7, "webp": 0.35}
CHUNK_BYTES = 5_000  # of a parquet file around its images: columns, schema


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: real and synthetic images, and its optimizer updates."""

    ratio: float
    real: int
    synthetic: int
    updates: int

    @property
    def images(self) -> int:
        return self.real + self.synthetic

    @property
    def both(self) -> bool:
        return self.real > 0 and self.synthetic > 0


@dataclass(frozen=True, kw_only=True)
class SweepWork:
    """Trials in their order. `free` of them, the first, are never stopped early; later ones at `rungs`, shares of a
    training, of which each lets 1 / factor go on at least, and `most_kept` at most."""

    trials: tuple[Training, ...]
    repeats: int
    evaluations: int
    rungs: tuple[float, ...]
    least_kept: float
    most_kept: float
    workers_per_trial: int
    gpus_per_trial: float
    concurrency: int | None

    @property
    def bound(self) -> int:
        """Updates if no trial were stopped early."""
        return self.repeats * sum(trial.updates for trial in self.trials)

    def free(self, slots: int) -> int:
        """Trials that are proposed before there is anything to stop them by."""
        return 2 * slots

    def expected(self, slots: int, kept: float | None = None) -> float:
        """Updates after early stops. kept: share that goes on at a rung; default the middle of what is thought of."""
        kept = (self.least_kept + self.most_kept) / 2 if kept is None else kept
        shares = [1.0 if k < self.free(slots) else expected_share(self.rungs, kept) for k in range(len(self.trials))]
        return self.repeats * float(np.dot(shares, [trial.updates for trial in self.trials]))


def expected_share(rungs: tuple[float, ...], kept: float) -> float:
    """What part of a training is done on average when a share `kept` goes on at each rung."""
    share, alive, before = 0.0, 1.0, 0.0
    for rung in rungs:
        share, alive, before = share + alive * (rung - before), alive * kept, rung
    return share + alive * (1 - before)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left to do, stage by stage."""

    name: str
    sizes: Sizes
    complete: tuple[str, ...] = ()
    generator_steps: int = 0
    generator_batch: int = 0
    images: int = 0
    chunks: int = 0
    chunk_size: int = 1
    steps_per_image: int = 0
    image_bytes: float = 0.0
    images_there: int = 0
    max_actors: int | None = None
    gpus_per_actor: float = 1.0
    pilot: int = 0
    sweep: SweepWork | None = None
    whole_sweep: SweepWork | None = None  # whatever is done already
    final: tuple[Training, ...] = ()
    final_workers: int = 1
    final_repeats: int = 1
    final_evaluations: int = 1  # of each final training, which has as many checkpoints
    validation: int = 0
    batch_size: int = 64  # of the final trainings
    tests: int = 0  # test images times classifiers that read them
    report: bool = False
    one_training: Training | None = None  # at the predicted ratio
    all_images: int = 0  # of the largest ratio, whatever is there already
    images_at_prediction: int = 0
    predicted: float | None = None  # None where it is not known yet
    notes: tuple[str, ...] = field(default=())

    @property
    def bytes_written(self) -> int:
        return round(self.images * self.image_bytes + self.chunks * CHUNK_BYTES)

    @property
    def bytes_in_all(self) -> int:
        there = self.images_there * (self.image_bytes + CHUNK_BYTES / self.chunk_size)
        return round(self.bytes_written + there)


def counted(experiment: Experiment, sizes: Sizes, *, predicted: float | None = None) -> Work:
    """The work of a whole run in an empty folder.

    predicted: the ratio where an estimate exists; else one in the middle of log(1 + ratio) stands for it.
    """
    e = experiment
    per_class = images_per_class(e, sizes)
    most = e.generate.images_per_class or per_class
    ratio_limit = most / sizes.most_real
    ratio = middle(min(e.estimate.max_ratio, ratio_limit)) if predicted is None else predicted
    trials = sweep_work(e, sizes, min(e.sweep.top_ratio, ratio_limit), ratio)
    best = max((t.ratio for t in trials.trials), default=0.0) if predicted is None else predicted
    final = [training(e, sizes, r) for r in (0.0, ratio, best) for _ in range(e.evaluate.repeats)]
    chunks = sizes.classes * math.ceil(per_class / e.generate.chunk_size)
    pool = e.generate.pool
    pilot = min(math.ceil(sizes.most_real * e.estimate.pilot_ratio), per_class) * sizes.classes
    return Work(
        name=e.name,
        sizes=sizes,
        generator_steps=e.generator.steps if isinstance(e.generator, Diffusion) else 0,
        generator_batch=min(e.generator.batch_size, sizes.generator) if isinstance(e.generator, Diffusion) else 0,
        images=per_class * sizes.classes,
        chunks=chunks,
        chunk_size=min(e.generate.chunk_size, per_class),
        steps_per_image=denoising_steps(e),
        image_bytes=reckoned_bytes(e, sizes),
        max_actors=pool[1] if pool else None,
        gpus_per_actor=e.generate.gpus_per_actor,
        pilot=pilot,
        sweep=trials,
        whole_sweep=trials,
        final=tuple(final),
        final_workers=e.classifier.num_workers,
        final_repeats=e.evaluate.repeats,
        final_evaluations=e.classifier.evaluations,
        validation=sizes.validation,
        batch_size=e.classifier.batch_size,
        tests=sizes.test * len(final),
        report=True,
        one_training=training(e, sizes, ratio),
        all_images=per_class * sizes.classes,
        images_at_prediction=round(ratio * sizes.most_real) * sizes.classes,
        predicted=predicted,
        notes=tuple(_notes(e, sizes, ratio, predicted)),
    )


def _notes(e: Experiment, sizes: Sizes, ratio: float, predicted: float | None) -> list[str]:
    notes = []
    if predicted is None:
        notes.append(f"the predicted ratio is not known yet: {ratio:.3g} stands for it")
    if e.generate.filter.clip is not None or e.generate.filter.near_copies:
        notes.append("what filters take away, and is made anew, is not counted")
    if isinstance(e.generator, StableDiffusion) and e.generator.captions and e.generator.captions.model:
        notes.append(f"captions of {sizes.generator:,} real images are made before, which is not counted")
    if sizes.origin != "read":
        notes.append(f"the data are not here: sizes are those published ({sizes.origin}), classes equally large")
    return notes


def images_per_class(e: Experiment, sizes: Sizes) -> int:
    """Those asked for; else what the largest ratio of a trial or the estimate needs."""
    if e.generate.images_per_class is not None:
        return e.generate.images_per_class
    return math.ceil(max(e.sweep.top_ratio, e.estimate.max_ratio, e.estimate.pilot_ratio) * sizes.most_real)


def denoising_steps(e: Experiment) -> int:
    """UNet evaluations of an image, a guided step counted once. A latent prior leaves the first ones out."""
    if isinstance(e.generator, ImageFolder):
        return 0
    strength = e.generator.strength if isinstance(e.generator, StableDiffusion) else None
    steps = e.generate.num_inference_steps
    return steps if strength is None else max(1, int(strength * steps))


def image_side(e: Experiment, sizes: Sizes) -> int:
    """Pixels a side of a generated image."""
    if isinstance(e.generator, StableDiffusion):
        return e.generator.image_size or SD_SIDE
    return max(sizes.shape[:2])


def reckoned_bytes(e: Experiment, sizes: Sizes) -> float:
    """Bytes of an image file, where none was measured."""
    return image_side(e, sizes) ** 2 * BYTES_PER_PIXEL[e.generate.format] * sizes.shape[2] / 3


def training(e: Experiment, sizes: Sizes, ratio: float) -> Training:
    """A training at a ratio."""
    from ray_synth.classifier.train import num_updates

    synthetic = round(sizes.train * ratio)
    real = sizes.train if e.data.use_real or not synthetic else 0
    return Training(ratio=ratio, real=real, synthetic=synthetic, updates=num_updates(e.classifier, real, synthetic))


def sweep_work(e: Experiment, sizes: Sizes, max_ratio: float, predicted: float) -> SweepWork:
    """All trials of a sweep."""
    settings = e.sweep
    evaluations = settings.repeats * e.classifier.evaluations
    rungs, rung = [], float(settings.grace)
    while settings.pruner == "asha" and round(rung) < evaluations:
        rungs.append(round(rung) / evaluations)
        rung *= settings.reduction_factor
    kept = 1 / settings.reduction_factor
    return SweepWork(
        trials=tuple(training(e, sizes, ratio) for ratio in trial_ratios(e, max_ratio, predicted)),
        repeats=settings.repeats,
        evaluations=evaluations,
        rungs=tuple(rungs),
        least_kept=kept,
        most_kept=min(1.0, 2 * kept),  # a search that gets better lets more go on than a third of them
        workers_per_trial=settings.workers_per_trial,
        gpus_per_trial=settings.gpus_per_trial,
        concurrency=settings.concurrency,
    )


def trial_ratios(e: Experiment, max_ratio: float, predicted: float) -> list[float]:
    """Ratios of the trials in their order: first those of the prediction, then the space evenly, in a fixed shuffle."""
    dimension = e.sweep.searched.get("synthetic_ratio")
    first = [0.0] if e.sweep.prior == "none" else [predicted, 0.0, predicted / 2, min(2 * predicted, max_ratio)]
    if dimension is not None and dimension.choices is not None:
        choices = sorted(float(ratio) for ratio in dimension.choices if ratio <= max_ratio)
        count = e.sweep.num_trials
        if e.sweep.sampler == "grid":  # every ratio with every combination of the rest
            count = min(count, len(choices) * _others(e))
            first = []
        return (first + [choices[k % len(choices)] for k in range(count)])[:count]
    low, high = (dimension.low or 0.0, dimension.high or max_ratio) if dimension is not None else (0.0, max_ratio)
    left = max(0, e.sweep.num_trials - len(first))
    evenly = np.expm1(np.log1p(low) + (np.log1p(high) - np.log1p(low)) * (np.arange(left) + 0.5) / max(left, 1))
    shuffled = np.random.default_rng(derive_seed("plan", e.seed)).permutation(evenly)
    return [min(ratio, max_ratio) for ratio in (first + shuffled.tolist())[: e.sweep.num_trials]]


def _others(e: Experiment) -> int:
    """Combinations of all choices but the ratio's."""
    dimensions = [each for name, each in e.sweep.searched.items() if name != "synthetic_ratio"]
    return math.prod(len(each.choices) for each in dimensions if each.choices is not None)


def middle(limit: float) -> float:
    """Half way from 0 to a ratio on the axis log(1 + ratio)."""
    return math.sqrt(1 + limit) - 1


# What is left of a run that was begun.


def work_of(run: Run) -> Work:
    """The work that is left of a run in its folder. Reads the folder and writes nothing."""
    predicted = run.prediction.ratio if run.prediction.exists() else None
    # Where the file names no number there are at most as many as a generator that is a folder holds.
    generate = run.experiment.generate.model_copy(update={"images_per_class": run.images.most_per_class})
    work = counted(run.experiment.model_copy(update={"generate": generate}), sizes_of(run), predicted=predicted)
    work = replace(work, **_images_left(run, work))
    complete = []
    for name, stage in _stages(run):
        if stage is not None and stage.ready and run.folder.is_complete(name, stage.digest):
            complete.append(name)
    if "finetune" in complete:
        work = replace(work, generator_steps=0)
    elif work.generator_steps:
        work = replace(work, generator_steps=work.generator_steps - _steps_done(run))
    if "estimate" in complete:
        work = replace(work, pilot=0)
    if "sweep" in complete:
        work = replace(work, sweep=None)
    elif work.sweep is not None:
        work = replace(work, sweep=replace(work.sweep, trials=work.sweep.trials[_trials_done(run) :]))
    if "train" in complete:
        work = replace(work, final=())
    elif "sweep" in complete:
        work = replace(work, final=work.final[_trainings_done(run) :])
    if "evaluate" in complete:
        work = replace(work, tests=0, report="report" not in complete)
    return replace(work, complete=tuple(complete))


def _stages(run: Run) -> list[tuple[str, Stage | None]]:
    """Stages whose turn has come, that is, of which all that they read is there."""
    found: list[tuple[str, Stage | None]] = [(name, run.stage(name)) for name in ("finetune", "generate", "estimate")]
    if run.prediction.exists():
        sweep = run.stage("sweep")
        found.append(("sweep", sweep))
        if run.folder.is_complete("sweep", sweep.digest):
            found.append(("train", run.stage("train")))
            found.append(("evaluate", run.stage("evaluate")))
            found.append(("report", _report(run)))
    return found


def _report(run: Run) -> Stage | None:
    """The report as it is recorded: asking its stage would write summary.json."""
    from ray_synth.stages.inputs import Stage

    record = run.folder.stage("report")
    if record is None or not record.complete:
        return None
    return Stage(record.digest, record.outputs, "", 1, lambda advance: None)


def _images_left(run: Run, work: Work) -> dict[str, int | float]:
    """Chunks that are missing, and how large an image of those is that are there."""
    from ray_synth.generator import chunks

    per_class = work.images // work.sizes.classes
    plan = replace(run.images.plan, images_per_class=per_class)
    finished = chunks.finished_chunks(run.folder, plan)
    left = chunks.work_left(finished, plan)
    there = sum(len(chunk) for chunk in finished)
    changes: dict[str, int | float] = {
        "images": left.num_images,
        "chunks": len(left.missing),
        "images_there": there,
    }
    if finished:
        sizes = [int(run.folder.fs.size(run.folder.path(f"{chunks.FOLDER}/{one.name}"))) for one in finished[:20]]
        each = sum(sizes) / sum(len(one) for one in finished[:20])
        changes["image_bytes"] = max(1.0, each - CHUNK_BYTES / work.chunk_size)
    return changes


def _steps_done(run: Run) -> int:
    """Of a generator's training that was cut off."""
    from safetensors import torch as safetensors

    from ray_synth.generator.artifacts import CHECKPOINT

    record, stage = run.folder.stage("finetune"), run.stage("finetune")
    if record is None or record.digest != stage.digest or not run.folder.exists(CHECKPOINT):
        return 0
    return int(safetensors.load(run.folder.read(CHECKPOINT))["step"])


def _trials_done(run: Run) -> int:
    from ray_synth.sweep.ledger import Ledger

    record = run.folder.stage("sweep")
    if record is None or not run.prediction.exists() or record.digest != run.stage("sweep").digest:
        return 0
    return len(Ledger(run.folder).ended)


def _trainings_done(run: Run) -> int:
    record = run.folder.stage("train")
    if record is None or record.digest != run.stage("train").digest:
        return 0
    return sum(run.folder.exists(training.file) for training in run.final.trainings())


def up_to(work: Work, stage: str) -> Work:
    """The same work without the stages after this one."""
    later = STAGES[STAGES.index(stage) + 1 :]
    without: dict[str, dict[str, Any]] = {
        "generate": {"images": 0, "chunks": 0},
        "estimate": {"pilot": 0},
        "sweep": {"sweep": None, "whole_sweep": None},
        "train": {"final": ()},
        "evaluate": {"tests": 0},
        "report": {"report": False},
    }
    for name in later:
        work = replace(work, **without[name])
    return work
