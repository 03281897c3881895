"""Images and a prediction in, the table of trials and its pictures out: the sweep of a run, and its extension."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.classifier.setting import TRAINING
from ray_synth.config import digest, said
from ray_synth.errors import InputError, Spoiled
from ray_synth.hardware.machine import machine_memory
from ray_synth.hardware.measure import Measure
from ray_synth.records import unreadable
from ray_synth.seeding import derive_seed
from ray_synth.stages.estimate import Estimate
from ray_synth.stages.generate import Generate
from ray_synth.stages.inputs import Inputs
from ray_synth.stages.stage import Stage
from ray_synth.stages.takes import sides_of, training_takes
from ray_synth.tasks import Alternative, InSlots, Task, Tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ray_synth.classifier.setting import Setting
    from ray_synth.hardware.gpus import Gpu
    from ray_synth.stages.bench import Bench
    from ray_synth.sweep.ledger import Ledger, SweepResult, Trial
    from ray_synth.sweep.prior import Prior
    from ray_synth.sweep.space import Space

WHO_TRIES = {"num_trials", "concurrency", "tolerance", "gpus_per_trial"}  # of the section: what changes no trial
PICTURES = ("ratio", "search")
TOLD = 2**30  # bytes beyond which a plan tells what a training remembers


class Sweep(Stage):
    """The sweep of a run."""

    name = "sweep"
    purpose = "Search the ratio and the classifier's settings with Ray Tune and Optuna"
    needs = (Generate, Estimate)
    reads = (Estimate,)
    keeps = ("sweep/trials.csv", *(f"sweep/{name}.svg" for name in PICTURES))

    def __init__(self, inputs: Inputs, others: Mapping[type[Stage], Stage]):
        """Raises InputError for a space that the images do not reach."""
        super().__init__(inputs, others)
        self.settings = self.experiment.sweep
        _ = self.space

    @functools.cached_property
    def space(self) -> Space:
        """What is searched, as the trials have it: with absolute paths."""
        from ray_synth.sweep.space import Space

        return Space(self.inputs.on_workers, num_classes=len(self.inputs.class_names), max_ratio=self.max_ratio)

    @property
    def max_ratio(self) -> float:
        """The upper end of the searched ratios."""
        return self.of(Generate).max_ratio(self.settings.top_ratio)

    @property
    def prior(self) -> Prior | None:
        """The prediction as the search takes it; for one that is not known yet, what stands for it."""
        from ray_synth.sweep.prior import Prior

        estimate = self.of(Estimate)
        if estimate.complete:
            return Prior.of(estimate.result(), self.settings.prior, estimate.ranking())
        ratio = estimate.expected_ratio
        return None if self.settings.prior == "none" else Prior(ratio=ratio, interval=(ratio / 2, 2 * ratio))

    @property
    def digest(self) -> str:
        e, prior = self.experiment, self.prior
        return digest(
            "sweep",
            TRAINING,
            said(self.settings, without=WHO_TRIES),
            said(e.classifier, without={"num_workers"}),
            e.partition,
            self.inputs.classifier_files,
            e.data.use_real,
            e.seed,
            self.max_ratio,
            {} if prior is None else prior.to_dict(),
            self.of(Generate).trained_on,
            *self.of(Generate).allocated,
            self.inputs.digests["train"],
            self.inputs.digests["validation"],
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def sealed(self) -> Sequence[str]:
        """Not the ledger, whose lines have a hash each."""
        from ray_synth.sweep.ledger import TRIALS

        return (TRIALS, *(f"sweep/{name}.svg" for name in PICTURES))

    @property
    def overview(self) -> str:
        c, s = self.experiment.classifier, self.settings
        budget = f"{c.updates:,} updates" if c.budget == "updates" else f"{c.epochs} epochs"
        repeats = f", {s.repeats} seeds each" if s.repeats > 1 else ""
        return f"sweep       {s.num_trials} trials of at most {budget}{repeats}{self._size_said}"

    @property
    def _size_said(self) -> str:
        share = self.inputs.tried_share
        return "" if share == 1 else f", each on {100 * share:.3g} % of the images of its ratio"

    @property
    def caveats(self) -> Sequence[str]:
        bytes_, said = self._remembered
        return (f"{said}, which is not checked on a cluster",) if bytes_ > TOLD and not self.complete else ()

    @property
    def lacking(self) -> str:
        bytes_, said = self._remembered
        if bytes_ <= (room := machine_memory()) or self.complete:
            return ""
        return f"{said}, and this machine has {room / 2**30:.1f} GiB left; type --set classifier.algorithm=full"

    @property
    def _remembered(self) -> tuple[int, str]:
        """Bytes that a worker takes for the logits of all images at the largest ratio, and a sentence of it."""
        if self.experiment.classifier.algorithm != "lightweight":
            return 0, ""
        from ray_synth.classifier.memory_bank import COPIES, bytes_kept
        from ray_synth.classifier.setting import default_setting

        classes = len(self.inputs.class_names)
        real, synthetic = sides_of(self.inputs, default_setting(self.experiment, classes, self.max_ratio))
        once = bytes_kept(real + synthetic, classes) if real and synthetic else 0
        return COPIES * once, (
            f"classifier.algorithm: lightweight remembers {real + synthetic:,} x {classes:,} logits, "
            f"{once / 2**30:.1f} GiB in each worker, {COPIES * once / 2**30:.1f} GiB while it keeps a checkpoint"
        )

    # What is left.

    @property
    def ledger(self) -> Ledger:
        """What was tried with these settings. A ledger of others is not read: it will be set aside."""
        from ray_synth.sweep.ledger import Ledger

        return Ledger(self.folder, read=self.begun)

    def num_trials(self, ledger: Ledger) -> int:
        """Trials in the end."""
        from ray_synth.sweep.search import num_trials

        return num_trials(ledger, self.inputs.on_workers, self.space, self.prior)

    @property
    def ready(self) -> bool:
        ledger = self.ledger
        return len(ledger.ended) >= self.num_trials(ledger)

    @property
    def done(self) -> int:
        return len(self.ledger.ended)

    @property
    def total(self) -> int:
        return self.num_trials(self.ledger)

    @property
    def plan(self) -> str:
        searched = ", ".join(dict.fromkeys(("synthetic_ratio", *self.settings.searched)))
        updates = [
            round(many)
            for setting in self.expected_settings(self.ledger).values()
            for unit, many in self._takes(setting).items()
            if unit.startswith("update")
        ]
        low, high = min(updates), max(updates)
        span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        there = f"; {self.done} are there" if self.done else ""
        return f"{self.total} trials of {span} updates over {searched}{self._size_said}{there}"

    def tasks(self) -> Sequence[Tasks]:
        ledger, images = self.ledger, self.of(Generate)
        ended = {trial_id for trial_id, trial in ledger.ended.items() if not trial.again}
        settings = self.expected_settings(ledger)
        left = {trial_id: setting for trial_id, setting in settings.items() if trial_id not in ended}
        if not left:
            return ()
        top = max(self.space.ratio_range[1], *(setting.synthetic_ratio for setting in settings.values()))
        return (
            *images.more_for(top, self.inputs.tried_counts),
            images.reading(top, self.inputs.tried_counts),
            self._trials(left, done=len(settings) - len(left)),
        )

    def expected_settings(self, ledger: Ledger) -> dict[str, Setting]:
        """Trial -> setting, in their order and as many as the sweep itself counts: those that were started, the first
        ones of the prediction, then all choices where there is nothing else, or the range evenly in a fixed shuffle."""
        from ray_synth.classifier.setting import default_setting
        from ray_synth.sweep.search import first_settings, grid_in_turn

        e = self.inputs.on_workers
        settings = [ledger.starts[trial_id].setting for trial_id in sorted(ledger.starts)]
        total = max(len(settings), self.num_trials(ledger))
        for more in (first_settings(e, self.space, self.prior), grid_in_turn(e, self.space) or []):
            tried = {setting.digest for setting in settings}
            settings += [setting for setting in more if setting.digest not in tried]
        settings += [
            default_setting(e, len(self.inputs.class_names), ratio, self.of(Estimate).generator)
            for ratio in self._drawn_ratios(max(0, total - len(settings)))
        ]
        return {f"t{k:05d}": setting for k, setting in enumerate(settings[:total])}

    def _drawn_ratios(self, count: int) -> list[float]:
        """So many ratios of a space that is not choices alone."""
        from ray_synth.classifier.setting import RATIO
        from ray_synth.sweep.space import from_scale, to_scale

        dimension = self.space.dimensions[RATIO]
        if dimension.choices is not None:
            choices = sorted(dimension.choices)
            return [float(choices[k % len(choices)]) for k in range(count)]
        # As the prediction draws them.
        scale = "log1p" if self.settings.prior == "distribution" else dimension.scale
        low, high = (to_scale(end, scale) for end in self.space.ratio_range)
        evenly = [from_scale(low + (high - low) * (k + 0.5) / count, scale) for k in range(count)]
        order = np.random.default_rng(derive_seed("plan", self.experiment.seed)).permutation(count)
        return [evenly[k] for k in order]

    def _takes(self, setting: Setting) -> dict[str, float]:
        """What a trial takes, with the real images that trials take."""
        counts = self.inputs.tried_counts
        return training_takes(self.inputs, setting, "trial", times=self.settings.repeats, counts=counts)

    def _trials(self, settings: Mapping[str, Setting], done: int = 0) -> Tasks:
        from ray_synth.sweep.slots import WINDOW

        s, evaluations = self.settings, self.settings.repeats * self.experiment.classifier.evaluations
        rungs, rung = [], float(s.grace)
        while s.pruner == "asha" and round(rung) < evaluations:
            rungs.append(round(rung) / evaluations)
            rung *= s.reduction_factor
        kept = 1 / s.reduction_factor
        return Tasks(
            tasks=tuple(Task(name=trial_id, takes=self._takes(setting)) for trial_id, setting in settings.items()),
            starts={"tune_start": 1},
            way=InSlots(
                workers=s.workers_per_trial,
                gpus=s.gpus_per_trial,
                most=s.concurrency,
                window=WINDOW,
                segments=evaluations,
                rungs=tuple(rungs),
                # A search that gets better lets more go on than its factor says.
                kept=(kept, min(1.0, 2 * kept)),
                done=done,
            ),
        )

    def alternative(self) -> Alternative:
        """One training at the predicted ratio, whatever of the sweep is done already."""
        from ray_synth.classifier.setting import default_setting

        images, estimate = self.of(Generate), self.of(Estimate)
        ratio = estimate.ratio
        settings = self.expected_settings(self.ledger)
        top = max((setting.synthetic_ratio for setting in settings.values()), default=0.0)
        one = default_setting(self.inputs.on_workers, len(self.inputs.class_names), ratio, estimate.generator)
        return Alternative(
            tasks=self._trials(settings),
            instead=Task(name="at the predicted ratio", takes=training_takes(self.inputs, one, "trial")),
            images=images.number_for(top, self.inputs.tried_counts),
            images_instead=max(int(images.counts(ratio).sum()), images.pilot_total),
            pool=images.pool,
        )

    # What it does.

    def run(self, advance: Callable[[int], None]) -> None:
        from ray_synth.report.search import trial_events
        from ray_synth.report.trials import live_table, trial_line
        from ray_synth.sweep.tuner import run_sweep

        ledger = self.ledger
        self._look_at_kept(ledger)
        self.inputs.start_ray()
        reporter, metric = self.inputs.reporter, self.settings.metric
        logged = {t.trial_id for t in ledger.trials if not t.again and self.folder.exists(_events(t.trial_id))}

        def show(ledger: Ledger, running: Mapping[str, Trial]) -> None:
            advance(len(ledger.ended))
            for trial_id in ledger.ended.keys() - logged:
                reporter.log(trial_line(ledger.ended[trial_id], metric))
                self.folder.write(_events(trial_id), trial_events(ledger.ended[trial_id]))
                logged.add(trial_id)
            reporter.below(lambda: live_table(ledger.trials, running, metric))

        run_sweep(
            self.folder,
            self.inputs.on_workers,
            self.inputs.tried,
            self.inputs.splits.validation,
            functools.partial(self.of(Generate).for_ratio, real=self.inputs.tried_counts),
            prior=self.prior,
            max_ratio=self.max_ratio,
            shown=show,
        )
        self._draw()

    def _look_at_kept(self, ledger: Ledger) -> None:
        """Say which lines of the ledger count for nothing. Raises Spoiled for a torn checkpoint of a trial."""
        from ray_synth.sweep.trial import RUNNING, kept_progress

        if ledger.spoiled:
            lines = ", ".join(map(str, ledger.spoiled))
            self.inputs.reporter.say(
                f"{self.name}: line(s) {lines} of {self.folder.url}/sweep/ledger.jsonl are not what was written: kept "
                f"in {self.folder.url}/stale/; their trials are run again"
            )
        for trial_id in self.folder.list(RUNNING):
            file = f"{RUNNING}/{trial_id}"
            if kept_progress(self.folder, file) is None:
                raise Spoiled(unreadable(f"{self.folder.url}/{file}", "it is torn"), file)

    def extend(self, trials: int) -> None:
        """Ask for more trials of a finished sweep. One that is still to be finished goes on first, so that the same
        command continues an extension that was killed."""
        record = self.folder.stage(self.name)
        if record is None or not self.begun:
            raise InputError(
                f"--extend adds trials to a finished sweep, and {self.folder.url} holds none with these settings; "
                "leave --extend out first"
            )
        ledger = self.ledger
        ended, total = len(ledger.ended), self.num_trials(ledger)
        if not record.complete or ended < total:
            self.inputs.reporter.say(
                f"--extend: the sweep has {ended} of {total} trials; these are finished, and none is added"
            )
            return
        ledger.target = total + trials
        if self.num_trials(ledger) == total:
            raise InputError(f"--extend: sweep.space holds no other setting than the {total} that were tried")
        ledger.extend(total + trials)

    # What it found.

    @property
    def trials(self) -> list[Trial]:
        """The trials that ended, by trial_id."""
        from ray_synth.sweep.ledger import Ledger

        return Ledger(self.folder).trials

    @property
    def best(self) -> Setting:
        return self.result().best.setting

    @property
    def best_alone(self) -> Setting:
        """The best setting that was tried without synthetic images."""
        from ray_synth.sweep.ledger import best_trial

        alone = [t for t in self.trials if t.status == "complete" and t.setting.synthetic_ratio == 0]
        return best_trial(alone, self.settings.metric).setting if alone else self.best

    def result(self) -> SweepResult:
        from ray_synth.sweep.ledger import SweepResult

        return SweepResult(
            folder=self.folder.url,
            metric=self.settings.metric,
            tolerance=self.settings.tolerance,
            trials=tuple(self.trials),
        )

    def show(self) -> None:
        from ray_synth.tables import print_sweep

        print_sweep(self.result())

    def summary(self) -> Mapping[str, Any]:
        found = self.result()
        cheapest = {"trial_id": found.cheapest.trial_id, "tolerance": found.tolerance}
        share = self.inputs.tried_share
        size = {} if share == 1 else {"sweep_real_share": share}
        return {"num_trials": len(found.trials), "cheapest": cheapest | found.cheapest.setting.to_dict(), **size}

    def picture(self) -> Figure:
        """What the search did."""
        from ray_synth.report.search import search_picture

        return search_picture(self.trials, self.importances(), self.settings.metric)

    def importances(self) -> Mapping[str, float]:
        """Share of the trials' spread that each setting explains, the largest first."""
        from ray_synth.sweep.ledger import Ledger
        from ray_synth.sweep.search import importances

        return importances(Ledger(self.folder), self.space, self.settings.metric)

    def _draw(self) -> None:
        """Pictures beside the table, for who asks for the sweep alone."""
        from ray_synth.report.plots import as_svg, ratio_curve

        estimate = self.of(Estimate)
        curve = ratio_curve(
            estimate.result(),
            self.trials,
            self.best.synthetic_ratio,
            estimate.ratio,
            estimate.generator,
            real_share=self.inputs.tried_share,
        )
        for name, figure in zip(PICTURES, (curve, self.picture()), strict=True):
            self.folder.write(f"sweep/{name}.svg", as_svg(figure).encode())

    # What it takes.

    def measured_with(self) -> Mapping[str, str | int]:
        e = self.experiment
        ignored = {"updates", "epochs", "budget", "num_workers", "learning_rate", "weight_decay"}
        return {
            "training images": len(self.inputs.splits.train),
            "validation images": len(self.inputs.splits.validation),
            "classifier": digest(said(e.classifier, without=ignored), e.partition),
        }

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        from ray_synth.classifier.flops import update_seconds
        from ray_synth.hardware.measure import NOTHING

        e, classes = self.experiment, len(self.inputs.class_names)
        both, one_side = update_seconds(gpu, e.classifier, self.inputs.shape, classes)
        clustered = e.partition.clusters(classes) > 1
        return {
            "tune_start": gpu.overheads["tune_start"],
            "trial": gpu.overheads["trial"],
            "trial_image": gpu.overheads["trial_image"] if clustered else NOTHING,
            "update": both,
            "update_one_side": one_side,
        }

    def calibrate(self, bench: Bench) -> None:
        if bench.wants("trial", "training"):  # final trainings are measured beside trials
            from ray_synth.stages.bench_trainings import measure_trainings

            measure_trainings(bench, list(self.expected_settings(self.ledger).values()))


def _events(trial_id: str) -> str:
    """What TensorBoard reads of a trial."""
    return f"sweep/tensorboard/{trial_id}/events.out.tfevents.0.{trial_id}"
