"""An experiment file in, a finished run folder out: the stages in order, each skipped when its digest is complete.

A stage's digest covers its settings and the content of what it reads, so it is known when its turn comes: whatever
changed upstream makes exactly those stages stale that depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import Diffusion, Experiment, changed, load_experiment
from ray_synth.errors import InputError, PartlyDone
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages.estimate import Prediction
from ray_synth.stages.finetune import GeneratorModel
from ray_synth.stages.generate import SyntheticImages
from ray_synth.stages.inputs import STAGES, Inputs, Stage
from ray_synth.stages.results import METRICS, REPORT, SUMMARY, Results
from ray_synth.stages.sweep import SweepOfRun
from ray_synth.stages.train import FinalTrainings

if TYPE_CHECKING:
    from ray_synth.bound.result import RatioEstimate
    from ray_synth.generator.generation import Generation
    from ray_synth.report.summary import Summary
    from ray_synth.sweep.ledger import SweepResult

    Result = Summary | RatioEstimate | SweepResult | Generation | dict[str, Any]

EXPORTS = ("folder", "webdataset")
RESULTS = {"evaluate": (METRICS, SUMMARY), "report": (REPORT,)}


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
    reporter = reporter or Reporter()
    experiment = loaded(path, overrides=overrides, seed=seed, smoke=smoke, reporter=reporter)
    job = Run(experiment, folder_of(experiment, out), reporter)
    if dry_run:
        return job.check()
    result = job.perform(until, extend=extend)
    if export is not None:
        job.export(export)
    return result if isinstance(result, dict) else result.to_dict()


def loaded(
    path: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None,
    seed: int | None,
    smoke: bool,
    reporter: Reporter,
) -> Experiment:
    """An experiment file as it will be run: in small, where asked."""
    experiment = load_experiment(path, overrides, seed=seed)
    if not smoke:
        return experiment
    from ray_synth.smoke import WARNING, shrunk, tiny_models

    reporter.say(WARNING)
    return shrunk(experiment, tiny_models(experiment))


def folder_of(experiment: Experiment, out: str | os.PathLike[str] | None) -> RunFolder:
    """The run folder that was named, or `runs/NAME`."""
    return RunFolder(out if out is not None else Path("runs") / experiment.name)


class Run:
    """One experiment in one run folder: its stages, checked as a whole before the first begins."""

    def __init__(self, experiment: Experiment, folder: RunFolder, reporter: Reporter):
        self.experiment, self.folder, self.reporter = experiment, folder, reporter
        self.inputs = Inputs(experiment, folder, reporter)
        try:
            self._check_classifier()
            self.model = GeneratorModel(self.inputs)
            self.images = SyntheticImages(self.inputs, self.model)
            self.prediction = Prediction(self.inputs, self.images)
            self.sweep = SweepOfRun(self.inputs, self.images, self.prediction)
            self.final = FinalTrainings(self.inputs, self.images, self.prediction, self.sweep)
            self.results = Results(self.inputs, self.images, self.final)
            self._check_clusters()
        except BaseException:
            self.inputs.resources.close()
            raise
        self.notes = [*self.inputs.splits.notes, *self.model.notes, *self.images.notes]

    def stage(self, name: str) -> Stage:
        """A stage, when its turn has come."""
        rooms = {
            "finetune": self.model.stage,
            "generate": self.images.stage,
            "estimate": self.prediction.stage,
            "sweep": self.sweep.stage,
            "train": self.final.stage,
            "evaluate": self.results.evaluate_stage,
            "report": self.results.report_stage,
        }
        return rooms[name]()

    def _check_classifier(self) -> None:
        from ray_synth.classifier.models import check_model
        from ray_synth.clip import OpenClip

        e, shape = self.experiment, self.inputs.shape
        check_model(e.classifier, shape)
        for name in ("model", "weights", "image_size"):
            for choice in e.sweep.choices_of(name):
                try:
                    check_model(changed(e.classifier, {name: choice}), shape)
                except InputError as error:
                    raise InputError(f"sweep.space.{name}: {choice!r} does not do: {error}") from None
        if e.partition.encoder:
            OpenClip(*e.partition.encoder)  # loads it: weights that do not fit would fail in every trial

    def check_places(self) -> None:
        """Raise InputError where trials or final trainings find no room on this machine. A cluster is asked later."""
        import torch

        from ray_synth.classifier.final import check_workers
        from ray_synth.sweep.places import Places

        if os.environ.get("RAY_ADDRESS"):
            return
        cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
        Places.of(self.experiment.sweep, cpus=cpus, gpus=gpus)
        check_workers(self.experiment.classifier.num_workers, gpus or cpus, "GPUs" if gpus else "CPUs")

    def _check_clusters(self) -> None:
        partition, classes = self.experiment.partition, len(self.inputs.class_names)
        samples = len(self.inputs.splits.train) + self.images.most_per_class * classes
        if partition.clusters(classes) > samples:
            raise InputError(
                f"partition.num_clusters must be at most {samples:,}, the real and synthetic images, "
                f"got {partition.clusters(classes):,}; type --set partition.num_clusters={2 * classes}"
            )

    def check(self) -> dict[str, Any]:
        """Say what would be done, and write nothing."""
        with self.inputs.resources:
            self.check_places()
            self.folder.check_free_for(self.experiment)
            self.reporter.say(self._overview())
        sizes = {name: len(images) for name, images in self.inputs.sets.items()}
        return {"name": self.experiment.name, "stages": list(STAGES), "sets": sizes}

    def _overview(self) -> str:
        e = self.experiment
        sets = ", ".join(f"{len(images):,} {name}" for name, images in self.inputs.sets.items())
        trainings = 3 * e.evaluate.repeats
        budget = (
            f"{e.classifier.updates:,} updates" if e.classifier.budget == "updates" else f"{e.classifier.epochs} epochs"
        )
        trains = isinstance(e.generator, Diffusion)
        lines = [
            f"{e.name}: {len(self.inputs.class_names)} classes; real images: {sets}",
            f"  generator   {e.generator.steps:,} training steps"
            if trains
            else f"  generator   {self.model.origin.model_id}",
            f"  images      {self.images.total:,} synthetic"
            + (", more when a trial needs them" if e.generate.images_per_class is None else "")
            + f", ratios 0 to {self.images.max_ratio(e.sweep.top_ratio):g}",
            f"  sweep       {e.sweep.num_trials} trials of at most {budget}"
            + (f", {e.sweep.repeats} seeds each" if e.sweep.repeats > 1 else ""),
            f"  final       {trainings} trainings of {budget}, then the test set is read once",
        ]
        wanted = min(e.sweep.top_ratio, e.estimate.max_ratio)
        if self.images.max_ratio(wanted) < wanted:
            need = int(np.ceil(wanted * self.inputs.real_counts.max()))
            lines.append(
                f"  note: ratio {wanted:g} needs {need} images per class; "
                f"type --set generate.images_per_class={need} to search it"
            )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def perform(self, until: str, *, extend: int | None = None) -> Result:
        """Do what is not done yet, up to and including a stage; its result."""
        done = 0
        partly: list[PartlyDone] = []
        with self.inputs.resources:
            self.check_places()
            if extend is not None:
                self.folder.check_free_for(self.experiment)
                self.sweep.extend(extend)
            if os.environ.get("RAY_ADDRESS"):
                self._check_cluster()
            moved = self.folder.open_for(self.experiment)
            self.reporter.log_to(self.folder)
            self.reporter.log(f"--- {self.experiment.name}, until {until}")
            self.inputs.report_moved(moved)
            self._write_splits()
            for name in STAGES[: STAGES.index(until) + 1]:
                stage = self.stage(name)
                if stage.ready and self.folder.is_complete(name, stage.digest):
                    continue
                if not done:
                    self.reporter.say(self._overview())
                done += 1
                self._set_results_aside(name, stage)
                try:
                    with self.folder.working_on(
                        name, stage.digest, stage.outputs, named_by_content=stage.named_by_content
                    ) as moved:
                        self.inputs.report_moved(moved)
                        with self.reporter.stage(name, stage.plan, stage.total) as advance:
                            stage.work(advance)
                except PartlyDone as error:
                    partly.append(error)
        if partly:
            raise partly[0]
        if not done:
            self.reporter.say(f"{self.experiment.name}: everything up to {until} is complete in {self.folder.url}")
        return self._result(until)

    def _check_cluster(self) -> None:
        """A cluster that was joined: its nodes must see the run folder."""
        from ray_synth.nodes import check_shared

        self.folder.check_free_for(self.experiment)
        self.inputs.start_ray()
        check_shared(self.folder)

    def _result(self, until: str) -> Result:
        if until in ("evaluate", "report"):
            return self.results.summary()
        if until == "estimate":
            return self.prediction.read()
        if until == "sweep":
            return self.sweep.result()
        if until == "generate":
            return self.images.generation()
        return {"stage": until, "folder": self.folder.url}

    def export(self, kind: str) -> None:
        self.reporter.say(f"images: {self.folder.url}/{self.images.export(kind)}")

    def _set_results_aside(self, name: str, stage: Stage) -> None:
        """Before a stage is redone with other settings: figures of the old ones must not stand beside it."""
        before = self.folder.stage(name)
        if before is not None and before.digest != stage.digest:
            later = STAGES[STAGES.index(name) :]
            results = [file for stage_name, files in RESULTS.items() if stage_name in later for file in files]
            self.inputs.report_moved(self.folder.set_aside(results, "results"))

    def _write_splits(self) -> None:
        content = {
            "digests": self.inputs.digests,
            "generator_split": self.experiment.data.generator_split,
            "keys": {name: images.keys() for name, images in self.inputs.sets.items()},
        }
        if self.folder.exists("splits.json"):
            if self.folder.read_json("splits.json") == content:
                return
            self.folder.set_aside(["splits.json"], "splits")
        self.folder.write_json("splits.json", content)
