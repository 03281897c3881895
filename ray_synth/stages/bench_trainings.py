"""Real images and stand-ins for synthetic ones in; seconds of trials and of final trainings out, by their own code."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.allocation import synthetic_counts
from ray_synth.config import Experiment
from ray_synth.data.source import ImageSource
from ray_synth.hardware.measure import Measure
from ray_synth.stages.bench import MOST_SYNTHETIC, Bench, some, stand_in
from ray_synth.stages.takes import as_training, training_takes
from ray_synth.tasks import in_slots

if TYPE_CHECKING:
    from ray_synth.classifier.setting import Setting
    from ray_synth.sweep.ledger import Ledger

TRIAL_SECONDS = 1.5  # that a piece is meant to take
LEVELS = (0.1, 0.4, 0.7, 1.0)  # of updates, in trials of two ratios each


def measure_trainings(bench: Bench, settings: Sequence[Setting]) -> None:
    """A small sweep of two ratios and some numbers of updates; then, where they are wanted, some final trainings.

    settings: those that will be trained.
    """
    begin = time.monotonic()
    from ray_synth.sweep.slots import TrialSlots
    from ray_synth.sweep.tuner import run_sweep

    imports = time.monotonic() - begin
    bench.start_ray()
    inputs, splits = bench.inputs, bench.inputs.splits
    ratio, updates = _middle(bench, settings)
    synthetic = stand_in(splits.train, _asked(bench, ratio))
    levels = _levels(bench, synthetic, updates)
    small = small_experiment(inputs.on_workers, ratio, levels)
    slots = TrialSlots.of(small.sweep, cpus=bench.cpus, gpus=bench.gpus).count
    ends: dict[str, float] = {}
    begin = time.monotonic()

    def shown(ledger: Ledger, running: Mapping[str, Any]) -> None:
        for trial_id in ledger.ended:
            ends.setdefault(trial_id, time.monotonic() - begin)

    trials = run_sweep(
        bench.folder,
        small,
        splits.train,
        splits.validation,
        lambda ratio: synthetic,
        prior=None,
        max_ratio=ratio,
        shown=shown,
    )
    over = time.monotonic() - begin
    rows = [
        (t.num_synthetic, int(t.setting.classifier["updates"]), t.seconds) for t in trials if t.status == "complete"
    ]
    # The first trial of each process is slower.
    used = rows[slots:] if len(rows) - slots >= 5 else rows
    fixed, image, both, one_side, sigma = fit_trials(used, len(splits.train))
    fixed += _tune(bench, [t.seconds for t in trials], sorted(ends.values()), over, imports, slots)
    bench.note("trial", fixed, 0.2)
    bench.note("trial_image", image, 0.2)
    bench.note("update", both, sigma)
    bench.note("update_one_side", one_side, sigma)
    if bench.wants("training"):
        _measure_final(bench, small, synthetic, ratio, levels)


def _asked(bench: Bench, ratio: float) -> np.ndarray:
    """Images of each class that the ratio takes, and one at least of each that has any. [C]"""
    real, given = bench.inputs.real_counts, bench.inputs.given
    counts = synthetic_counts(real, ratio, bench.inputs.experiment.data.allocation, given)
    return np.where(given & (real > 0), np.maximum(counts, 1), 0)


def _middle(bench: Bench, settings: Sequence[Setting]) -> tuple[float, int]:
    """A ratio in the middle of those that are trained at, as far as there is room, and the most updates of any."""
    ratios = [setting.synthetic_ratio for setting in settings]
    middle = float(np.median(ratios) or max(ratios))
    takes = [training_takes(bench.inputs, setting, "trial") for setting in settings]
    most = max(many for each in takes for unit, many in each.items() if unit.startswith("update"))
    return min(middle, MOST_SYNTHETIC / len(bench.inputs.splits.train)) or 1.0, int(most)


def _levels(bench: Bench, synthetic: ImageSource, most: int) -> list[int]:
    """Numbers of updates whose trainings take about as long as a piece may. most: that any training has."""
    from ray_synth.classifier.experiment_data import ExperimentData
    from ray_synth.classifier.setting import default_setting
    from ray_synth.classifier.train import fit

    inputs = bench.inputs
    e = _updates(_of_one(inputs.on_workers), 1, 1)
    judged = some(inputs.splits.validation, 64)
    setting = default_setting(e, len(inputs.class_names), 0.0)
    seconds = []
    for updates in (1, 1, 4):
        begin = time.monotonic()
        data = ExperimentData(
            experiment=_updates(e, updates, 1), real=inputs.splits.train, synthetic=synthetic, validation=judged
        )
        fit(*data.at(setting), seed=0)
        seconds.append(time.monotonic() - begin)
    each = max(1e-4, (seconds[2] - seconds[1]) / 3)
    evaluations = inputs.experiment.classifier.evaluations
    top = max(evaluations + 3, min(most, int(TRIAL_SECONDS / each)))
    least = min(evaluations, top - 3)
    return sorted({max(least, round(top * level)) for level in LEVELS} | {top})


def _of_one(e: Experiment) -> Experiment:
    """With one of several generators: stand-ins are of none."""
    if not e.generator.names:
        return e
    space = {name: each for name, each in e.sweep.space.items() if name != "generator"}
    return e.model_copy(update={"generator": e.generator.alone(), "sweep": e.sweep.model_copy(update={"space": space})})


def _updates(e: Experiment, updates: int, evaluations: int) -> Experiment:
    classifier = e.classifier.model_copy(
        update={"budget": "updates", "updates": updates, "evaluations": evaluations, "num_workers": 1}
    )
    return e.model_copy(update={"classifier": classifier})


def small_experiment(e: Experiment, ratio: float, levels: Sequence[int]) -> Experiment:
    """The experiment with a sweep of two ratios and a few numbers of updates, nothing stopped early."""
    e = _updates(_of_one(e), levels[-1], min(e.classifier.evaluations, levels[0]))
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


def fit_trials(rows: Sequence[tuple[int, int, float]], real: int) -> tuple[float, float, float, float, float]:
    """seconds = fixed + images * image + updates * (both or one side), by least squares.

    rows: (synthetic images, updates, seconds) of trials. Gives fixed, image, both, one side, and the sigma of the
    latter two.
    """
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


def _tune(
    bench: Bench, seconds: Sequence[float], ended: Sequence[float], over: float, imports: float, slots: int
) -> float:
    """What Tune takes to start and end; gives what it takes beside each trial: wall time over that of a plain
    schedule."""
    plain = float(in_slots(np.asarray([seconds]), slots)[0])
    start = max(0.0, ended[0] - min(seconds))
    bench.note("tune_start", imports + start + over - ended[-1], 0.2)
    return max(0.0, ended[-1] - start - plain) * slots / len(seconds)


def _measure_final(bench: Bench, e: Experiment, synthetic: ImageSource, ratio: float, levels: Sequence[int]) -> None:
    """Final trainings on Ray Train, timed by when their files are there: a first one, two lengths, one diagnosed."""
    began = time.monotonic()
    from ray_synth.classifier.diagnostics import images_read
    from ray_synth.classifier.experiment_data import ExperimentData
    from ray_synth.classifier.final import Training, train_final

    imports = time.monotonic() - began
    from ray_synth.classifier.setting import default_setting
    from ray_synth.classifier.train import num_diagnoses

    splits, classes = bench.inputs.splits, len(bench.inputs.class_names)

    def training(name: str, updates: int, diagnosed: bool = False) -> Training:
        setting = default_setting(e, classes, ratio)
        setting = replace(setting, classifier={**setting.classifier, "updates": updates})
        return Training(name=name, setting=setting, seed=0, diagnosed=diagnosed)

    low, high = levels[0], levels[-1]
    trainings = [training("a", low), training("b", low), training("c", high), training("d", high, True)]
    data = ExperimentData.of(e, splits.train, synthetic, splits.validation)
    clock, begin = time.time(), time.monotonic()
    train_final(bench.folder, trainings, data, num_workers=1)
    over = time.monotonic() - begin
    there = [os.path.getmtime(bench.folder.path(t.file)) - clock for t in trainings]
    _short, short, long, diagnosed = there[0], *np.diff(there)
    found, images = bench.found, len(splits.train) + len(synthetic)
    expected = found["trial"].value + images * found["trial_image"].value + high * found["update"].value
    alone = Measure(value=float(long) / max(expected, 1e-9), sigma=0.1, origin="beside a final training")
    found |= as_training(found, alone)
    bench.note("train_start", imports + max(0.0, there[0] - float(short)) + max(0.0, over - there[-1]), 0.2)
    sides = len(splits.train), len(synthetic)
    looked = num_diagnoses(e.classifier.batch_size, *sides, high) * images_read(*sides, len(splits.validation))
    bench.note("diagnosis_image", max(0.0, float(diagnosed) - float(long)) / looked, 0.3)
