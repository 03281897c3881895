"""Images and a prediction in, the table of trials and its pictures out: the sweep of a run, and its extension."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ray_synth.config import digest
from ray_synth.errors import InputError
from ray_synth.stages.estimate import Prediction
from ray_synth.stages.generate import SyntheticImages
from ray_synth.stages.inputs import Inputs, Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ray_synth.sweep.ledger import Ledger, SweepResult, Trial
    from ray_synth.sweep.prior import Prior
    from ray_synth.sweep.space import Setting, Space


class SweepOfRun:
    """The sweep of a run."""

    def __init__(self, inputs: Inputs, images: SyntheticImages, prediction: Prediction):
        """Raises InputError for a space that the images do not reach."""
        self.inputs, self.images, self.prediction = inputs, images, prediction
        self.settings, self.folder = inputs.experiment.sweep, inputs.folder
        _ = self.space

    @functools.cached_property
    def space(self) -> Space:
        """What is searched, as the trials have it: with absolute paths."""
        from ray_synth.sweep.space import Space

        return Space(self.inputs.on_workers, num_classes=len(self.inputs.class_names), max_ratio=self.max_ratio)

    @property
    def max_ratio(self) -> float:
        """The upper end of the searched ratios."""
        return self.images.max_ratio(self.settings.top_ratio)

    @property
    def prior(self) -> Prior | None:
        """What the search is told of the prediction."""
        from ray_synth.sweep.prior import Prior

        return Prior.of(self.prediction.read(), self.settings.prior)

    def stage(self) -> Stage:
        from ray_synth.sweep.search import num_trials

        e, prior = self.inputs.experiment, self.prior
        stage_digest = digest(
            "sweep",
            self.settings.model_dump(mode="json", exclude={"num_trials", "concurrency", "tolerance", "gpus_per_trial"}),
            e.classifier.model_dump(mode="json", exclude={"num_workers"}),
            e.partition,
            self.inputs.classifier_files,
            e.data.use_real,
            e.seed,
            self.max_ratio,
            {} if prior is None else prior.to_dict(),
            self.images.digest,
            self.inputs.digests["train"],
            self.inputs.digests["validation"],
        )
        ledger = self._ledger(stage_digest)
        ended, total = len(ledger.ended), num_trials(ledger, self.inputs.on_workers, self.space, prior)
        searched = ", ".join(dict.fromkeys(("synthetic_ratio", *self.settings.searched)))
        plan = f"{total} trials of {searched}" + (f"; {ended} are there" if ended else "")
        work = functools.partial(self._work, ledger)
        return Stage(stage_digest, ("sweep",), plan, total, work, ready=ended >= total)

    def _ledger(self, stage_digest: str) -> Ledger:
        """What was tried with these settings. A ledger of others is not read: it will be set aside."""
        from ray_synth.sweep.ledger import Ledger

        record = self.folder.stage("sweep")
        return Ledger(self.folder, read=record is not None and record.digest == stage_digest)

    def _work(self, ledger: Ledger, advance: Callable[[int], None]) -> None:
        from ray_synth.report.search import trial_events
        from ray_synth.report.trials import live_table, trial_line
        from ray_synth.sweep.tuner import run_sweep

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
            self.inputs.splits.train,
            self.inputs.splits.validation,
            self.images.for_ratio,
            prior=self.prior,
            max_ratio=self.max_ratio,
            shown=show,
        )
        self._draw()

    def extend(self, trials: int) -> None:
        """Ask for more trials of a finished sweep. One that is still to be finished goes on first, so that the same
        command continues an extension that was killed."""
        from ray_synth.sweep.search import num_trials

        record = self.folder.stage("sweep")
        if record is None or not self.prediction.exists() or record.digest != self.stage().digest:
            raise InputError(
                f"--extend adds trials to a finished sweep, and {self.folder.url} holds none with these settings; "
                "leave --extend out first"
            )
        ledger = self._ledger(record.digest)
        counted = functools.partial(num_trials, ledger, self.inputs.on_workers, self.space, self.prior)
        ended, total = len(ledger.ended), counted()
        if not record.complete or ended < total:
            self.inputs.reporter.say(
                f"--extend: the sweep has {ended} of {total} trials; these are finished, and none is added"
            )
            return
        ledger.target = total + trials
        if counted() == total:
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
        from ray_synth.sweep.ledger import best_trial

        return best_trial(self.trials, self.settings.metric).setting

    def result(self) -> SweepResult:
        from ray_synth.sweep.ledger import SweepResult

        return SweepResult(
            folder=self.folder.url,
            metric=self.settings.metric,
            tolerance=self.settings.tolerance,
            trials=tuple(self.trials),
        )

    def picture(self, ledger: Ledger | None = None) -> Figure:
        """What the search did."""
        from ray_synth.report.search import search_picture
        from ray_synth.sweep.ledger import Ledger
        from ray_synth.sweep.search import importances

        ledger, metric = ledger or Ledger(self.folder), self.settings.metric
        return search_picture(ledger.trials, importances(ledger, self.space, metric), metric)

    def _draw(self) -> None:
        """Pictures beside the table, for who asks for the sweep alone."""
        from ray_synth.report.plots import as_svg, ratio_curve
        from ray_synth.sweep.ledger import Ledger, best_trial

        ledger = Ledger(self.folder)
        best = best_trial(ledger.trials, self.settings.metric).setting.synthetic_ratio
        curve = ratio_curve(self.prediction.read(), ledger.trials, best, self.prediction.ratio)
        for name, figure in (("ratio", curve), ("search", self.picture(ledger))):
            self.folder.write(f"sweep/{name}.svg", as_svg(figure).encode())


def _events(trial_id: str) -> str:
    """What TensorBoard reads of a trial."""
    return f"sweep/tensorboard/{trial_id}/events.out.tfevents.0.{trial_id}"
