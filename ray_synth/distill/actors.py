"""A job in, its files in the run folder out: what actors of a pool do, one task after the other, each whole or not.

A task that was killed is done again from its start (a training from its checkpoint) and ends in the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.models import build_model, load_trainable, undrawn
from ray_synth.classifier.predict import accuracy_of
from ray_synth.classifier.train import fit
from ray_synth.config import RECOVERED, Method
from ray_synth.data.source import ImageSource
from ray_synth.distill.barycenter import wasserstein_barycenter
from ray_synth.distill.chosen import chosen_images
from ray_synth.distill.job import IMAGES, REAL, Batch, Job, Left, Student
from ray_synth.distill.posttrain import train_student
from ray_synth.distill.recover import Recovery, Target, Weights
from ray_synth.distill.relabel import Labels, StoredLabels, Views, labels_of, store_epoch
from ray_synth.distill.squeeze import ClassSummary, Tapped, norm_layers, summary_of_class
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import WEIGHED, Chunk, encoded, read_rows, read_synthetic, write_chunk
from ray_synth.sampling.pool import over_pool
from ray_synth.seeding import derive_seed, image_seed
from ray_synth.training.checkpoint import FolderCheckpoints, read_tensors, sealed, trainable_state
from ray_synth.training.team import Team


def distill(
    folder: RunFolder,
    job: Job,
    left: Left,
    real: ImageSource,
    validation: ImageSource,
    test: ImageSource,
    *,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Do what is left, one kind of task after the other. Ray must be up. progress: called when a task is done.

    Raises:
        WorkError: a training or a recovery whose loss is not finite.
    """

    def do(items: Sequence[dict[str, Any]], worker: type, shared: Any) -> None:
        if items:
            for _ in over_pool(items, worker, (job,), shared, gpus_per_actor=job.settings.gpus_per_actor):
                progress()

    do([{}] if left.teacher else [], TrainTeacher, (real, validation))
    do([{"label": label} for label in left.classes], SqueezeClass, real)
    do([asdict(batch) for batch in left.batches], RecoverBatch, None)
    do([{"method": method, "epoch": epoch} for method, epoch in left.epochs], StoreLabels, None)
    do([asdict(student) for student in left.students], TrainStudent, (validation, test))


class _Actor:
    """What all of them hold. device: cuda | cpu."""

    def __init__(self, job: Job, shared: Any, device: str):
        self.job, self.shared, self.device = job, shared, torch.device(device)
        self.folder = RunFolder.on_worker(job.url)
        torch.backends.cudnn.deterministic = True  # a batch that is made again is the same


class TrainTeacher(_Actor):
    def __call__(self, item: dict[str, Any]) -> int:
        job, folder = self.job, self.folder
        if folder.exists(job.teacher_file):
            return 0
        real, validation = self.shared
        checkpoints = FolderCheckpoints(folder, job.teacher_checkpoint)
        fitted = fit(
            TrainingData.of_real(real),
            validation,
            job.settings.teacher,
            seed=derive_seed("teacher", job.seed),
            team=Team(device=self.device),
            checkpoints=checkpoints,
        )
        folder.write(job.teacher_file, sealed(trainable_state(fitted.model), {"accuracy": repr(fitted.accuracy)}))
        checkpoints.remove()
        return 1


def load_teacher(folder: RunFolder, job: Job, device: torch.device) -> nn.Module:
    """In evaluation mode. Raises Spoiled for a file that is not what was written."""
    tensors, _ = read_tensors(folder, job.teacher_file)
    model = build_model(undrawn(job.settings.teacher), job.shape, job.class_names, seed=0)
    load_trainable(model, tensors)
    return model.eval().to(device)


