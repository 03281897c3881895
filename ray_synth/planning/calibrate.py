"""A checked run in; seconds per unit of its work on this machine out, from short pieces of the run's own code.

Everything happens in a temporary folder, in the order of a run and in one process, so that what a stage imports counts
for it; samplers and trials are measured with all slots busy, since two on two cores are slower than one.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import Diffusion, Experiment, ImageFolder, StableDiffusion, with_absolute_paths
from ray_synth.data.images import ImageSet
from ray_synth.nodes import cluster_nodes
from ray_synth.planning.rates import ESTIMATE_POWER, NOTHING, Limits, Measure, Rates, fingerprint, table
from ray_synth.planning.simulate import in_slots
from ray_synth.planning.sizes import Sizes
from ray_synth.planning.work import CHUNK_BYTES, Training, Work
from ray_synth.runs import RunFolder

if TYPE_CHECKING:
    from ray_synth.pipeline import Run
    from ray_synth.sweep.ledger import Ledger

GENERATOR_SECONDS, CHUNK_SECONDS, TRIAL_SECONDS = 5.0, 8.0, 1.5  # that a piece is meant to take
ROUNDS = 3  # chunks of each actor
LEVELS = (0.1, 0.4, 0.7, 1.0)  # of updates, in trials of two ratios each
MOST_REAL, MOST_SYNTHETIC = 500, 4000  # images that a piece looks at
LEAST_SIGMA = 0.05
HERE = "measured here"


@dataclass
class _Pieces:
    """What was measured so far, by the names of Rates."""

    run: Run
    work: Work
    sizes: Sizes
    say: Callable[[str], None]
    folder: RunFolder
    found: dict[str, Measure] = field(default_factory=dict)
    slots: int = 1  # of the pool, then of the trials
    cpus: int = 1  # of all nodes that Ray has
    gpus: int = 0
    image_bytes: float | None = None

    @property
    def experiment(self) -> Experiment:
        return self.run.inputs.on_workers

    def note(self, name: str, seconds: float, sigma: float = 0.0, origin: str = HERE) -> None:
        self.found[name] = Measure(value=max(0.0, float(seconds)), sigma=max(LEAST_SIGMA, sigma), origin=origin)


def calibrate(run: Run, work: Work, *, started: float, say: Callable[[str], None] = lambda text: None) -> Rates:
    """Measure what the run would do here. started: monotonic time at which the command began.

    Ray is started for as long as this takes, where it is not up.
    """
    with tempfile.TemporaryDirectory(prefix="ray_synth-plan-") as scratch, run.inputs.resources:
        pieces = _Pieces(run, work, work.sizes, say, RunFolder(scratch))
        pieces.note("start", time.monotonic() - started, 0.1)
        say("plan: measuring pieces of the run on this machine")
        _generator(pieces)
        with _timed(pieces, "ray_start"):
            run.inputs.start_ray()
        pieces.cpus, pieces.gpus = _resources()
        _sampling(pieces)
        _estimate(pieces)
        _trials(pieces)
        _results(pieces)
        begin, up = time.monotonic(), pieces.found["ray_start"]
        run.inputs.resources.close()  # at the end of a run it is waited for too
        pieces.note("ray_start", up.value + time.monotonic() - begin, up.sigma)
        return _rates(pieces)


def _resources() -> tuple[int, int]:
    """CPUs and GPUs of the cluster: of this machine, unless RAY_ADDRESS names another."""
    nodes = cluster_nodes()
    return int(nodes.cpus), sum(nodes.gpus)


@contextmanager
def _timed(pieces: _Pieces, name: str, sigma: float = 0.1) -> Iterator[None]:
    begin = time.monotonic()
    yield
    pieces.note(name, time.monotonic() - begin, sigma)


def spread(values: Sequence[float]) -> float:
    """Standard deviation of the logarithm of the mean of some repeated pieces."""
    positive = np.asarray([value for value in values if value > 0])
    if len(positive) < 2:
        return 0.0
    return float(np.log(positive).std(ddof=1) / math.sqrt(len(positive)))


# The generator's training.


class _Enough(Exception):
    pass


def _generator(pieces: _Pieces) -> None:
    settings = pieces.experiment.generator
    if not isinstance(settings, Diffusion):
        return
    from ray_synth.generator.finetune import finetune

    images, seconds = pieces.run.inputs.splits.generator, []
    begin = time.monotonic()
    finetune(pieces.folder, images, settings.model_copy(update={"steps": 2}), seed=0)  # its weights sample below
    first = time.monotonic() - begin
    last, stop = time.monotonic(), time.monotonic() + GENERATOR_SECONDS

    def progress(step: int) -> None:
        nonlocal last
        now = time.monotonic()
        if step > 2:
            seconds.append(now - last)
        last = now
        if now > stop and len(seconds) >= 4:
            raise _Enough

    with suppress(_Enough):
        finetune(RunFolder(f"{pieces.folder.url}/more"), images, settings, seed=0, progress=progress)
    step = float(np.mean(seconds)) if seconds else first / 2
    blocks = [float(part.mean()) for part in np.array_split(np.asarray(seconds), 4) if len(part)]
    pieces.note("generator_step", step, spread(blocks))
    pieces.note("generator_start", first - 2 * step, 0.2)


# Sampling.


def _sampling(pieces: _Pieces) -> None:
    from ray_synth.generator.generate import Job
    from ray_synth.generator.pool import num_slots

    e, nodes = pieces.experiment, cluster_nodes()
    pieces.slots, _ = num_slots(nodes, e.generate.gpus_per_actor)
    if not pieces.work.chunks:
        return
    job = Job(
        url=pieces.folder.absolute_url,
        plan=replace(pieces.run.images.plan, images_per_class=10**6),
        generator=with_absolute_paths(e.generator),
        generate=with_absolute_paths(e.generate),
        class_names=pieces.run.inputs.class_names,
        origin=pieces.run.model.origin,
    )
    parents = _parents(pieces)
    if isinstance(e.generator, StableDiffusion) and not nodes.on_gpus:
        _few_steps(pieces, job, parents)
    else:
        _chunks(pieces, job, parents)


def _parents(pieces: _Pieces) -> Any:
    """A few real images of the first class, described as the run would."""
    from ray_synth.generator.conditions import Parents
    from ray_synth.generator.describe import described_parents

    settings, real = pieces.experiment.generator, pieces.run.inputs.splits.generator
    conditioned = isinstance(settings, StableDiffusion) and settings.uses_real_images
    if not conditioned and not pieces.experiment.generate.filter.near_copies:
        return None
    parents = Parents.of(real.take(np.flatnonzero(real.labels == 0)[:8]))
    if isinstance(settings, StableDiffusion) and conditioned:
        parts, captions = pieces.run.model.origin.parts, pieces.run.images.captions
        parents = described_parents(pieces.folder, parents, settings, captions, parts)
    return parents


def _few_steps(pieces: _Pieces, job: Any, parents: Any) -> None:
    """Stable Diffusion on CPUs: what the run itself says beforehand, on all of them at once."""
    import ray

    from ray_synth.generator.generate import seconds_per_image

    begin = time.monotonic()
    task, shared = ray.remote(num_cpus=1)(seconds_per_image), ray.put(parents)
    seconds = ray.get([task.remote(job, shared) for _ in range(pieces.slots)])
    taken = time.monotonic() - begin
    pieces.note("image", float(np.mean(seconds)), max(0.1, spread(seconds)), "measured here on few steps of one image")
    sampled = 12 / max(1, pieces.work.steps_per_image) * float(np.mean(seconds))  # two calls of 2 steps, two of 4
    loading = max(2.0, taken - sampled)
    pieces.note("pool_start", taken + loading, 0.3)  # the run measures this too, and then its actors start
    pieces.note("jitter", 0.05)


def _chunks(pieces: _Pieces, job: Any, parents: Any) -> None:
    """Whole chunks through the pool of actors as the run has it: filtered, encoded and written."""
    from ray_synth.generator.chunks import FOLDER
    from ray_synth.generator.generate import SampleChunks
    from ray_synth.generator.pool import over_pool

    items = _items(pieces, job)
    size = items[0]["stop"] - items[0]["start"]
    begin, ends = time.monotonic(), []
    actors = min(pieces.slots, len(items), pieces.work.max_actors or pieces.slots)
    for _ in over_pool(
        items,
        SampleChunks,
        (job,),
        parents,
        pool=(actors, actors),
        gpus_per_actor=job.generate.gpus_per_actor,
        concurrent=2,
    ):
        ends.append(time.monotonic() - begin)
    over = time.monotonic() - begin
    chunk, sigma = chunk_seconds(ends, actors)
    pieces.note("image", chunk / size, sigma)
    pieces.note("pool_start", max(0.0, ends[0] - chunk) + over - ends[-1], 0.2)
    pieces.note("jitter", min(0.5, max(0.02, sigma)))
    names = pieces.folder.list(FOLDER)
    total = sum(os.path.getsize(pieces.folder.path(f"{FOLDER}/{name}")) for name in names)
    pieces.image_bytes = max(1.0, (total - CHUNK_BYTES * len(names)) / (len(names) * size))
    _reading(pieces, names[0])


def chunk_seconds(ends: Sequence[float], actors: int) -> tuple[float, float]:
    """Seconds of a chunk on one of several busy actors, and its sigma. ends: when each chunk was there.

    The first round also holds what the actors took to start.
    """
    rounds = [ends[min(i + actors, len(ends)) - 1] for i in range(0, len(ends), actors)]
    steady = np.diff(rounds)
    if not len(steady):
        return float(ends[-1]), 0.3
    return float(steady.mean()), max(0.03, spread(steady.tolist()))


def _items(pieces: _Pieces, job: Any) -> list[dict[str, int]]:
    """Chunks for every actor; smaller ones where a whole one would take too long."""
    e, plan = pieces.experiment, job.plan
    size = min(e.generate.chunk_size, max(1, pieces.work.chunk_size))
    if plan.available is not None:
        size = max(1, min(size, *plan.available))
        return [{"label": k % plan.num_classes, "start": 0, "stop": size} for k in range(ROUNDS * pieces.slots)]
    if isinstance(e.generator, Diffusion):
        size = max(1, min(size, int(CHUNK_SECONDS / _image_guess(pieces, job))))
    return [{"label": 0, "start": k * size, "stop": (k + 1) * size} for k in range(ROUNDS * pieces.slots)]


def _image_guess(pieces: _Pieces, job: Any) -> float:
    """Seconds of one image of the pixel model in a small batch, in this process."""
    from ray_synth.generator.chunks import Chunk
    from ray_synth.generator.conditions import conditions
    from ray_synth.generator.kinds import load_sampler

    few = job.generate.model_copy(update={"num_inference_steps": 2})
    sampler = load_sampler(pieces.folder, job.generator, few, class_names=job.class_names, parents=None, device="cpu")
    batch = conditions(job.plan, Chunk(job.plan.chunk_digest[:12], 0, 0, 8), job.generator, job.class_names, None)
    sampler(batch)
    begin = time.monotonic()
    sampler(batch)
    return max(1e-6, (time.monotonic() - begin) / 2 / 8 * job.generate.num_inference_steps)


def _reading(pieces: _Pieces, name: str) -> None:
    """A chunk's images, decoded as the driver does."""
    import pyarrow.parquet as pq

    from ray_synth.data.decoding import unified
    from ray_synth.generator.chunks import FOLDER, _decoded

    begin = time.monotonic()
    with pieces.folder.open(f"{FOLDER}/{name}") as file:
        rows = pq.read_table(file, columns=["key", "rejected", "image"]).to_pylist()
    kept = [row["image"] for row in rows if row["image"]]
    for image in kept:
        unified(_decoded(image), pieces.sizes.shape, crop=pieces.experiment.data.crop)
    pieces.note("read_image", (time.monotonic() - begin) / max(len(rows), 1), 0.2)


