"""A distilling job in; seconds of its units out, by its own code, with all of the machine's slots busy."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ray_synth.stages.bench import Bench, some

if TYPE_CHECKING:
    from ray_synth.data.source import ImageSource
    from ray_synth.distill.job import Job

PIECE = 1.0  # seconds that a piece is repeated for
MOST = 64  # images that a piece looks at


def measure_distilling(bench: Bench, job: Job) -> Mapping[str, list[float]]:
    """Unit -> what one took in each slot."""
    import ray

    real = some(bench.inputs.splits.train, MOST)
    gpu = int(bench.gpus > 0)
    task, shared = ray.remote(num_cpus=1 - gpu, num_gpus=gpu)(seconds_of_units), ray.put(real)
    found = ray.get([task.remote(job, shared) for _ in range(bench.gpus or bench.cpus)])
    return {unit: [each[unit] for each in found] for unit in found[0]}


def seconds_of_units(job: Job, real: ImageSource) -> dict[str, float]:
    """A teacher of random weights does as well as another."""
    import torch

    from ray_synth.classifier.models import build_model, undrawn
    from ray_synth.data.transforms import to_model_range
    from ray_synth.distill.job import unit_of
    from ray_synth.distill.recover import Recovery, Target, Weights, groups_of
    from ray_synth.distill.squeeze import Tapped, summary_of_class

    s, device = job.settings, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = build_model(undrawn(s.teacher), job.shape, job.class_names, seed=0).to(device)
    found = {"teacher_update": _update(job, real, s.teacher.model) * s.teacher.batch_size}
    exact, plain = Tapped(copy.deepcopy(teacher), exact=True), Tapped(teacher)
    pixels = to_model_range(torch.from_numpy(real.images()).to(device))
    found["squeezed_image"] = _each(lambda: summary_of_class(exact, real)) / len(real)
    with torch.inference_mode():
        found["test_image"] = _each(lambda: plain(pixels)) / len(real)
    images, classes = groups_of(s.method, job.num_classes, s.images_per_class, s.recover.batch_size)
    mean, variance = plain.global_statistics
    target = Target(labels=torch.arange(classes).repeat_interleave(images), means=mean[None], variances=variance[None])
    recovery = Recovery(
        plain,
        target,
        Weights(bn=1.0, cross_entropy=0.0, norms=False),
        s.recover,
        seeds=np.arange(images * classes),
        shape=job.shape,
    )
    found["image"] = _each(recovery.step) / (images * classes) * s.recover.iterations
    for model in s.posttrain.models:
        update = _update(job, real, model)
        found |= {unit_of(model, "hard"): update, unit_of(model, "soft"): update + found["test_image"]}
    return found


def _update(job: Job, real: ImageSource, model: str) -> float:
    """Seconds of an image of a training."""
    import torch

    from ray_synth.config import changed
    from ray_synth.distill.posttrain import train_student
    from ray_synth.distill.relabel import Views

    s, device = job.settings, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    views = Views(
        real.images(),
        real.labels,
        np.ones(len(real)),
        s.relabel,
        num_classes=job.num_classes,
        batch_size=s.posttrain.batch_size,
        seed=0,
        device=device,
    )

    def trained(epochs: int) -> float:
        begin, few = time.monotonic(), changed(s.posttrain, {"epochs": epochs})
        train_student(views, s.student(model), few, shape=job.shape, class_names=job.class_names, seed=0)
        return time.monotonic() - begin

    trained(1)
    return max(1e-6, trained(3) - trained(1)) / 2 / len(real)


def _each(piece: Callable[[], object]) -> float:
    """Seconds of one call, after a first one."""
    piece()
    begin, calls = time.monotonic(), 0
    while time.monotonic() - begin < PIECE:
        piece()
        calls += 1
    return (time.monotonic() - begin) / calls