class SqueezeClass(_Actor):
    """A class's statistics, its barycenter, and the real images that the other methods choose of it."""

    def __init__(self, job: Job, shared: ImageSource, device: str):
        super().__init__(job, shared, device)
        self.teacher = load_teacher(self.folder, job, self.device)
        self.tapped = Tapped(self.teacher, exact=True)

    def __call__(self, item: dict[str, int]) -> int:
        job, label, settings = self.job, item["label"], self.job.settings
        images = self.shared.take(np.flatnonzero(self.shared.labels == label))
        summary = summary_of_class(self.tapped, images, settings.variant)
        tensors = {"mean": summary.mean, "variance": summary.variance}
        metadata = {}
        for method in settings.methods:
            if method == "wmdd":
                seed = derive_seed("barycenter", job.seed, label) % 2**31
                found = wasserstein_barycenter(
                    summary.features, settings.images_per_class, weights=settings.weights, seed=seed
                )
                tensors["positions"] = torch.from_numpy(found.positions)
                tensors["weights"] = torch.from_numpy(found.weights)
                metadata["objective"] = repr(found.objective)
            elif method not in RECOVERED:
                self._choose(method, images, label, summary)
        self.folder.write(job.class_file(label), sealed(tensors, metadata))
        return label

    def _choose(self, method: Method, images: ImageSource, label: int, summary: ClassSummary) -> None:
        """Write the images of a class that a method chooses, as one chunk."""
        number = self.job.settings.images_per_class
        seed = derive_seed(method, self.job.seed, label) % 2**31
        pixels, rows = chosen_images(method, images, number, summary, self.teacher, seed=seed)
        keys = images.keys() if rows is not None else []
        parents = [keys[row] for row in rows] if rows is not None else [None] * number
        chunk = Chunk(self.job.made(method)[:12], label, 0, number)
        write_images(self.folder, self.job, method, chunk, pixels, np.ones(number), parents=parents)


def write_images(
    folder: RunFolder,
    job: Job,
    method: Method,
    chunk: Chunk,
    pixels: np.ndarray,
    weights: np.ndarray,
    *,
    parents: Sequence[str | None] = (),
) -> None:
    """One chunk file. pixels: uint8 [m,H,W,C]; weights: [m], of mean 1 over a class. parents: keys of the real images
    that they are."""
    plan, made = job.plan(method), job.made(method)
    indices = range(chunk.start, chunk.stop)
    rows = {
        "key": [plan.key(chunk.label, index) for index in indices],
        "image": [encoded(image, "png", 100) for image in pixels],
        "label": chunk.label,
        "class_name": job.class_names[chunk.label],
        "source": "real" if any(parents) else "synthetic",
        "prompt": "",
        "negative_prompt": "",
        "seed": [image_seed(made, chunk.label, index) for index in indices],
        "parent_key": list(parents) or None,
        "model_id": job.settings.teacher.model,
        "model_revision": job.teacher,
        "model_license": "",
        "cluster": None,
        "rejected": "",
        "weight": weights.tolist(),
    }
    write_chunk(folder, chunk, rows, place=IMAGES, schema=WEIGHED)


class RecoverBatch(_Actor):
    def __init__(self, job: Job, shared: None, device: str):
        super().__init__(job, shared, device)
        self.tapped = Tapped(load_teacher(self.folder, job, self.device))

    def __call__(self, item: dict[str, Any]) -> int:
        job, settings, batch = self.job, self.job.settings, Batch(**item)
        chunks = job.chunks(batch)
        made = job.made(batch.method)
        seeds = np.array([image_seed(made, c.label, index) for c in chunks for index in range(c.start, c.stop)])
        target, weights = self._target(batch)
        recovery = Recovery(
            self.tapped,
            target,
            Weights.of(batch.method, settings.recover),
            settings.recover,
            seeds=seeds % 2**62,
            shape=job.shape,
            together=settings.variant == "released",
        )
        with torch.random.fork_rng(devices=[]):
            pixels = recovery.run()
        for chunk, own, stand_for in zip(chunks, np.split(pixels, len(chunks)), weights, strict=True):
            write_images(self.folder, job, batch.method, chunk, own, stand_for)
        return len(batch)

    def _target(self, batch: Batch) -> tuple[Target, list[np.ndarray]]:
        """And the weights of the images of each class, of mean 1 over the whole class."""
        each = batch.stop - batch.start
        classes = range(batch.first, batch.last)
        labels = torch.arange(batch.first, batch.last).repeat_interleave(each)
        if batch.method == "sre2l":
            mean, variance = self.tapped.global_statistics
            target = Target(labels=labels, means=mean[None], variances=variance[None])
            return target, [np.ones(each)] * len(classes)
        found = [read_tensors(self.folder, self.job.class_file(label))[0] for label in classes]
        part = slice(batch.start, batch.stop)
        target = Target(
            labels=labels,
            means=torch.stack([tensors["mean"] for tensors in found]),
            variances=torch.stack([tensors["variance"] for tensors in found]),
            points=torch.cat([tensors["positions"][part] for tensors in found]).float(),
        )
        number = self.job.settings.images_per_class
        return target, [(tensors["weights"] * number).numpy()[part] for tensors in found]


