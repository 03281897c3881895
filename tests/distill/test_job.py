"""A whole distillation, task by task: what is lost is made again to the bit, and what changes leaves the rest alone."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from ray_synth.data.splits import Splits
from ray_synth.distill.actors import check_teacher
from ray_synth.distill.job import Job, work_left
from ray_synth.distill.results import Outcome, lines_of, metrics_of
from ray_synth.errors import InputError
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import read_rows, read_synthetic
from ray_synth.training.checkpoint import read_tensors

from .jobs import do, files, job_in


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, splits: Splits) -> Job:
    job = job_in(tmp_path_factory.mktemp("whole"), splits)
    assert work_left(RunFolder(job.url), job).count == job.count
    do(job, splits)
    return job


def test_nothing_is_left_and_images_are_as_asked(done: Job, splits: Splits) -> None:
    folder = RunFolder(done.url)
    assert work_left(folder, done).count == 0
    for method in ("wmdd", "sre2l", "rded", "random"):
        images = read_synthetic(folder, done.plan(method), class_names=done.class_names, shape=done.shape)
        assert images.counts.tolist() == [3] * 10
        rows = [
            row
            for _, found in read_rows(folder, done.plan(method), ["weight", "parent_key", "source"])
            for row in found
        ]
        weights = np.array([row["weight"] for row in rows]).reshape(10, 3)
        np.testing.assert_allclose(weights.sum(axis=1), 3.0, rtol=1e-9)
        assert (weights.std() > 0) == (method == "wmdd")
        assert all((row["parent_key"] is not None) == (method == "random") for row in rows)
    keys = set(splits.train.keys())
    assert all(row["parent_key"] in keys and row["source"] == "real" for row in rows)


def test_weights_are_those_of_the_barycenter(done: Job) -> None:
    folder = RunFolder(done.url)
    told, _ = read_tensors(folder, done.class_file(4))
    rows = [
        row["weight"]
        for chunk, found in read_rows(folder, done.plan("wmdd"), ["weight"])
        for row in found
        if chunk.label == 4
    ]
    np.testing.assert_allclose(rows, told["weights"].numpy() * 3, rtol=1e-12)


def test_what_is_lost_is_made_again_to_the_bit(done: Job, splits: Splits, tmp_path: Path) -> None:
    whole = files(done, "images") | files(done, "classes")
    folder, rng = RunFolder(done.url), random.Random(0)
    lost = rng.sample(sorted(whole), 12)
    for name in lost:
        folder.remove(name)
    left = work_left(folder, done)
    assert left.count > 0
    backwards = dataclasses.replace(left, batches=left.batches[::-1], classes=left.classes[::-1])
    do(done, splits, backwards, until="batches")
    assert files(done, "images") | files(done, "classes") == whole


def test_another_run_makes_the_same(done: Job, splits: Splits, tmp_path: Path) -> None:
    other = job_in(tmp_path / "other", splits)
    do(other, splits, until="batches")
    assert files(other, "images") == files(done, "images")


def test_other_settings_leave_alone_what_does_not_hang_on_them(done: Job, splits: Splits) -> None:
    folder, settings = RunFolder(done.url), done.settings
    other = dataclasses.replace(done, settings=settings.model_copy(update={"compare": ("random",)}))
    left = work_left(folder, other)
    assert (left.teacher, len(left.batches), len(left.students)) == (False, 0, 0)
    longer = settings.posttrain.model_copy(update={"epochs": 4})
    left = work_left(folder, dataclasses.replace(done, settings=settings.model_copy(update={"posttrain": longer})))
    assert (left.teacher, len(left.classes), len(left.batches)) == (False, 0, 0)
    assert len(left.students) == len(done.students) - 1  # all but the teacher
    recover = settings.recover.model_copy(update={"iterations": 7})
    left = work_left(folder, dataclasses.replace(done, settings=settings.model_copy(update={"recover": recover})))
    assert {batch.method for batch in left.batches} == {"wmdd", "sre2l"}
    assert not left.teacher


def test_stored_labels_train_the_same_students(done: Job, splits: Splits, tmp_path: Path) -> None:
    folder = RunFolder(done.url)
    soft = next(s for s in done.students if (s.method, s.labels) == ("random", "soft"))
    relabel = done.settings.relabel.model_copy(update={"store": True})
    job = dataclasses.replace(
        done, settings=done.settings.model_copy(update={"relabel": relabel, "compare": ("random",)})
    )
    left = work_left(folder, job)
    assert len(left.epochs) == 2 * 3
    do(job, splits, dataclasses.replace(left, students=[s for s in left.students if s == soft]))
    assert folder.read_json(job.student_file(soft)) == folder.read_json(done.student_file(soft))


def test_a_teacher_without_batchnorm_is_refused(splits: Splits, tmp_path: Path) -> None:
    job = job_in(tmp_path / "plain", splits, teacher={"model": "small_cnn"})
    with pytest.raises(InputError, match="must have BatchNorm layers"):
        check_teacher(job)


def outcome(method: str, labels: str, accuracy: float, repeat: int = 0) -> Outcome:
    return Outcome(
        method=method, labels=labels, model="m/x", repeat=repeat, accuracy=accuracy, validation_accuracy=accuracy
    )


def test_recovery_and_improvement_are_differences() -> None:
    found = metrics_of(
        [
            outcome("real", "hard", 0.9),
            outcome("wmdd", "hard", 0.5),
            outcome("wmdd", "hard", 0.7, 1),
            outcome("wmdd", "soft", 0.8),
            outcome("random", "hard", 0.4),
            outcome("random", "soft", 0.75),
        ]
    )
    assert found["accuracy/real"] == 0.9
    assert found["accuracy/wmdd/hard/m/x"] == pytest.approx(0.6)
    assert found["accuracy/wmdd/hard/m/x/std"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert found["hlr/wmdd/m/x"] == pytest.approx(0.3)
    assert found["ior/wmdd/hard/m/x"] == pytest.approx(0.2)
    assert found["ior/wmdd/soft/m/x"] == pytest.approx(0.05)
    assert "ior/random/hard/m/x" not in found
    assert len(lines_of(found)) == 5
