"""An experiment file in, a finished run folder out: the stages in order, each skipped when its digest is complete.

A stage's digest covers its settings and the content of what it reads, so it is known when its turn comes: whatever
changed upstream makes exactly those stages stale that depend on it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ray_synth.config import Experiment, changed, load_experiment
from ray_synth.config.yaml import read_yaml
from ray_synth.data.splits import key_rows
from ray_synth.errors import InputError, PartlyDone, Spoiled
from ray_synth.hardware.gpus import Card, card_here
from ray_synth.hardware.machine import usable_cpus
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.sampling.export import EXPORTS
from ray_synth.stages import Distill, Generate, Sweep, stages_asked, stages_until
from ray_synth.stages.finetune import Finetune
from ray_synth.stages.inputs import Inputs
from ray_synth.stages.stage import Stage
from ray_synth.stages.summary import SUMMARY, summary_of, write_summary

SPLITS, KEYS = "splits.json", "splits.parquet"
Other = TypeVar("Other", bound=Stage)
Result = TypeVar("Result")


def run(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    until: str | None = None,
    dry_run: bool = False,
    smoke: bool = False,
    export: str | None = None,
    extend: int | None = None,
    reporter: Reporter | None = None,
    show: bool = False,
) -> Any:
    """Do what `ray-synth run` does, up to and including the stage `until`; without one, all of it.

    Args:
        path: experiment file; or a run folder, whose run goes on.
        out: run folder, a path or an fsspec URL; default `runs/NAME`, or the run folder that is given as path.
        overrides: key -> value, e.g. {"data.shots": 5} or {"data": {"shots": 5}}; laid over the file's, key by key.
        dry_run: check everything, count what would be done, and write nothing.
        smoke: run the file in small, without its data and models, in `runs/NAME-smoke`; the figures mean nothing.
        export: also write the kept images to OUT/export, as `folder`, `webdataset` or `huggingface`.
        extend: add so many trials to a finished sweep.
        show: also print what was found.

    Returns:
        summary.json, or the result of the stage `until`.

    Raises:
        InputError: wrong input, found before anything starts.
        WorkError: a stage failed; what is finished is kept, and the next call continues.
    """
    stages_until(until)
    if export is not None and export not in EXPORTS:
        raise InputError(f"--export takes {', '.join(EXPORTS)}, got {export!r}; type --export folder")
    reporter = reporter or Reporter()
    experiment = loaded(path, overrides=overrides, seed=seed, smoke=smoke, reporter=reporter)
    job = Run(experiment, folder_of(experiment, out, path), reporter, gpu=card_here)
    if dry_run:
        return job.check()
    if export is not None and Distill in job.stages:
        job.of(Distill).check_export()
    result = job.perform(until, extend=extend)
    if export is not None:
        job.export(export)
    if show:
        job.show(until)
    return result if isinstance(result, dict) else result.to_dict()


def loaded(
    path: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None,
    seed: int | None,
    smoke: bool,
    reporter: Reporter,
) -> Experiment:
    """An experiment file, or that of a run folder, as it will be run: in small, where asked."""
    experiment = _read(path, overrides, seed)
    if not smoke:
        return experiment
    from ray_synth.smoke import WARNING, shrunk, tiny_models

    reporter.say(WARNING)
    return shrunk(experiment, tiny_models(experiment))


def _read(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None, seed: int | None) -> Experiment:
    if not _is_run_folder(path):
        return load_experiment(Path(path), overrides, seed=seed)
    folder = RunFolder(path)
    if not folder.exists("experiment.yaml"):
        raise InputError(f"{path} holds no experiment.yaml; give an experiment file, or the folder of a run")
    if folder.is_local:
        return load_experiment(folder.path("experiment.yaml"), overrides, seed=seed)
    with tempfile.TemporaryDirectory(prefix="ray_synth-experiment-") as here:
        file = Path(here) / "experiment.yaml"
        file.write_bytes(folder.read("experiment.yaml"))
        return load_experiment(file, overrides, seed=seed)


def _is_run_folder(path: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(path) or os.path.isdir(path)


def folder_of(
    experiment: Experiment, out: str | os.PathLike[str] | None, path: str | os.PathLike[str] | None = None
) -> RunFolder:
    """The run folder that was named; else `path` where that is the one whose experiment this is, else `runs/NAME`."""
    if out is None and path is not None and _is_run_folder(path):
        settings = read_yaml(RunFolder(path).read("experiment.yaml").decode())
        out = path if settings["name"] == experiment.name else None  # a smoke run has a name and a place of its own
    folder = RunFolder(out if out is not None else Path("runs") / experiment.name)
    folder.check_reachable()
    return folder


class Run:
    """One experiment in one run folder: its stages, checked as a whole before the first begins.

    described: the images are not here, and numbers alone are asked for. gpu: tells what it will be done on, where that
    is known.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        reporter: Reporter,
        *,
        described: bool = False,
        gpu: Callable[[], Card | None] = lambda: None,
    ):
        self.experiment, self.folder, self.reporter = experiment, folder, reporter
        self.inputs = Inputs(experiment, folder, reporter, described=described, gpu=gpu)
        self.stages: dict[type[Stage], Stage] = {}
        try:
            if not described:
                self._check_classifier()
            for kind in stages_asked(experiment):
                self.stages[kind] = kind(self.inputs, self.stages)
            self._check_clusters()
        except BaseException:
            self.inputs.resources.close()
            raise
        self.notes = [*self.inputs.splits.notes, *(note for stage in self.stages.values() for note in stage.notes)]

    def until(self, name: str | None = None) -> list[Stage]:
        """The stages up to one, in their order."""
        return [self.stages[kind] for kind in stages_asked(self.experiment, name)]

    def of(self, kind: type[Other]) -> Other:
        """One of its stages."""
        stage = self.stages[kind]
        assert isinstance(stage, kind)  # noqa: S101 - made from it
        return stage

    def _check_classifier(self) -> None:
        from ray_synth.classifier.models import check_model
        from ray_synth.features.encoders import encoder_of

        e, shape = self.experiment, self.inputs.shape
        check_model(e.classifier, shape)
        for name in ("model", "weights", "image_size"):
            for choice in e.sweep.choices_of(name):
                try:
                    check_model(changed(e.classifier, {name: choice}), shape)
                except InputError as error:
                    raise InputError(f"sweep.space.{name}: {choice!r} does not do: {error}") from None
        # Loaded: weights that do not fit would fail in every trial, at the end, or after all images are made.
        words = {e.partition.features, e.evaluate.features, e.evaluate.copies.word, e.estimate.features}
        for word in words - {"pixels", "auto"}:
            encoder_of(word, device="cpu")

    def _sweep(self) -> Sweep:
        """Raises InputError where the file asks for none."""
        stages_asked(self.experiment, Sweep.name)
        return self.of(Sweep)

    def check_places(self) -> None:
        """Raise InputError where trials, final trainings or what a stage holds in a GPU's memory find no room on this
        machine. A cluster is asked later."""
        import torch

        from ray_synth.sweep.slots import TrialSlots
        from ray_synth.training.team import check_workers

        if os.environ.get("RAY_ADDRESS"):
            return
        cpus, gpus = usable_cpus(), torch.cuda.device_count()
        TrialSlots.of(self.experiment.sweep, cpus=cpus, gpus=gpus)
        check_workers("classifier.num_workers", self.experiment.classifier.num_workers, cpus, gpus)
        if Finetune in self.stages:
            check_workers("generator.finetune.num_workers", self.of(Finetune).generator.fit_workers, cpus, gpus)
        for stage in self.stages.values():
            if stage.lacking:
                raise InputError(stage.lacking)

    def _check_clusters(self) -> None:
        if Generate not in self.stages:
            return
        partition, classes = self.experiment.partition, len(self.inputs.class_names)
        samples = len(self.inputs.splits.train) + int(self.of(Generate).most_per_class.sum())
        if partition.clusters(classes) > samples:
            raise InputError(
                f"partition.num_clusters must be at most {samples:,}, the real and synthetic images, "
                f"got {partition.clusters(classes):,}; type --set partition.num_clusters={2 * classes}"
            )

    def check(self) -> dict[str, Any]:
        """Say what would be done, and write nothing."""
        with self.inputs.resources:
            self.folder.check_free_for(self.experiment)
            self.check_places()
            self.reporter.say(self._overview())
        sizes = {name: len(images) for name, images in self.inputs.sets.items()}
        return {"name": self.experiment.name, "stages": [stage.name for stage in self.stages.values()], "sets": sizes}

    def _overview(self) -> str:
        e = self.experiment
        sets = ", ".join(f"{len(images):,} {name}" for name, images in self.inputs.sets.items())
        lines = [f"{e.name}: {len(self.inputs.class_names)} classes; real images: {sets}"]
        lines += [f"  {stage.overview}" for stage in self.stages.values() if stage.overview is not None]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def perform(self, until: str | None = None, *, extend: int | None = None) -> Any:
        """Do what is not done yet, up to and including a stage; its result."""
        stages = self.until(until)
        with self.inputs.resources:
            self.folder.check_free_for(self.experiment)
            self.check_places()
            if extend is not None:
                self._sweep().extend(extend)
            if os.environ.get("RAY_ADDRESS"):
                self._check_cluster()
            if (left := self.folder.leave_old_format()) is not None:
                self.reporter.say(left)
            moved = self.folder.open_for(self.experiment)
            self.reporter.log_to(self.folder)
            self.reporter.log(f"--- {self.experiment.name}, until {stages[-1].name}")
            self.inputs.report_moved(moved)
            self._mended(self._write_splits)
            self._set_aside(self.folder.torn_records(), "cannot be read")
            done, partly, summary = self._mended(lambda: self._carry_out(stages))
        if partly:
            raise partly[0]
        if not done:
            name = stages[-1].name
            self.reporter.say(f"{self.experiment.name}: everything up to {name} is complete in {self.folder.url}")
        concluded = summary is not None and any(stage.concludes for stage in stages)
        return summary if concluded else stages[-1].result()

    def _carry_out(self, stages: Sequence[Stage]) -> tuple[int, list[PartlyDone], dict[str, Any] | None]:
        """Do what is not done yet: how many stages that were, what failed in part, and summary.json."""
        done, partly = 0, list[PartlyDone]()
        for stage in stages:
            if stage.complete:
                continue
            if not done:
                self.reporter.say(self._overview())
            done += 1
            try:
                self._perform(stage)
            except PartlyDone as error:
                partly.append(error)
                self._summary()  # the stages after it tell of it
        return done, partly, self._summary()

    def _mended(self, work: Callable[[], Result]) -> Result:
        """Do some work; where it comes upon files that are not what was written, set them aside and do it again, which
        makes them anew."""
        met: set[str] = set()
        while True:
            try:
                return work()
            except Exception as error:
                spoiled = _spoiled_in(error)
                if spoiled is None or met.issuperset(spoiled.names):
                    raise
                met.update(spoiled.names)
                self.reporter.log(str(spoiled))
                self._set_aside(spoiled.names, "cannot be read, or not what was written")

    def _set_aside(self, names: Sequence[str], why: str, also: Sequence[str] = ()) -> None:
        """Files that are not what they were, and what is made with them, with a sentence."""
        if not names:
            return
        moved = self.folder.set_aside([*dict.fromkeys((*names, *also))], "spoiled")
        with_it = f" with {', '.join(name for name in moved if name not in names)}" if set(moved) - set(names) else ""
        self.reporter.say(
            f"{', '.join(names)} in {self.folder.url}: {why}; moved to {self.folder.url}/stale/{with_it}, to be made "
            "anew"
        )

    def show(self, until: str | None = None) -> None:
        """Print what was found: by the last stage, or by all from that on which concludes the run."""
        stages = self.until(until)
        first = next((i for i, stage in enumerate(stages) if stage.concludes), len(stages) - 1)
        for stage in stages[first:]:
            stage.show()

    def _perform(self, stage: Stage) -> None:
        """One stage, from what is left of it to its record."""
        digest, before = stage.digest, self.folder.stage(stage.name)
        changed = before is not None and before.digest != digest
        # Figures of other settings may be set aside already, with those of a stage before.
        if spoiled := [f for f in self.folder.spoiled(stage.name) if not (changed and f in stage.figures)]:
            why = "missing, or not what was written (their SHA-256 is another)"
            self._set_aside(spoiled, why, stage.with_spoiled(spoiled))
            before = self.folder.stage(stage.name)
        if before is not None and before.digest != digest:
            # Figures of other settings must not stand beside those that come.
            self.inputs.report_moved(self.folder.set_aside(self._figures_from(stage), "results"))
        with self.folder.working_on(
            stage.name,
            digest,
            stage.outputs,
            named_by_content=stage.named_by_content,
            sealed=lambda: stage.sealed,
        ) as moved:
            self.inputs.report_moved(moved, "no record of their settings" if before is None else "settings changed")
            with self.reporter.stage(stage.name, stage.plan, stage.total) as advance:
                stage.run(advance)
        self.inputs.spare_memory()

    def _figures_from(self, stage: Stage) -> list[str]:
        """Files with figures of a stage and of those after it."""
        later = list(self.stages.values())
        return [file for each in later[later.index(stage) :] for file in each.figures]

    def _summary(self) -> dict[str, Any] | None:
        """summary.json, written where it says something new, once the stage that concludes a run is complete."""
        if not any(stage.concludes and (stage.complete or stage.partly) for stage in self.stages.values()):
            return None
        summary = summary_of(self.stages)
        self.inputs.report_moved(write_summary(self.folder, summary))
        return summary

    def _check_cluster(self) -> None:
        """A cluster that was joined: its nodes must see the run folder, and images that they are to read themselves."""
        from ray_synth.nodes import check_shared

        self.folder.check_free_for(self.experiment)
        self.inputs.start_ray()
        check_shared(self.folder)
        self.inputs.check_seen()

    def export(self, kind: str) -> None:
        figures = self.folder.read_record(SUMMARY, dict[str, Any]) if self.folder.exists(SUMMARY) else {}
        images = self.of(Generate) if Generate in self.stages else self.of(Distill)
        place = self._mended(lambda: images.export(kind, figures))
        self.reporter.say(f"images: {self.folder.url}/{place}")

    def _write_splits(self) -> None:
        """The digests of the sets, and beside them the keys of their images, which may be millions."""
        found = {
            "digests": self.inputs.digests,
            "generator_split": self.experiment.data.generator_split,
            "images": {name: len(images) for name, images in self.inputs.sets.items()},
        }
        if self.folder.exists(SPLITS):
            seal = self.folder.sha256(KEYS) if self.folder.exists(KEYS) else None
            if self.folder.read_json(SPLITS) == {**found, "sha256": seal}:
                return
            self.folder.set_aside([SPLITS, KEYS], "splits")
        self.folder.write(KEYS, key_rows(self.inputs.sets))
        self.folder.write_json(SPLITS, {**found, "sha256": self.folder.sha256(KEYS)})


def _spoiled_in(error: BaseException | None) -> Spoiled | None:
    """The error, or one that it tells of: Ray wraps what a worker raised."""
    while error is not None and not isinstance(error, Spoiled):
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return error
