"""A distill section and the real images' sizes in; what is made of them out: files, chunks and batches by their names.

Every name holds a digest of what its file is a function of, so to resume is to list the files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ray_synth.config import RECOVERED, Distill, Method, digest
from ray_synth.distill.recover import groups_of
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import Chunk, Plan, finished_chunks

FOLDER = "distilled"
IMAGES = f"{FOLDER}/images"
REAL = "real"  # beside methods, among the names of what is trained on: the teacher, which saw all real images
METHODS = 1  # part of digests: raise it where the same settings make other images than before


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images that are optimised together: indices [start, stop) of classes [first, last)."""

    method: Method
    start: int
    stop: int
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.method} {self.first:05d}-{self.last:05d} {self.start:08d}-{self.stop:08d}"

    def __len__(self) -> int:
        return (self.stop - self.start) * (self.last - self.first)


@dataclass(frozen=True, kw_only=True)
class Student:
    """A classifier that is trained on what a method made, from one seed. method: `real` for the teacher, which is only
    tested."""

    method: str
    labels: str
    model: str
    repeat: int

    @property
    def name(self) -> str:
        return f"{self.model} on {self.method}, {self.labels} labels, {self.repeat}"

    @property
    def unit(self) -> str:
        """What it is shown is counted in."""
        return unit_of(self.model, self.labels)


def unit_of(model: str, labels: str) -> str:
    """An image that a student is shown: what one takes hangs on the network, and on who tells the labels."""
    return f"{model} image, {labels} label"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that an actor must know, beside the real images.

    url: of the run folder. shape: [H,W,C]. data: digest of the training images. files: of what the teacher starts from.
    validation, test: digests; by the first a teacher is kept where `keep: best`, on the second students are tested.
    """

    url: str
    settings: Distill
    seed: int
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    data: str
    validation: str = ""
    test: str = ""
    files: tuple[str, ...] = ()

    # What a file is a function of.

    @cached_property
    def teacher(self) -> str:
        return digest("teacher", self.settings.teacher, self.seed, self.data, self.validation, list(self.files))

    @cached_property
    def squeezed(self) -> str:
        s = self.settings
        return digest("squeezed", METHODS, self.teacher, s.variant, s.weights, s.images_per_class, list(s.methods))

    def made(self, method: Method) -> str:
        """Of a method's images."""
        if method not in self._made:
            self._made[method] = self._of_images(method)
        return self._made[method]

    @cached_property
    def _made(self) -> dict[Method, str]:
        return {}

    def _of_images(self, method: Method) -> str:
        s = self.settings
        told: list[str] = [s.weights] if method == "wmdd" else []
        told += [s.variant] if method in RECOVERED else []
        recover = [s.recover] if method in RECOVERED else []
        return digest("distilled", METHODS, method, self.teacher, s.images_per_class, told, *recover)

    def trained(self, student: Student) -> str:
        """Of a student's accuracy."""
        if student.method == REAL:
            return digest("student", REAL, self.teacher, self.test)
        made = self.made(student.method)  # type: ignore[arg-type]
        settings = self.settings.posttrain.model_copy(update={"models": (), "labels": (), "repeats": 1})
        what = [student.labels, student.model, student.repeat]
        return digest("student", METHODS, made, self.settings.relabel, settings, what, self.test)

    # Files.

    @property
    def teacher_file(self) -> str:
        return f"{FOLDER}/teacher-{self.teacher[:12]}.safetensors"

    @property
    def teacher_checkpoint(self) -> str:
        return f"{FOLDER}/teacher-{self.teacher[:12]}.checkpoint"

    def class_file(self, label: int) -> str:
        return f"{FOLDER}/classes/{self.squeezed[:12]}-{label:05d}.safetensors"

    def label_file(self, method: Method, epoch: int) -> str:
        return f"{FOLDER}/labels/{self._labelled(method)[:12]}-{epoch:06d}.safetensors"

    def _labelled(self, method: Method) -> str:
        relabel, batch = self.settings.relabel, self.settings.posttrain.batch_size
        return digest("labels", METHODS, self.made(method), relabel, batch)

    def student_file(self, student: Student) -> str:
        return f"{FOLDER}/students/{self.trained(student)[:16]}.json"

    def student_checkpoint(self, student: Student) -> str:
        return f"{FOLDER}/students/{self.trained(student)[:16]}.checkpoint"

    # What there is to make.

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def plan(self, method: Method) -> Plan:
        """Its images, as chunks of a class each."""
        made, each = self.made(method), self.settings.images_per_class
        size = each
        if method in RECOVERED:
            size, _ = groups_of(method, self.num_classes, each, self.settings.recover.batch_size)
        return Plan(
            generator_digest=made,
            chunk_digest=made,
            images_per_class=(each,) * self.num_classes,
            chunk_size=size,
            folder=IMAGES,
        )

    def chunks(self, batch: Batch) -> list[Chunk]:
        """The files that a batch is written as."""
        prefix = self.made(batch.method)[:12]
        return [Chunk(prefix, label, batch.start, batch.stop) for label in range(batch.first, batch.last)]

    def batches(self, method: Method) -> list[Batch]:
        """All of them, whatever is made already: a batch is the same whoever resumes."""
        s = self.settings
        size, classes = groups_of(method, self.num_classes, s.images_per_class, s.recover.batch_size)
        return [
            Batch(
                method=method,
                start=start,
                stop=min(start + size, s.images_per_class),
                first=first,
                last=min(first + classes, self.num_classes),
            )
            for start in range(0, s.images_per_class, size)
            for first in range(0, self.num_classes, classes)
        ]

    @property
    def students(self) -> list[Student]:
        """The teacher, then every method's, each with both kinds of labels, every model and every seed."""
        p = self.settings.posttrain
        return [Student(method=REAL, labels="hard", model=self.settings.teacher.model, repeat=0)] + [
            Student(method=method, labels=labels, model=model, repeat=repeat)
            for method in self.settings.methods
            for labels in p.labels
            for model in p.models
            for repeat in range(p.repeats)
        ]

    @property
    def count(self) -> int:
        """Tasks in all, done or not."""
        s = self.settings
        recovered = [method for method in RECOVERED if method in s.methods]
        batches = sum(len(self.batches(method)) for method in recovered)
        return 1 + self.num_classes + batches + len(self.stored_epochs) * len(s.methods) + len(self.students)

    @property
    def stored_epochs(self) -> range:
        return range(self.settings.posttrain.epochs if self.settings.relabel.store else 0)


