"""Real images and stand-ins for synthetic ones in; seconds of the estimate, trials, final trainings and judge out."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import Experiment
from ray_synth.data.images import ImageSet
from ray_synth.planning.calibration.pieces import HERE, MOST_REAL, MOST_SYNTHETIC, Pieces, some, stand_in
from ray_synth.planning.rates import ESTIMATE_POWER
from ray_synth.planning.simulate import in_slots
from ray_synth.planning.work import Training

if TYPE_CHECKING:
    from ray_synth.sweep.ledger import Ledger

TRIAL_SECONDS = 1.5  # that a piece is meant to take
LEVELS = (0.1, 0.4, 0.7, 1.0)  # of updates, in trials of two ratios each


def estimate(pieces: Pieces) -> None:
    if not pieces.work.pilot:
        return
    begin = time.monotonic()
    from ray_synth.bound.estimator import estimate_ratio

    e, real = pieces.experiment, some(pieces.run.inputs.splits.train, MOST_REAL)
    classes = pieces.sizes.classes
    synthetic = stand_in(real, max(1, min(pieces.work.pilot, MOST_SYNTHETIC) // classes))
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


def trials(pieces: Pieces) -> None:
    work = pieces.work
    trainings = (work.sweep.trials if work.sweep is not None else ()) + work.final
    if not trainings:
        return
    begin = time.monotonic()
    from ray_synth.sweep.places import Places
    from ray_synth.sweep.tuner import run_sweep

    imports = time.monotonic() - begin
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
        prior=None,
        max_ratio=ratio,
        shown=shown,
    )
    over = time.monotonic() - begin
    rows = [
        (t.num_synthetic, int(t.setting.classifier["updates"]), t.seconds) for t in trials if t.status == "complete"
    ]
    _fit_trials(pieces, rows, len(real))
    _tune(pieces, [t.seconds for t in trials], list(ends.values()), over, imports)
    if work.final:
        _final(pieces, small, synthetic, ratio, levels)


def _ratio(trainings: Sequence[Training], real: int) -> float:
    """A ratio in the middle of those that are trained at, as far as there is room."""
    middle = float(np.median([t.ratio for t in trainings]) or max(t.ratio for t in trainings))
    return min(middle, MOST_SYNTHETIC / real) or 1.0


def _levels(pieces: Pieces, synthetic: ImageSet) -> list[int]:
    """Numbers of updates whose trainings take about as long as a piece may."""
    from ray_synth.sweep.space import default_setting
    from ray_synth.sweep.trial import train_setting

    inputs, e = pieces.run.inputs, _updates(pieces.experiment, 1, 1)
    judged = some(inputs.splits.validation, 64)
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


def _fit_trials(pieces: Pieces, rows: Sequence[tuple[int, int, float]], real: int) -> None:
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


def _tune(pieces: Pieces, seconds: Sequence[float], ends: Sequence[float], over: float, imports: float) -> None:
    """What Tune takes to start and end, and beside each trial: wall time over that of a plain schedule."""
    ended = sorted(ends)
    plain = float(in_slots(np.asarray([seconds]), pieces.slots)[0])
    start = max(0.0, ended[0] - min(seconds))
    beside = max(0.0, ended[-1] - start - plain) * pieces.slots / len(seconds)
    pieces.note("tune_start", imports + start + over - ended[-1], 0.2)
    before = pieces.found["trial"]
    pieces.note("trial", before.value + beside, before.sigma)


def _final(pieces: Pieces, e: Experiment, synthetic: ImageSet, ratio: float, levels: Sequence[int]) -> None:
    """Final trainings on Ray Train, timed by when their files are there: a first one, two lengths, one diagnosed."""
    began = time.monotonic()
    from ray_synth.classifier.diagnostics import images_read
    from ray_synth.classifier.final import Training as FinalTraining
    from ray_synth.classifier.final import train_final

    imports = time.monotonic() - began
    from ray_synth.classifier.train import num_diagnoses
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
    pieces.note("train_start", imports + max(0.0, there[0] - float(short)) + max(0.0, over - there[-1]), 0.2)
    sides = len(splits.train), len(synthetic)
    looked = num_diagnoses(e.classifier.batch_size, *sides, high) * images_read(*sides, len(splits.validation))
    pieces.note("diagnosis_image", max(0.0, float(diagnosed) - float(long)) / looked, 0.3)


def results(pieces: Pieces) -> None:
    if not pieces.work.tests:
        return
    from ray_synth.classifier.mixture import TrainingData
    from ray_synth.classifier.models import build_model
    from ray_synth.classifier.predict import logits_of
    from ray_synth.classifier.train import fit
    from ray_synth.evaluators.fidelity import JUDGE
    from ray_synth.metrics.spectrum import rapsd

    inputs, e = pieces.run.inputs, pieces.experiment
    judged = some(inputs.splits.test, MOST_REAL)
    real = some(inputs.all_but_test(), MOST_SYNTHETIC)
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
        judge = fit(data, judged, JUDGE.model_copy(update={"updates": updates}), seed=0).model
        seconds.append(time.monotonic() - begin)
    pieces.note("evaluate", seconds[1] + max(0.0, seconds[2] - seconds[1]) / 40 * JUDGE.updates, 0.2)
    begin = time.monotonic()
    logits_of(judge, judged.images)
    rapsd(judged.images.astype(np.float64) / 255.0)
    pieces.note("judged_image", (time.monotonic() - begin) / len(judged), 0.2)
    model = build_model(e.classifier, inputs.shape, inputs.class_names, seed=0).eval()
    logits_of(model, judged.images[:8])
    begin = time.monotonic()
    logits_of(model, judged.images)
    pieces.note("test_image", (time.monotonic() - begin) / len(judged), 0.2)