def views_of(folder: RunFolder, job: Job, method: Method, device: torch.device) -> Views:
    """What students are shown of a method's images.

    Raises:
        Spoiled, WorkError: images that cannot be read, or are missing.
    """
    plan = job.plan(method)
    images = read_synthetic(folder, plan, class_names=job.class_names, shape=job.shape)
    weights = [row["weight"] for _, rows in read_rows(folder, plan, ["weight"]) for row in rows]
    return Views(
        images.images(),
        images.labels,
        np.array(weights),
        job.settings.relabel,
        num_classes=job.num_classes,
        batch_size=job.settings.posttrain.batch_size,
        seed=derive_seed("views", job.seed),
        device=device,
    )


class StoreLabels(_Actor):
    def __init__(self, job: Job, shared: None, device: str):
        super().__init__(job, shared, device)
        self.teacher = load_teacher(self.folder, job, self.device)

    def __call__(self, item: dict[str, Any]) -> int:
        method, epoch = item["method"], item["epoch"]
        views = views_of(self.folder, self.job, method, self.device)
        name = self.job.label_file(method, epoch)
        store_epoch(self.folder, name, self.teacher, views, epoch, told_by=self.job.teacher)
        return 1


class TrainStudent(_Actor):
    def __init__(self, job: Job, shared: tuple[ImageSource, ImageSource], device: str):
        super().__init__(job, shared, device)
        self.teacher = load_teacher(self.folder, job, self.device)

    def __call__(self, item: dict[str, Any]) -> int:
        job, student = self.job, Student(**item)
        if self.folder.exists(job.student_file(student)):
            return 0
        checkpoints = FolderCheckpoints(self.folder, job.student_checkpoint(student))
        model = self.teacher if student.method == REAL else self._trained(student, checkpoints)
        validation, test = self.shared
        self.folder.write_json(
            job.student_file(student),
            {**item, "accuracy": accuracy_of(model, test), "validation_accuracy": accuracy_of(model, validation)},
        )
        checkpoints.remove()
        return 1

    def _trained(self, student: Student, checkpoints: FolderCheckpoints) -> nn.Module:
        job, method = self.job, student.method
        assert method in job.settings.methods  # noqa: S101 - `students` are of these
        return train_student(
            views_of(self.folder, job, method, self.device),
            job.settings.student(student.model),
            job.settings.posttrain,
            shape=job.shape,
            class_names=job.class_names,
            seed=derive_seed("student", job.seed, student.repeat),
            labels=self._labels(method) if student.labels == "soft" else None,
            checkpoints=checkpoints,
        )

    def _labels(self, method: Method) -> Labels:
        job = self.job
        if not job.settings.relabel.store:
            return labels_of(self.teacher, job.settings.relabel.top_k)

        def name(epoch: int) -> str:
            return job.label_file(method, epoch)

        return StoredLabels(self.folder, name, told_by=job.teacher, num_classes=job.num_classes)


def check_teacher(job: Job) -> None:
    """Raise InputError for a teacher without BatchNorm, or that cannot take the images. Builds no weights."""
    with torch.device("meta"):
        model = build_model(undrawn(job.settings.teacher), job.shape, job.class_names, seed=0)
    norm_layers(model)
