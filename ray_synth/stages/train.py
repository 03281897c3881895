"""The three settings that are compared in, their trainings and the best classifier out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.classifier.setting import AUGMENTED, COMPARED, GENERATOR, TRAINING, TUNED
from ray_synth.config import digest
from ray_synth.hardware.measure import Measure
from ray_synth.seeding import derive_seed
from ray_synth.stages.estimate import Estimate
from ray_synth.stages.generate import Generate
from ray_synth.stages.stage import Stage
from ray_synth.stages.sweep import Sweep
from ray_synth.stages.takes import as_training, sides_of, training_takes
from ray_synth.tasks import ByTeam, Task, Tasks

if TYPE_CHECKING:
    from torch import nn

    from ray_synth.classifier.final import Training
    from ray_synth.classifier.setting import Setting
    from ray_synth.hardware.gpus import Gpu

SETTINGS, REGIONS = "model/settings.json", "model/regions.json"
WITH_TRIVIAL = {"augment.trivial": 1.0}


class Train(Stage):
    """Real images alone, the predicted ratio, and the best setting of the sweep, each with several seeds; and real
    images alone once more, as the sweep would have them and with classical augmentation."""

    name = "train"
    purpose = "Train the final classifiers: real only, at the predicted ratio, at the swept best"
    needs = (Generate, Estimate, Sweep)
    reads = (Estimate, Sweep)

    def settings(self) -> dict[str, Setting]:
        """What is compared, by name. Before the sweep is through the predicted ratio, or where that is not known the
        largest that is tried, stands for its best one."""
        from ray_synth.classifier.setting import default_setting

        sweep, estimate = self.of(Sweep), self.of(Estimate)
        at = functools.partial(
            default_setting, self.inputs.on_workers, len(self.inputs.class_names), generator=estimate.generator
        )
        if sweep.complete:
            best = sweep.best
        elif estimate.complete:
            best = at(estimate.ratio)
        else:
            tried = sweep.expected_settings(sweep.ledger).values()
            best = at(max((setting.synthetic_ratio for setting in tried), default=0.0))
        return dict(zip(COMPARED, (at(0.0), at(estimate.ratio), best), strict=True)) | self._baselines(at(0.0), best)

    def _baselines(self, alone: Setting, best: Setting) -> dict[str, Setting]:
        """Ratio 0 with what the sweep found, and with TrivialAugment beside that.

        The first is the best of the sweep's trials without synthetic images, where that is another setting than the
        default one; else what the best setting has in common with it. What acts on synthetic images alone (the ratio,
        lambda 1 and 2, regions, whose images) is left as it was, so that equal trainings are equal settings.
        """
        asked, sweep = self.experiment.evaluate.baselines, self.of(Sweep)
        tuned = alone
        if sweep.complete:
            tuned = next((s for s in map(alone.without_synthetic, (sweep.best_alone, best)) if s != alone), alone)
        augmented = replace(tuned, classifier={**tuned.classifier, **WITH_TRIVIAL})
        found = {"tuned": (TUNED, tuned), "augmented": (AUGMENTED, augmented)}
        return dict(found[name] for name in found if name in asked)

    @property
    def same(self) -> dict[str, str]:
        """Names of baselines whose setting is that of another: they are not trained twice. Before the sweep is through,
        what it may find is taken for another setting."""
        from ray_synth.classifier.setting import acts_alone

        searched, settings = acts_alone(self.experiment.sweep.searched), self.settings()
        first: dict[str, str] = {}
        found: dict[str, str] = {}
        for name, setting in settings.items():
            if name == TUNED and searched and not self.of(Sweep).complete:
                continue
            other = first.setdefault(setting.digest, name)
            if other != name and name not in COMPARED:
                found[name] = other
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """What is trained."""
        return tuple(name for name in self.settings() if name not in self.same)

    def trainings(self) -> Iterator[Training]:
        from ray_synth.classifier.final import Training

        settings = self.settings()
        for name in self.names:
            for repeat in range(self.experiment.evaluate.repeats):
                seed = derive_seed("final", self.experiment.seed, repeat)
                looked_at = repeat == 0 and name in COMPARED
                yield Training(name=f"{name}-{repeat}", setting=settings[name], seed=seed, diagnosed=looked_at)

    @property
    def digest(self) -> str:
        e = self.experiment
        return digest(
            "train",
            TRAINING,
            [[t.name, t.setting.to_dict(), t.seed] for t in self.trainings()],
            e.classifier,
            e.partition,
            self.inputs.classifier_files,
            e.data.use_real,
            e.seed,
            self.of(Generate).trained_on,
            *self.of(Generate).allocated,
            self.inputs.digests["train"],
            self.inputs.digests["validation"],
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("model",)

    @property
    def sealed(self) -> Sequence[str]:
        return [file for file in self.folder.files("model") if not file.endswith((".checkpoint", ".failed"))]

    def with_spoiled(self, files: Sequence[str]) -> Sequence[str]:
        """A training is done again as a whole: its weights, its history, its regions."""
        stems = {file.partition(".")[0] for file in files}
        return [file for file in self.folder.files("model") if file.partition(".")[0] in stems]

    @property
    def overview(self) -> str:
        c = self.experiment.classifier
        budget = f"{c.updates:,} updates" if c.budget == "updates" else f"{c.epochs} epochs"
        trainings = self.total
        return f"final       {trainings} trainings of {budget}, then the test set is read once"

    # What is left.

    @property
    def done(self) -> int:
        if not self.begun:
            return 0
        return sum(training.there(self.folder) for training in self.trainings())

    @property
    def plan(self) -> str:
        left, workers = self.total - self.done, self.experiment.classifier.num_workers
        words = {TUNED: "real only as the sweep would have it", AUGMENTED: "real only with classical augmentation"}
        also = "".join(f", {words[name]}" for name in self.names if name in words)
        return f"{left} final trainings: real only, at the predicted ratio, at the swept best{also}" + (
            f", on {workers} workers" if workers > 1 else ""
        )

    @property
    def total(self) -> int:
        return len(self.names) * self.experiment.evaluate.repeats

    @property
    def top_ratio(self) -> float:
        """The largest that is trained at."""
        return max(setting.synthetic_ratio for setting in self.settings().values())

    def tasks(self) -> Sequence[Tasks]:
        from ray_synth.training.team import WORKER_DEATHS

        begun, sweep, images = self.begun, self.of(Sweep), self.of(Generate)
        left = [t for t in self.trainings() if not (begun and t.there(self.folder))]
        if not left:
            return ()
        tried = 0.0 if sweep.complete else sweep.space.ratio_range[1]
        way = ByTeam(
            workers=self.experiment.classifier.num_workers,
            segments=self.experiment.classifier.evaluations,
            deaths=WORKER_DEATHS,
        )
        return (
            *images.more_for(self.top_ratio, after=tried),
            images.reading(self.top_ratio, after=tried),
            Tasks(tasks=tuple(map(self.task, left)), starts={"train_start": 1}, way=way),
        )

    def task(self, training: Training) -> Task:
        """What a training takes, its diagnoses among it."""
        from ray_synth.classifier.diagnostics import images_read
        from ray_synth.classifier.train import num_diagnoses

        setting = training.setting
        takes = training_takes(self.inputs, setting, "training")
        if training.diagnosed:
            real, synthetic = sides_of(self.inputs, setting)
            updates = sum(many for unit, many in takes.items() if "update" in unit)
            classifier = setting.applied_to(self.experiment.classifier)
            times = num_diagnoses(classifier.batch_size, real, synthetic, int(updates))
            takes["diagnosis_image"] = times * images_read(real, synthetic, len(self.inputs.splits.validation))
        return Task(name=training.name, takes=takes)

    # What it does.

    def run(self, advance: Callable[[int], None]) -> None:
        from ray_synth.classifier.experiment_data import ExperimentData
        from ray_synth.classifier.final import train_final
        from ray_synth.training.checkpoint import refuse_torn

        trainings = list(self.trainings())
        for training in trainings:
            refuse_torn(self.folder, training.checkpoint)
        self.inputs.start_ray()
        settings, real = self.settings(), self.inputs.splits.train
        synthetic = self.of(Generate).for_ratio(self.top_ratio)
        self.folder.write_json(SETTINGS, {name: setting.to_dict() for name, setting in settings.items()})
        data = ExperimentData.of(self.inputs.on_workers, real, synthetic, self.inputs.splits.validation)
        workers = self.experiment.classifier.num_workers
        train_final(self.folder, trainings, data, num_workers=workers, progress=self._with_waits(advance))
        self._keep_best([t for t in trainings if t.name.startswith("best-")])
        advance(len(trainings))

    def _with_waits(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """`advance` that says of each training that has ended how long it waited for images, where it read them."""
        from ray_synth.classifier.waiting import waited, waiting_said

        told = {t.name for t in self.trainings() if t.there(self.folder)}
        before = len(told)

        def advanced(done: int) -> None:
            nonlocal before
            advance(done)
            if done == before:
                return
            before = done
            for training in self.trainings():
                if training.diagnosed and training.name not in told and training.there(self.folder):
                    told.add(training.name)
                    share = waited(self.folder.read_record(training.history, list[dict[str, float]]))
                    if share is not None:
                        self.inputs.reporter.say(f"{self.name}: {training.name}: {waiting_said(share)}")

        return advanced

    def _keep_best(self, trainings: list[Training]) -> None:
        """The deliverable: of the best setting's seeds the best on the validation set, and that setting's regions."""
        from ray_synth.classifier.final import save_classifier
        from ray_synth.partition import RegionReport

        model, accuracy = max((self.loader(training)() for training in trainings), key=lambda pair: pair[1])
        setting = trainings[0].setting
        description = {
            "classifier": setting.applied_to(self.experiment.classifier).model_dump(mode="json"),
            "shape": list(self.inputs.shape),
            "class_names": list(self.inputs.class_names),
            "setting": setting.to_dict(),
            "validation_accuracy": accuracy,
        }
        save_classifier(self.folder, model, description)
        self.folder.write("model/regions.parquet", self.folder.read(trainings[0].regions))
        report = self.folder.read_record(trainings[0].region_report, RegionReport)
        self.folder.write_json(REGIONS, report.to_dict())

    # What it found.

    @property
    def generator(self) -> str | None:
        """Whose images the best setting takes, of several; where it takes none, those that the prediction would."""
        return self.settings()["best"].generator or self.of(Estimate).generator

    def loader(self, training: Training) -> Callable[[], tuple[nn.Module, float]]:
        """What loads a trained classifier and its validation accuracy, here or in another process."""
        from ray_synth.classifier.final import load_run

        classifier = training.setting.applied_to(self.inputs.on_workers.classifier)
        like = self.inputs.splits.train.take(np.zeros(1, dtype=np.int64))  # for its shape and classes
        return functools.partial(load_run, self.folder, training, classifier, like)

    def histories(self) -> dict[str, Any]:
        """What was measured while the first training of each setting ran."""
        files = {t.name.rsplit("-", 1)[0]: t.history for t in self.trainings() if t.diagnosed}
        kind = list[dict[str, float]]
        return {name: self.folder.read_record(file, kind) for name, file in files.items() if self.folder.exists(file)}

    def summary(self) -> Mapping[str, Any]:
        best = self.folder.read_record(SETTINGS, dict[str, dict[str, Any]])["best"]  # as trained
        several = {"best_generator": best.get(GENERATOR) or None} if self.of(Generate).generators else {}
        return {
            "best_ratio": best["synthetic_ratio"],
            **several,
            "best_setting": best,
            "repeats": self.experiment.evaluate.repeats,
        }

    # What it takes.

    def measured_with(self) -> Mapping[str, str | int]:
        return self.of(Sweep).measured_with()

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        from ray_synth.classifier.flops import image_seconds

        alone = Measure(value=1.0, sigma=0.05, origin="a trial and a final training have a GPU each")
        trials = self.of(Sweep).published(gpu)
        _, looked_at = image_seconds(gpu, self.experiment.classifier, self.inputs.shape, len(self.inputs.class_names))
        return as_training(trials, alone) | {
            "train_start": gpu.overheads["train_start"],
            "diagnosis_image": looked_at,
        }