# The estimate.


def stand_in(real: ImageSet, per_class: int) -> ImageSet:
    """As many images of each class as asked, real ones over and over with noise on them: what a piece takes does not
    hang on what images show."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.resize(np.flatnonzero(real.labels == c), per_class) for c in np.unique(real.labels)])
    noise = rng.integers(-20, 21, (len(rows), *real.images.shape[1:]), dtype=np.int16)
    images = np.clip(real.images[rows].astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return ImageSet(images=images, labels=real.labels[rows], class_names=real.class_names)


def _some(images: ImageSet, most: int) -> ImageSet:
    """At most so many, evenly over the classes."""
    if len(images) <= most:
        return images
    return images.take(np.sort(np.random.default_rng(0).permutation(len(images))[:most]))


def _estimate(pieces: _Pieces) -> None:
    if not pieces.work.pilot:
        return
    from ray_synth.bound.estimator import estimate_ratio

    e, real = pieces.experiment, _some(pieces.run.inputs.splits.train, MOST_REAL)
    classes = pieces.sizes.classes
    synthetic = stand_in(real, max(1, min(pieces.work.pilot, MOST_SYNTHETIC) // classes))
    begin = time.monotonic()
    estimate_ratio(
        real.images,
        real.labels,
        synthetic.images,
        synthetic.labels,
        max_ratio=pieces.run.images.max_ratio(e.estimate.max_ratio),
        real_weight=e.classifier.real_weight if e.classifier.weighting == "fixed" else None,
        confidence=e.estimate.confidence,
        seed=0,
    )
    more = (pieces.sizes.train + pieces.work.pilot) / (len(real) + len(synthetic))
    origin = HERE if more <= 1 else f"measured here on {1 / more:.0%} of the images, drawn out by their number"
    pieces.note("estimate", (time.monotonic() - begin) * more**ESTIMATE_POWER, 0.15 + 0.1 * math.log(more), origin)


# Trials and final trainings.


def _trials(pieces: _Pieces) -> None:
    work = pieces.work
    trainings = (work.sweep.trials if work.sweep is not None else ()) + work.final
    if not trainings:
        return
    from ray_synth.sweep.places import Places
    from ray_synth.sweep.tuner import run_sweep

    real, validation = pieces.run.inputs.splits.train, pieces.run.inputs.splits.validation
    ratio = _ratio(trainings, len(real))
    synthetic = stand_in(real, math.ceil(ratio * pieces.sizes.most_real))
    levels = _levels(pieces, synthetic)
    small = _small(pieces.experiment, ratio, levels)
    pieces.slots = Places.of(small.sweep, cpus=pieces.cpus, gpus=pieces.gpus).slots
    ends: dict[str, float] = {}
    begin = time.monotonic()

    def shown(ledger: Ledger, running: Mapping[str, Any]) -> None:
        for trial_id in ledger.ended:
            ends.setdefault(trial_id, time.monotonic() - begin)

    trials = run_sweep(
        pieces.folder,
        small,
        real,
        validation,
        lambda ratio: synthetic,
        estimate=None,
        max_ratio=ratio,
        shown=shown,
    )
    over = time.monotonic() - begin
    rows = [
        (t.num_synthetic, int(t.setting.classifier["updates"]), t.seconds) for t in trials if t.status == "complete"
    ]
    _fit_trials(pieces, rows, len(real))
    _tune(pieces, [t.seconds for t in trials], list(ends.values()), over)
    if work.final:
        _final(pieces, small, synthetic, ratio, levels)


def _ratio(trainings: Sequence[Training], real: int) -> float:
    """A ratio in the middle of those that are trained at, as far as there is room."""
    middle = float(np.median([t.ratio for t in trainings]) or max(t.ratio for t in trainings))
    return min(middle, MOST_SYNTHETIC / real) or 1.0


def _levels(pieces: _Pieces, synthetic: ImageSet) -> list[int]:
    """Numbers of updates whose trainings take about as long as a piece may."""
    from ray_synth.sweep.space import default_setting
    from ray_synth.sweep.trial import train_setting

    inputs, e = pieces.run.inputs, _updates(pieces.experiment, 1, 1)
    judged = _some(inputs.splits.validation, 64)
    setting = default_setting(e, pieces.sizes.classes, 0.0)
    seconds = []
    for updates in (1, 1, 4):
        begin = time.monotonic()
        train_setting(setting, _updates(e, updates, 1), inputs.splits.train, synthetic, judged, seed=0)
        seconds.append(time.monotonic() - begin)
    each = max(1e-4, (seconds[2] - seconds[1]) / 3)
    evaluations = pieces.experiment.classifier.evaluations
    most = max(t.updates for t in (*(pieces.work.sweep.trials if pieces.work.sweep else ()), *pieces.work.final))
    top = max(evaluations + 3, min(most, int(TRIAL_SECONDS / each)))
    least = min(evaluations, top - 3)
    return sorted({max(least, round(top * level)) for level in LEVELS} | {top})


def _updates(e: Experiment, updates: int, evaluations: int) -> Experiment:
    classifier = e.classifier.model_copy(
        update={"budget": "updates", "updates": updates, "evaluations": evaluations, "num_workers": 1}
    )
    return e.model_copy(update={"classifier": classifier})


def _small(e: Experiment, ratio: float, levels: Sequence[int]) -> Experiment:
    """The experiment with a sweep of two ratios and a few numbers of updates, nothing stopped early."""
    e = _updates(e, levels[-1], min(e.classifier.evaluations, levels[0]))
    raw = e.model_dump()
    raw["sweep"] |= {
        "num_trials": 2 * len(levels),
        "sampler": "grid",
        "prior": "none",
        "pruner": "none",
        "repeats": 1,
        "concurrency": None,
        "workers_per_trial": 1,
        "max_ratio": ratio,
        "space": dict.fromkeys(raw["sweep"]["space"])
        | {"synthetic_ratio": {"choices": [0.0, ratio]}, "updates": {"choices": list(levels)}},
    }
    return Experiment.model_validate(raw)


def _fit_trials(pieces: _Pieces, rows: Sequence[tuple[int, int, float]], real: int) -> None:
    """seconds = trial + images * trial_image + updates * update (or update_one_side), by least squares.

    The first trial of each process is left out: it is slower.
    """
    slots = pieces.slots
    used = rows[slots:] if len(rows) - slots >= 5 else rows
    trial, image, both, one, sigma = fit_trials(used, real)
    pieces.note("trial", trial, 0.2)
    pieces.note("trial_image", image, 0.2)
    pieces.note("update", both, sigma)
    pieces.note("update_one_side", one, sigma)


def fit_trials(rows: Sequence[tuple[int, int, float]], real: int) -> tuple[float, float, float, float, float]:
    """(synthetic images, updates, seconds) of trials in; fixed seconds, those of an image, of an update with both
    sides and with one, and the sigma of the latter out."""
    from scipy.optimize import nnls

    synthetic, updates, seconds = np.asarray(rows, dtype=float).T
    both = (synthetic > 0).astype(float)
    terms = np.stack([np.ones(len(rows)), real + synthetic, updates * both, updates * (1 - both)], axis=1)
    weights = 1 / np.maximum(seconds, 1e-3) ** 0.5
    scale = np.maximum(terms.max(axis=0), 1e-12)
    found, _ = nnls(terms / scale * weights[:, None], seconds * weights)
    found = found / scale
    left = (seconds - terms @ found)[seconds > 0]
    sigma = float(np.sqrt(np.mean(left**2)) / max(np.mean(seconds), 1e-9))
    fixed, image, two, one = (float(value) for value in found)
    return fixed, image, two or one, one or two, min(1.0, sigma)


def _tune(pieces: _Pieces, seconds: Sequence[float], ends: Sequence[float], over: float) -> None:
    """What Tune takes to start and end, and beside each trial: wall time over that of a plain schedule."""
    ended = sorted(ends)
    plain = float(in_slots(np.asarray([seconds]), pieces.slots)[0])
    start = max(0.0, ended[0] - min(seconds))
    beside = max(0.0, ended[-1] - start - plain) * pieces.slots / len(seconds)
    pieces.note("tune_start", start + over - ended[-1], 0.2)
    before = pieces.found["trial"]
    pieces.note("trial", before.value + beside, before.sigma)


def _final(pieces: _Pieces, e: Experiment, synthetic: ImageSet, ratio: float, levels: Sequence[int]) -> None:
    """Final trainings on Ray Train, timed by when their files are there: a first one, two lengths, one diagnosed."""
    from ray_synth.classifier.final import Training as FinalTraining
    from ray_synth.classifier.final import train_final
    from ray_synth.sweep.space import default_setting
    from ray_synth.sweep.trial import known_features, train_setting

    splits = pieces.run.inputs.splits

    def training(name: str, updates: int, diagnosed: bool = False) -> FinalTraining:
        setting = default_setting(e, pieces.sizes.classes, ratio)
        setting = replace(setting, classifier={**setting.classifier, "updates": updates})
        return FinalTraining(name=name, arguments={"setting": setting, "seed": 0, "diagnosed": diagnosed})

    low, high = levels[0], levels[-1]
    trainings = [training("a", low), training("b", low), training("c", high), training("d", high, True)]
    train = functools.partial(
        train_setting,
        experiment=e,
        real=splits.train,
        synthetic=synthetic,
        validation=splits.validation,
        features=known_features(e, splits.train, synthetic),
    )
    clock, begin = time.time(), time.monotonic()
    train_final(pieces.folder, trainings, train, num_workers=1)
    over = time.monotonic() - begin
    there = [os.path.getmtime(pieces.folder.path(t.file)) - clock for t in trainings]
    _short, short, long, diagnosed = there[0], *np.diff(there)
    images = len(splits.train) + len(synthetic)
    found = pieces.found
    expected = found["trial"].value + images * found["trial_image"].value + high * found["update"].value
    pieces.note("final", float(long) / max(expected, 1e-9), 0.1)
    pieces.note("train_start", max(0.0, there[0] - float(short)) + max(0.0, over - there[-1]), 0.2)
    side = e.classifier.batch_size // 2
    every = max(1, math.ceil(max(len(splits.train), len(synthetic)) / side) // 2, math.ceil(high / 100))
    count = max(1, high // every)
    looked = count * (images + len(splits.validation))
    pieces.note("diagnosis_image", max(0.0, float(diagnosed) - float(long)) / looked, 0.3)


# The end.


def _results(pieces: _Pieces) -> None:
    if not pieces.work.tests:
        return
    from ray_synth.classifier.mixture import TrainingData
    from ray_synth.classifier.models import build_model
    from ray_synth.classifier.predict import logits_of
    from ray_synth.classifier.train import fit
    from ray_synth.evaluation.fidelity import JUDGE

    inputs, e = pieces.run.inputs, pieces.experiment
    judged = _some(inputs.splits.test, MOST_REAL)
    real = _some(inputs.all_but_test(), MOST_SYNTHETIC)
    none = np.zeros(0, dtype=np.int64)
    data = TrainingData(
        real=real,
        synthetic=real.take(none),
        real_regions=np.zeros(len(real), dtype=np.int64),
        synthetic_regions=none,
    )
    seconds = []
    for updates in (5, 5, 45):
        begin = time.monotonic()
        fit(data, judged, JUDGE.model_copy(update={"updates": updates}), seed=0)
        seconds.append(time.monotonic() - begin)
    pieces.note("evaluate", seconds[1] + max(0.0, seconds[2] - seconds[1]) / 40 * JUDGE.updates, 0.2)
    model = build_model(e.classifier, inputs.shape, inputs.class_names, seed=0).eval()
    logits_of(model, judged.images[:8])
    begin = time.monotonic()
    logits_of(model, judged.images)
    pieces.note("test_image", (time.monotonic() - begin) / len(judged), 0.2)


def _rates(pieces: _Pieces) -> Rates:
    known, over = table(), table()["overheads"]
    found = pieces.found
    if isinstance(pieces.experiment.generator, ImageFolder):
        found.setdefault("read_image", over["read_image"])
    nothing = {name: NOTHING for name in _MEASURED if name not in found}
    where = "of the cluster" if os.environ.get("RAY_ADDRESS") else "here"
    return Rates(
        hardware=f"{pieces.gpus} GPUs {where}" if pieces.gpus else f"{pieces.cpus} CPUs {where}",
        kind="gpu" if pieces.gpus else "cpu",
        slots=pieces.gpus or pieces.cpus,
        limits=Limits(**known["limits"]),
        chunk=NOTHING,
        stragglers=NOTHING,
        report=over["report"],
        node_start=NOTHING,
        replacement=over["replacement"],
        interruptions=NOTHING,
        data_parallel=known["flops"]["data_parallel"],
        image_bytes=pieces.image_bytes,
        measured_for=fingerprint(pieces.run.experiment, pieces.sizes),
        **{name: measure for name, measure in found.items() if name in _MEASURED},
        **nothing,
    )


_MEASURED = (
    "start",
    "ray_start",
    "generator_start",
    "generator_step",
    "pool_start",
    "jitter",
    "image",
    "read_image",
    "estimate",
    "tune_start",
    "trial",
    "trial_image",
    "update",
    "update_one_side",
    "train_start",
    "final",
    "diagnosis_image",
    "evaluate",
    "test_image",
)
