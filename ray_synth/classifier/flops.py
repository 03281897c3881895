"""A classifier's settings and the images' shape in; operations of one image, and its seconds on a known GPU, out."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from ray_synth.classifier.models import SMALL, build_model, undrawn
from ray_synth.config import Classifier
from ray_synth.hardware.gpus import FORWARD_AND_BACK, Gpu
from ray_synth.hardware.measure import Measure


def forward_flops(gpu: Gpu, settings: Classifier, shape: tuple[int, int, int], classes: int) -> Measure:
    """Operations of one image: stated for known models, counted for the others. shape: [H,W,C] as read."""
    name = settings.model.split(":")[-1].removesuffix("-quickgelu")
    side = settings.image_size or max(shape[:2])
    # ResNets of small images have a stem of stride 1: every layer is 16 times as large as in what is stated.
    if name in gpu.flops and (settings.model not in ("resnet50", "resnet18") or side > SMALL):
        known = gpu.flops[name]
        # CLIP resizes to its own 224 pixels.
        return known.times((side / 224) ** 2) if name.startswith("resnet") else known
    model = build_model(undrawn(settings), shape, tuple(map(str, range(classes))), seed=0)
    height, width, channels = shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, channels, height, width))
    return Measure(value=float(counter.get_total_flops()), sigma=0.05, origin="counted by torch")


def image_seconds(gpu: Gpu, settings: Classifier, shape: tuple[int, int, int], classes: int) -> tuple[Measure, Measure]:
    """Seconds of one image in training, and of one in evaluation."""
    cost, resnet50 = forward_flops(gpu, settings, shape, classes), gpu.flops["resnet50"]
    published = gpu.rates["resnet50"]
    each = Measure(value=1 / published.value, sigma=published.sigma, origin=published.origin)
    note = f"scaled to {cost.value:.2g} FLOP an image ({cost.origin})"
    trained = each.times(cost.value / resnet50.value, sigma=cost.sigma, note=note)
    if cost.value < resnet50.value / 10:
        small = gpu.flops["small_network"]
        trained = trained.times(1 / small.value, sigma=small.sigma, note=small.origin)
    if settings.precision == "float32":
        slow = gpu.rates["float32_slowdown"]
        trained = trained.times(slow.value, sigma=slow.sigma, note="in float32")
    return trained, trained.times(1 / FORWARD_AND_BACK, sigma=0.2, note="forward alone")


def update_seconds(
    gpu: Gpu, settings: Classifier, shape: tuple[int, int, int], classes: int
) -> tuple[Measure, Measure]:
    """Seconds of an optimizer update with images of both sides, and of one side alone."""
    one, _ = image_seconds(gpu, settings, shape, classes)
    targets, regularized = settings.targets, settings.lambda_1 or settings.lambda_2
    # Mixed and clean images go through the network where the two terms are on.
    passes = 2 if (targets.mixup or targets.cutmix) and regularized else 1
    return one.times(settings.batch_size * passes), one.times(settings.batch_size)
