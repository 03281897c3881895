"""Real images in, a few distilled ones a class out, and what classifiers that are trained on these come to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import RANDOM, RECOVERED, Experiment, Method, digest, file_in
from ray_synth.config import Distill as Settings
from ray_synth.errors import InputError
from ray_synth.hardware.gpus import FORWARD_AND_BACK, Gpu, table
from ray_synth.hardware.measure import Measure, spread
from ray_synth.stages.inputs import Inputs
from ray_synth.stages.stage import Stage
from ray_synth.stages.summary import SUMMARY
from ray_synth.tasks import InPool, InSlots, Task, Tasks

if TYPE_CHECKING:
    from ray_synth.distill.job import Job, Left, Student
    from ray_synth.sampling.chunks import ChunkImages
    from ray_synth.stages.bench import Bench

METRICS = "metrics/distillation.json"
SEGMENTS = 10  # of a training, between which a kill loses nothing
PNG_BYTES = 2.5  # a pixel of three channels: recovered images are noisy


class Distill(Stage):
    """A data set brought down to a few images a class, beside the baselines."""

    name = "distill"
    purpose = "Bring the real images down to a few a class, and train classifiers on these"
    keeps = figures = (METRICS, SUMMARY)
    named_by_content = True
    concludes = True

    @classmethod
    def asked(cls, experiment: Experiment) -> bool:
        return experiment.distill is not None

    def __init__(self, inputs: Inputs, others: Mapping[type[Stage], Stage]):
        """Raises InputError for a class with fewer images than are asked for, and for a teacher without BatchNorm."""
        super().__init__(inputs, others)
        assert self.experiment.distill is not None  # noqa: S101 - who asked
        self.settings: Settings = self.experiment.distill
        self._check_counts()
        if not inputs.described:
            self._check_models()

    def _check_counts(self) -> None:
        asked, counts = self.settings.images_per_class, self.inputs.real_counts
        label = int(counts.argmin())
        if counts[label] < asked:
            raise InputError(
                f"distill.images_per_class must be <= {counts[label]:,}, the real images of class "
                f"{self.inputs.class_names[label]!r}, got {asked:,}; type --set "
                f"distill.images_per_class={counts[label]}"
            )

    def _check_models(self) -> None:
        from ray_synth.classifier.models import check_model
        from ray_synth.distill.actors import check_teacher

        check_model(self.settings.teacher, self.inputs.shape)
        check_teacher(self.job)
        for model in self.settings.posttrain.models:
            check_model(self.settings.student(model), self.inputs.shape)

    @functools.cached_property
    def job(self) -> Job:
        """What actors are told."""
        from ray_synth.distill.job import Job

        settings = self.inputs.on_workers.distill
        assert settings is not None  # noqa: S101 - who asked
        described = self.inputs.described
        return Job(
            url=self.folder.absolute_url,
            settings=settings,
            seed=self.experiment.seed,
            class_names=self.inputs.class_names,
            shape=self.inputs.shape,
            data=self.inputs.digests["train"],
            validation=self.inputs.digests["validation"],
            test=self.inputs.digests["test"],
            files=() if described else self._teacher_files(),
        )

    def _teacher_files(self) -> tuple[str, ...]:
        """What lies in the files that the teacher starts from."""
        from ray_synth.features.packaged import packaged_digests
        from ray_synth.generator.pretrained import content_digest

        teacher = self.settings.teacher
        own = [content_digest(Path(teacher.weights))] if teacher.weights and teacher.weights != RANDOM else []
        return tuple(own + list(packaged_digests(file_in(teacher.model)[0])))

    @property
    def digest(self) -> str:
        """Of the teacher, on which everything rests. What is made of it says itself of which settings it is."""
        return digest("distill", self.job.teacher)

    @property
    def outputs(self) -> tuple[str, ...]:
        from ray_synth.distill.job import FOLDER

        return (FOLDER, METRICS)

    @property
    def overview(self) -> str:
        s = self.settings
        number = s.images_per_class * len(self.inputs.class_names)
        return (
            f"images      {number:,} distilled by {s.method}, {s.images_per_class:,} a class; beside it "
            f"{', '.join(s.methods[1:]) or 'nothing'}"
        )

    # What is left.

    @property
    def left(self) -> Left:
        from ray_synth.distill.job import work_left

        return work_left(self.folder, self.job)

    @property
    def ready(self) -> bool:
        return not self.left.count and self.folder.exists(METRICS) and self.metrics() == self._measured()

    @property
    def done(self) -> int:
        return self.job.count - self.left.count

    @property
    def plan(self) -> str:
        left = self.left
        parts = [
            (int(left.teacher), "teacher"),
            (len(left.classes), "classes to squeeze"),
            (len(left.batches), "batches to recover"),
            (len(left.epochs), "epochs of labels to store"),
            (len(left.students), "classifiers to train and test"),
        ]
        return ", ".join(f"{number:,} {what}" for number, what in parts if number) or "results to write"

    def tasks(self) -> Sequence[Tasks]:
        left = self.left
        groups = [
            self._trainings([self._teacher_task()] if left.teacher else [], "the teacher"),
            self._pool(
                [
                    Task(
                        name=f"class {label}",
                        takes={"chunk": 1, "squeezed_image": int(self.inputs.real_counts[label])},
                    )
                    for label in left.classes
                ]
            ),
            self._pool(
                [
                    Task(name=batch.name, takes={"chunk": batch.last - batch.first, "image": len(batch)})
                    for batch in left.batches
                ]
            ),
            self._pool(
                [
                    Task(
                        name=f"labels of {method}, epoch {epoch}",
                        takes={"chunk": 1, "squeezed_image": self._number},
                    )
                    for method, epoch in left.epochs
                ]
            ),
            self._trainings([self._student_task(student) for student in left.students], "a student"),
        ]
        return [group for group in groups if group.tasks]

    @property
    def _number(self) -> int:
        """Distilled images of a method."""
        return self.settings.images_per_class * len(self.inputs.class_names)

    def _teacher_task(self) -> Task:
        from ray_synth.classifier.train import num_updates

        real = int(self.inputs.real_counts.sum())
        return Task(
            name="teacher",
            takes={
                "teacher_update": num_updates(self.settings.teacher, real, 0),
                "test_image": self.settings.teacher.evaluations * len(self.inputs.splits.validation),
            },
        )

    def _student_task(self, student: Student) -> Task:
        from ray_synth.distill.job import REAL

        tested = len(self.inputs.splits.test) + len(self.inputs.splits.validation)
        if student.method == REAL:
            return Task(name=student.name, takes={"test_image": tested})
        seen = self._number * self.settings.posttrain.epochs
        return Task(name=student.name, takes={"test_image": tested, student.unit: seen})

    def _trainings(self, tasks: Sequence[Task], name: str) -> Tasks:
        way = InSlots(
            workers=1,
            gpus=self.settings.gpus_per_actor,
            most=None,
            window=max(1, len(tasks)),
            segments=SEGMENTS,
            name=name,
            workers_key="distill.gpus_per_actor",
        )
        return Tasks(tasks=tasks, starts={"distill_start": 1}, way=way)

    def _pool(self, tasks: Sequence[Task]) -> Tasks:
        from ray_synth.sampling.chunks import CHUNK_BYTES

        way = InPool(
            most_actors=None,
            gpus_per_actor=self.settings.gpus_per_actor,
            in_flight=1,
            image_bytes=PNG_BYTES / 3 * float(np.prod(self.inputs.shape)),
            file_bytes=CHUNK_BYTES,
        )
        return Tasks(tasks=tasks, starts={"distill_start": 1}, way=way)

    @property
    def caveats(self) -> Sequence[str]:
        from ray_synth.distill.job import epochs_size

        found = [] if self.complete else ["computing barycenters is not counted: seconds a class"]
        if self.settings.relabel.store:
            size = epochs_size(self.job) / 2**30
            found.append(f"stored labels take {size:.2g} GiB a method, which the bytes above leave out")
        return found

    # What it does.

    def run(self, advance: Callable[[int], None]) -> None:
        from ray_synth.distill.actors import distill

        left = self.left
        done = self.job.count - left.count
        advance(done)
        if left.count:  # else it was killed between the last of them and the results
            self.inputs.start_ray()
            splits, counted = self.inputs.splits, iter(range(done + 1, done + left.count + 1))
            distill(
                self.folder,
                self.job,
                left,
                splits.train,
                splits.validation,
                splits.test,
                progress=lambda: advance(next(counted)),
            )
        self.folder.write_json(METRICS, self._measured())

    def _measured(self) -> dict[str, float]:
        """Flat: name -> number."""
        from ray_synth.distill.results import Outcome, metrics_of

        job = self.job
        files = [job.student_file(student) for student in job.students]
        return metrics_of([self.folder.read_record(file, Outcome) for file in files])

    # What it found.

    def metrics(self) -> dict[str, float]:
        return self.folder.read_record(METRICS, dict[str, float])

    def images(self, method: Method) -> ChunkImages:
        """What a method made, by class and index. Raises Spoiled, WorkError where it cannot be read."""
        from ray_synth.sampling.chunks import read_synthetic

        job = self.job
        return read_synthetic(self.folder, job.plan(method), class_names=job.class_names, shape=job.shape)

    def check_export(self) -> None:
        """Raise InputError for real images, which an export would say are generated."""
        from ray_synth.distill.job import IMAGES

        if self.settings.method not in RECOVERED:
            raise InputError(
                f"the images of distill.method: {self.settings.method} are real ones, and an export says of its images "
                f"that they are generated; leave --export out, and read them from {self.folder.url}/{IMAGES}, a folder "
                "for data.kind=parquet"
            )

    def export(self, kind: str, figures: Mapping[str, Any]) -> str:
        """Write the method's images, as `sampling.export` has it; returns where in the run folder. figures: of
        summary.json.
        """
        from ray_synth import __version__
        from ray_synth.sampling.card import About
        from ray_synth.sampling.export import Exported, export_images

        self.check_export()
        s, job = self.settings, self.job
        images = Exported(
            folder=self.folder,
            plan=job.plan(s.method),
            class_names=self.inputs.class_names,
            extension="png",
            about=About(
                name=self.experiment.name,
                version=__version__,
                origins=[(f"distilled by {s.method} from {s.teacher.model}", job.teacher, "")],
                settings={"distill": s.model_dump(mode="json", exclude_defaults=True)},
                figures=figures,
            ),
        )
        with self.inputs.reporter.stage("export", f"writing {self._number:,} images", self._number) as advance:
            return export_images(images, kind, progress=advance)

    def summary(self) -> Mapping[str, Any]:
        return {
            "method": self.settings.method,
            "images_per_class": self.settings.images_per_class,
            "num_real": int(self.inputs.real_counts.sum()),
            "distillation": self.metrics(),
        }

    def show(self) -> None:
        from ray_synth.distill.results import lines_of

        print("\n".join(lines_of(self.metrics())))

    # What it takes.

    def measured_with(self) -> Mapping[str, str | int]:
        s = self.settings
        return {"distillation": digest("distillation", s.teacher.model, list(s.posttrain.models), s.recover.batch_size)}

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        from ray_synth.classifier.flops import image_seconds
        from ray_synth.distill.job import unit_of

        s, shape, classes = self.settings, self.inputs.shape, len(self.inputs.class_names)
        trained, seen = image_seconds(gpu, s.teacher, shape, classes)
        # A recovering step goes forward and back to the pixels, but needs no gradients of weights.
        step = trained.times(2 / FORWARD_AND_BACK, sigma=0.2, note="forward, and back to the pixels")
        found = {
            "distill_start": gpu.overheads["train_start"],
            "chunk": gpu.overheads["chunk"],
            "teacher_update": trained.times(s.teacher.batch_size),
            "test_image": seen,
            "squeezed_image": seen,
            "image": step.times(s.recover.iterations, note=f"{s.recover.iterations:,} iterations"),
        }
        for model in s.posttrain.models:
            own, _ = image_seconds(gpu, s.student(model), shape, classes)
            found[unit_of(model, "hard")] = own
            found[unit_of(model, "soft")] = Measure(
                value=own.value + seen.value, sigma=own.sigma, origin=f"{own.origin}; and the teacher's forward pass"
            )
        return found

    def calibrate(self, bench: Bench) -> None:
        from ray_synth.stages.bench_distilling import measure_distilling

        if not bench.wants("distill_start"):
            return
        bench.start_ray()
        for unit, seconds in measure_distilling(bench, self.job).items():
            bench.note(unit, float(np.mean(seconds)), max(0.1, spread(seconds)))
        bench.found |= {"distill_start": table()["overheads"]["train_start"], "chunk": table()["overheads"]["chunk"]}