@dataclass(frozen=True, kw_only=True)
class Left:
    """What of a job is not in the run folder yet. epochs: of which labels are to be stored, of each method."""

    teacher: bool
    classes: Sequence[int]
    batches: Sequence[Batch]
    epochs: Sequence[tuple[Method, int]]
    students: Sequence[Student]

    @property
    def count(self) -> int:
        return self.teacher + len(self.classes) + len(self.batches) + len(self.epochs) + len(self.students)


def work_left(folder: RunFolder, job: Job) -> Left:
    """Asking writes nothing, and opens no file."""
    classes, labels, students = (set(folder.list(f"{FOLDER}/{name}")) for name in ("classes", "labels", "students"))
    chosen = [method for method in job.settings.methods if method not in RECOVERED]
    made = {
        method: {(c.label, c.start, c.stop) for c in finished_chunks(folder, job.plan(method))}
        for method in job.settings.methods
    }

    def squeezed(label: int) -> bool:
        whole = (label, 0, job.settings.images_per_class)
        return _base(job.class_file(label)) in classes and all(whole in made[method] for method in chosen)

    def recovered(batch: Batch) -> bool:
        return all((c.label, c.start, c.stop) in made[batch.method] for c in job.chunks(batch))

    batches = [batch for method in RECOVERED if method in made for batch in job.batches(method)]
    epochs = [(method, epoch) for method in job.settings.methods for epoch in job.stored_epochs]
    return Left(
        teacher=not folder.exists(job.teacher_file),
        classes=[label for label in range(job.num_classes) if not squeezed(label)],
        batches=[batch for batch in batches if not recovered(batch)],
        epochs=[each for each in epochs if _base(job.label_file(*each)) not in labels],
        students=[student for student in job.students if _base(job.student_file(student)) not in students],
    )


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def epochs_size(job: Job) -> int:
    """Bytes that stored labels of one method take: half precision, and with `top_k` a place beside each logit."""
    s = job.settings
    kept, images = s.relabel.top_k or job.num_classes, s.images_per_class * job.num_classes
    each = 2 * kept if s.relabel.top_k is None else 6 * kept + 2
    return math.ceil(each * images) * s.posttrain.epochs
