"""A small job, and its tasks done one after the other in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray_synth.config import Distill
from ray_synth.data.splits import Splits
from ray_synth.distill.actors import RecoverBatch, SqueezeClass, StoreLabels, TrainStudent, TrainTeacher
from ray_synth.distill.job import Job, Left, work_left
from ray_synth.runs import RunFolder

SMALL: dict[str, Any] = {
    "images_per_class": 3,
    "compare": ["sre2l", "random", "rded"],
    "teacher": {"model": "resnet8", "epochs": 1, "evaluations": 1, "augment": {"flip": 0.0, "resized_crop": None}},
    "recover": {"iterations": 6, "flip": 0.5, "jitter": 1, "batch_size": 12},
    "posttrain": {"models": ["small_cnn"], "epochs": 3, "repeats": 1, "batch_size": 16},
}


def job_in(folder: Path, splits: Splits, **changes: Any) -> Job:
    folder.mkdir(exist_ok=True)
    return Job(
        url=str(folder),
        settings=Distill.model_validate({**SMALL, **changes}),
        seed=0,
        class_names=splits.train.class_names,
        shape=splits.train.shape,
        data="digits",
    )


def do(job: Job, splits: Splits, left: Left | None = None, *, until: str = "students") -> None:
    """What is left, or that part of it."""
    left = left or work_left(RunFolder(job.url), job)
    kinds: Sequence[tuple[str, Any, Any, Sequence[dict[str, Any]]]] = (
        ("teacher", TrainTeacher, (splits.train, splits.validation), [{}] if left.teacher else []),
        ("classes", SqueezeClass, splits.train, [{"label": label} for label in left.classes]),
        ("batches", RecoverBatch, None, [asdict(batch) for batch in left.batches]),
        ("epochs", StoreLabels, None, [{"method": method, "epoch": epoch} for method, epoch in left.epochs]),
        ("students", TrainStudent, (splits.validation, splits.test), [asdict(student) for student in left.students]),
    )
    for name, worker, shared, items in kinds:
        if items:
            actor = worker(job, shared, "cpu")
            for item in items:
                actor(item)
        if name == until:
            return


def files(job: Job, below: str) -> dict[str, bytes]:
    folder = RunFolder(job.url)
    return {name: folder.read(name) for name in folder.files(f"distilled/{below}")}
