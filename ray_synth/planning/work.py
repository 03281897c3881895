"""A checked experiment and how many images its sets hold in, the work of every stage as counts out. Writes nothing.

What is complete in the run folder is not counted again, by the stages' own digests.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.bound.result import RatioEstimate
from ray_synth.config import Diffusion, Experiment, ImageFolder, StableDiffusion
from ray_synth.data.images import synthetic_counts
from ray_synth.planning.sizes import Sizes, sizes_of
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.stages.inputs import STAGES
from ray_synth.sweep.ledger import Ledger
from ray_synth.sweep.places import WINDOW
from ray_synth.sweep.prior import Prior
from ray_synth.sweep.search import first_settings, grid_in_turn, num_trials
from ray_synth.sweep.space import RATIO, Space, from_scale, to_scale

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
    """Trials in their order, after those that are done. `free` of them, the first, are never stopped early; later ones
    at `rungs`, shares of a training, of which each lets 1 / factor go on at least, and `most_kept` at most."""

    trials: tuple[Training, ...]
    repeats: int
    evaluations: int
    rungs: tuple[float, ...]
    least_kept: float
    most_kept: float
    workers_per_trial: int
    gpus_per_trial: float
    concurrency: int | None
    done: int = 0

    @property
    def bound(self) -> int:
        """Updates if no trial were stopped early."""
        return self.repeats * sum(trial.updates for trial in self.trials)

    def free(self, slots: int) -> int:
        """Trials that are proposed before there is anything to stop them by."""
        return max(0, WINDOW * slots - self.done)

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
    pilot: int = 0  # synthetic images of an estimate that is left
    whole_pilot: int = 0  # of the estimate, whatever is done already
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
    def readers(self) -> list[str]:
        """Stages left that look at the synthetic images."""
        left = {
            "estimate": bool(self.pilot),
            "sweep": self.sweep is not None,
            "train": bool(self.final),
            "evaluate": bool(self.tests),
            "report": self.report,
        }
        return [name for name, is_left in left.items() if is_left]

    @property
    def bytes_written(self) -> int:
        return round(self.images * self.image_bytes + self.chunks * CHUNK_BYTES)

    @property
    def bytes_in_all(self) -> int:
        there = self.images_there * (self.image_bytes + CHUNK_BYTES / self.chunk_size)
        return round(self.bytes_written + there)


def counted(
    experiment: Experiment,
    sizes: Sizes,
    *,
    until: str = "report",
    estimate: RatioEstimate | None = None,
    ledger: Ledger | None = None,
    most: int | None = None,
) -> Work:
    """The work of a run up to a stage; of the sweep what a ledger leaves.

    estimate: the prediction where there is one; else a ratio in the middle of log(1 + ratio) stands for it. most:
    images per class that there can be, where the file names no number.

    Raises:
        InputError: a space that the images do not reach.
    """
    e = experiment
    most = most or most_per_class(e, sizes)
    ratio_limit = most / sizes.most_real
    reach = min(e.estimate.max_ratio, ratio_limit)
    ratio = middle(reach) if estimate is None else min(estimate.ratio, reach)
    predicted = None if estimate is None else ratio
    space = Space(e, num_classes=sizes.classes, max_ratio=min(e.sweep.top_ratio, ratio_limit))
    ledger = ledger or Ledger(RunFolder("."), read=False)
    ratios = trial_ratios(e, space, Prior.of(estimate or _stand_in(ratio), e.sweep.prior), ledger)
    trials = sweep_work(e, sizes, list(ratios.values()))
    left = [training(e, sizes, r) for trial_id, r in ratios.items() if trial_id not in ledger.ended]
    best = max(ratios.values(), default=0.0) if predicted is None else predicted
    final = [training(e, sizes, r) for r in (0.0, ratio, best) for _ in range(e.evaluate.repeats)]
    pilot = min(pilot_per_class(e, sizes), most)
    per_class = e.generate.images_per_class or pilot
    if e.generate.images_per_class is None and STAGES.index(until) >= STAGES.index("sweep"):
        # Trials, and then the final trainings, have made what they need.
        top = max(space.ratio_range[1], ratio if until != "sweep" else 0.0)
        per_class = min(max(pilot, per_class_at(top, sizes)), most)
    chunks = sizes.classes * math.ceil(per_class / e.generate.chunk_size)
    pool = e.generate.pool
    work = Work(
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
        pilot=pilot * sizes.classes,
        whole_pilot=pilot * sizes.classes,
        sweep=replace(trials, trials=tuple(left), done=len(ratios) - len(left)),
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
    return up_to(work, until)


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


def most_per_class(e: Experiment, sizes: Sizes) -> int:
    """Images per class at most: those asked for; else what the largest ratio of a trial or the estimate needs."""
    if e.generate.images_per_class is not None:
        return e.generate.images_per_class
    return math.ceil(max(e.sweep.top_ratio, e.estimate.max_ratio, e.estimate.pilot_ratio) * sizes.most_real)


def pilot_per_class(e: Experiment, sizes: Sizes) -> int:
    """Images of the largest class that the estimate looks at."""
    return min(max(1, per_class_at(e.estimate.pilot_ratio, sizes)), most_per_class(e, sizes))


def per_class_at(ratio: float, sizes: Sizes) -> int:
    """Images of the largest class at a ratio."""
    return int(synthetic_counts(np.array([sizes.most_real]), ratio)[0])


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


def sweep_work(e: Experiment, sizes: Sizes, ratios: Sequence[float]) -> SweepWork:
    """A sweep of trials at these ratios."""
    settings = e.sweep
    evaluations = settings.repeats * e.classifier.evaluations
    rungs, rung = [], float(settings.grace)
    while settings.pruner == "asha" and round(rung) < evaluations:
        rungs.append(round(rung) / evaluations)
        rung *= settings.reduction_factor
    kept = 1 / settings.reduction_factor
    return SweepWork(
        trials=tuple(training(e, sizes, ratio) for ratio in ratios),
        repeats=settings.repeats,
        evaluations=evaluations,
        rungs=tuple(rungs),
        least_kept=kept,
        most_kept=min(1.0, 2 * kept),  # a search that gets better lets more go on than a third of them
        workers_per_trial=settings.workers_per_trial,
        gpus_per_trial=settings.gpus_per_trial,
        concurrency=settings.concurrency,
    )


def trial_ratios(e: Experiment, space: Space, prior: Prior | None, ledger: Ledger) -> dict[str, float]:
    """Trial -> ratio, in their order and as many as the sweep itself counts: those that were started, the first ones of
    the prediction, then all choices where there is nothing else, or the range evenly in a fixed shuffle."""
    settings = [ledger.starts[trial_id].setting for trial_id in sorted(ledger.starts)]
    total = max(len(settings), num_trials(ledger, e, space, prior))
    for more in (first_settings(e, space, prior), grid_in_turn(e, space) or []):
        tried = {setting.digest for setting in settings}
        settings += [setting for setting in more if setting.digest not in tried]
    ratios = [setting.synthetic_ratio for setting in settings]
    ratios += _drawn(e, space, max(0, total - len(ratios)))
    return {f"t{k:05d}": ratio for k, ratio in enumerate(ratios[:total])}


def _drawn(e: Experiment, space: Space, count: int) -> list[float]:
    """So many ratios of a space that is not choices alone."""
    dimension = space.dimensions[RATIO]
    if dimension.choices is not None:
        choices = sorted(dimension.choices)
        return [float(choices[k % len(choices)]) for k in range(count)]
    scale = "log1p" if e.sweep.prior == "distribution" else dimension.scale  # as the prediction draws them
    low, high = (to_scale(end, scale) for end in space.ratio_range)
    evenly = [from_scale(low + (high - low) * (k + 0.5) / count, scale) for k in range(count)]
    order = np.random.default_rng(derive_seed("plan", e.seed)).permutation(count)
    return [evenly[k] for k in order]


def _stand_in(ratio: float) -> Prior:
    """For a prediction that is not known yet."""
    return Prior(ratio=ratio, interval=(ratio / 2, 2 * ratio))


def middle(limit: float) -> float:
    """Half way from 0 to a ratio on the axis log(1 + ratio)."""
    return math.sqrt(1 + limit) - 1


# What is left of a run that was begun.


def work_of(run: Run, *, until: str = "report") -> Work:
    """The work that is left of a run in its folder, up to a stage. Reads the folder and writes nothing."""
    complete = _complete(run)
    known: dict[str, Any] = {}
    if "estimate" in complete:
        known = {"estimate": run.prediction.read(), "ledger": _ledger(run)}
    most = run.images.most_per_class  # of a generator that is a folder no more than it holds
    work = counted(run.inputs.on_workers, sizes_of(run), until=until, most=most, **known)
    if "sweep" in complete:
        work = _after_sweep(run, work, trained="train" in complete)
    pilot = int(run.images.pilot.sum())
    work = replace(work, pilot=pilot if work.pilot else 0, whole_pilot=pilot, **_images_left(run, work))
    if "finetune" in complete:
        work = replace(work, generator_steps=0)
    elif work.generator_steps:
        work = replace(work, generator_steps=work.generator_steps - _steps_done(run))
    if "estimate" in complete:
        work = replace(work, pilot=0)
    if "evaluate" in complete:
        work = replace(work, tests=0, report="report" not in complete)
    return up_to(replace(work, complete=tuple(complete)), until)


def _after_sweep(run: Run, work: Work, *, trained: bool) -> Work:
    """What the final trainings are is known, and no trial asks for more images."""
    e, sizes = run.inputs.on_workers, work.sizes
    ratios = [t.arguments["setting"].synthetic_ratio for t in run.final.trainings()]
    final = [] if trained else [training(e, sizes, ratio) for ratio in ratios][_trainings_done(run) :]
    work = replace(work, sweep=None, final=tuple(final))
    if e.generate.images_per_class is None:
        each = max(run.images.images_per_class, *(per_class_at(one.ratio, sizes) for one in final), 1)
        work = replace(work, images=each * sizes.classes, all_images=each * sizes.classes)
    return work


def _complete(run: Run) -> list[str]:
    """Stages that the run would leave out. From the estimate on each goes by what the one before it says: where one is
    done again, those after it are too, whatever their records say of the old one."""
    found = [name for name in ("finetune", "generate") if _is_complete(run, name)]
    later = STAGES[STAGES.index("estimate") :]
    return found + list(itertools.takewhile(functools.partial(_is_complete, run), later))


def _is_complete(run: Run, name: str) -> bool:
    """Of a stage whose turn has come, that is, of which all that it reads is there."""
    stage = _report(run) if name == "report" else run.stage(name)
    return stage is not None and stage.ready and run.folder.is_complete(name, stage.digest)


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


def _ledger(run: Run) -> Ledger:
    """The trials that a sweep with these settings would not run again."""
    record = run.folder.stage("sweep")
    ledger = Ledger(run.folder, read=record is not None and record.digest == run.stage("sweep").digest)
    ledger.ended = {trial_id: trial for trial_id, trial in ledger.ended.items() if not trial.again}
    return ledger


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
