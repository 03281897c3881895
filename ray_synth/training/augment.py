"""A batch of images in [-1, 1] and a seed per image in, changed images out; and batches mixed with themselves.

What happens to an image follows from its own seed: not from its batch, its place there, or the worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ray_synth.data.decoding import LUMA
from ray_synth.training.trivial import trivial_augment

BRIGHTNESS = CONTRAST = SATURATION = 0.4
HUE = 0.1
ASPECT = (3 / 4, 4 / 3)
SIGMA = (0.1, 2.0)  # of the blur, at BLUR_SIDE pixels a side
BLUR_SIDE = 224
CACHED = 2**17  # pixel values that a CPU changes at once

# One column of uniform numbers per decision, so that one setting does not move another's draws.
DRAWS = (
    *("flip", "area", "aspect", "top", "left", "jitter", "brightness", "contrast", "saturation", "hue"),
    *("grayscale", "blur", "sigma", "solarize", "trivial", "change", "strength", "sign"),
)
Draws = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of images, each with its own probability. resized_crop: share of the area that a crop keeps."""

    flip: float = 0.0
    resized_crop: tuple[float, float] | None = None
    color_jitter: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    solarize: float = 0.0
    trivial: float = 0.0


def uniforms(seeds: np.ndarray, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) per seed: int64 [B] -> float64 [B,count].

    A counter through splitmix64 (Steele, Lea & Flood, 2014): a thousand times cheaper than a Generator per image.
    """
    start = _splitmix(seeds.astype(np.int64).view(np.uint64))[:, None]
    counter = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    drawn: np.ndarray = (_splitmix(start + counter) >> np.uint64(11)) * 2.0**-53
    return drawn


def _splitmix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def augment(images: torch.Tensor, settings: Augmentation, seeds: np.ndarray) -> torch.Tensor:
    """float [B,C,H,W] in [-1, 1] -> the same, changed; the input is left as it was. seeds: int64 [B].

    In this order: crop, flip, colour jitter, greyscale, blur, solarize, one change of TrivialAugment. What is about
    colour leaves out images that do not have three channels.
    """
    if len(images) == 0 or settings == Augmentation():
        return images
    draws = dict(zip(DRAWS, uniforms(seeds, len(DRAWS)).T, strict=True))
    changed = torch.empty_like(images)
    # On a CPU a part of the batch that fits its cache takes half the time of a whole one.
    step = len(images) if images.is_cuda else max(1, CACHED * len(images) // images.numel())
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        changed[part] = _changed(images[part], settings, {name: values[part] for name, values in draws.items()})
    return changed


def _changed(images: torch.Tensor, settings: Augmentation, draws: Draws) -> torch.Tensor:
    height, width = images.shape[-2:]
    if settings.resized_crop is not None:
        images = resized_crop(images, crop_boxes(draws, settings.resized_crop, height, width))
    for name, probability, change in (
        ("flip", settings.flip, lambda x, rows: x.flip(3)),
        ("jitter", settings.color_jitter, lambda x, rows: color_jitter(x, jitter_factors(draws, rows))),
        ("grayscale", settings.grayscale if images.shape[1] == 3 else 0.0, lambda x, rows: _luma(x).expand_as(x)),
        ("blur", settings.blur, lambda x, rows: gaussian_blur(x, blur_sigmas(draws, rows, min(height, width)))),
        ("solarize", settings.solarize, lambda x, rows: torch.where(x >= 0, -x, x)),
        ("trivial", settings.trivial, lambda x, rows: _one_change(x, draws, rows)),
    ):
        rows = np.flatnonzero(draws[name] < probability)
        if len(rows) == len(images):
            images = change(images, rows)
        elif len(rows):
            index = torch.from_numpy(rows).to(images.device)
            images = images.index_put((index,), change(images[index], rows))
    return images


def _one_change(images: torch.Tensor, draws: Draws, rows: np.ndarray) -> torch.Tensor:
    return trivial_augment(images, draws["change"][rows], draws["strength"][rows], draws["sign"][rows])


def crop_boxes(draws: Draws, area: tuple[float, float], height: int, width: int) -> np.ndarray:
    """Boxes int64 [B,4] (top, left, height, width): the share of the area uniform, the aspect log-uniform.

    Only aspects that fit are drawn, so the share is kept where a box of another shape would stick out.
    """
    share = area[0] + (area[1] - area[0]) * draws["area"]
    low = np.maximum(ASPECT[0], share * width / height)
    high = np.maximum(np.minimum(ASPECT[1], width / (share * height)), low)  # a very long image: what fits
    aspect = np.exp(np.log(low) + (np.log(high) - np.log(low)) * draws["aspect"])
    box_width = np.clip(np.rint(np.sqrt(share * height * width * aspect)), 1, width).astype(np.int64)
    box_height = np.clip(np.rint(np.sqrt(share * height * width / aspect)), 1, height).astype(np.int64)
    top = (draws["top"] * (height - box_height + 1)).astype(np.int64)
    left = (draws["left"] * (width - box_width + 1)).astype(np.int64)
    return np.stack([top, left, box_height, box_width], axis=1)


def resized_crop(images: torch.Tensor, boxes: np.ndarray) -> torch.Tensor:
    """Each image's box [B,4], blown up to the image's size: bilinear, and blind to what lies outside the box."""
    height, width = images.shape[-2:]
    ys, xs = (
        torch.from_numpy(_positions(boxes[:, side], boxes[:, 2 + side], length)).to(images.device, images.dtype)
        for side, length in ((0, height), (1, width))
    )
    grid = torch.stack([xs[:, None, :].expand(-1, height, -1), ys[:, :, None].expand(-1, -1, width)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _positions(start: np.ndarray, extent: np.ndarray, length: int) -> np.ndarray:
    """Where the `length` output pixels lie on the input axis, [B,length], in grid_sample's -1 to 1."""
    inside = (np.arange(length) + 0.5) * (extent[:, None] / length) - 0.5
    pixels = start[:, None] + np.clip(inside, 0, extent[:, None] - 1)
    return 2 * pixels / max(length - 1, 1) - 1


def jitter_factors(draws: Draws, rows: np.ndarray) -> np.ndarray:
    """[B,4]: factors of brightness, contrast and saturation, and the shift of the hue in turns."""
    spread = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION, "hue": HUE}
    centre = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    return np.stack([centre[n] + spread[n] * (2 * draws[n][rows] - 1) for n in spread], axis=1)


def color_jitter(images: torch.Tensor, factors: np.ndarray) -> torch.Tensor:
    """Brightness, contrast, saturation and hue, in this order, clamped after each. factors: [B,4]."""
    brightness, contrast, saturation, hue = (
        torch.from_numpy(factors).to(images.device, images.dtype).view(-1, 4, 1, 1, 1).unbind(1)
    )
    colour = images.shape[1] == 3
    x = images.add(1).mul_(0.5).mul_(brightness).clamp_(0, 1)
    grey = _luma(x) if colour else x
    x = torch.lerp(grey.mean(dim=(1, 2, 3), keepdim=True), x, contrast).clamp_(0, 1)
    if colour:
        x = torch.lerp(_luma(x), x, saturation).clamp_(0, 1)
        x = _shift_hue(x, hue)
    return x.mul_(2).sub_(1)


def _luma(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _shift_hue(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """[B,3,H,W] in [0, 1], its hue in HSV moved by `turns`; value and chroma stay."""
    red, green, blue = (x[:, channel : channel + 1] for channel in range(3))
    value, least = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    ).add_(6 * turns)
    # Channel n of HSV is v - c * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    k = (sixths + offsets).remainder_(6)
    shifted: torch.Tensor = value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
    return shifted


def blur_sigmas(draws: Draws, rows: np.ndarray, side: int) -> np.ndarray:
    """[B] standard deviations in pixels of images of `side` pixels."""
    sigmas: np.ndarray = (SIGMA[0] + (SIGMA[1] - SIGMA[0]) * draws["sigma"][rows]) * (side / BLUR_SIDE)
    return sigmas


def blur_radius(side: int) -> int:
    """Three of the largest standard deviations: a function of the image's size alone, so of no batch."""
    return min(math.ceil(3 * SIGMA[1] * side / BLUR_SIDE), max(side - 1, 0))


def gaussian_blur(images: torch.Tensor, sigmas: np.ndarray) -> torch.Tensor:
    """Each image with its own Gaussian, mirrored at the border. sigmas: [B]."""
    radius = blur_radius(min(images.shape[-2:]))
    offsets = np.arange(-radius, radius + 1)
    kernels = np.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = torch.from_numpy(kernels / kernels.sum(axis=1, keepdims=True)).to(images.device, images.dtype)
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    return _convolved(_convolved(padded, weights, 3), weights, 2)


def _convolved(padded: torch.Tensor, weights: torch.Tensor, axis: int) -> torch.Tensor:
    """Each image with its own symmetric kernel [B,2r+1] along an axis, which loses r at each end."""
    taps = weights.shape[1]
    length = padded.shape[axis] - taps + 1
    weight = weights.view(-1, taps, 1, 1, 1)
    found = padded.narrow(axis, taps // 2, length) * weight[:, taps // 2]
    for tap in range(taps // 2):
        found.addcmul_(padded.narrow(axis, tap, length) + padded.narrow(axis, taps - 1 - tap, length), weight[:, tap])
    return found


def soft_targets(labels: torch.Tensor, num_classes: int, label_smoothing: float) -> torch.Tensor:
    """int64 [B] -> float [B,K]: 1 - s + s / K at the label, s / K elsewhere (Szegedy et al., 2016)."""
    return F.one_hot(labels, num_classes).float().mul_(1 - label_smoothing).add_(label_smoothing / num_classes)


def mix_images(
    images: torch.Tensor, targets: torch.Tensor, *, mixup: float, cutmix: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """MixUp (Zhang et al., 2018) or CutMix (Yun et al., 2019) of a batch with itself in another order.

    images: [B,C,H,W]; targets: soft, [B,K]; mixup, cutmix: alpha, or 0 for none. One share lambda ~ Beta(alpha, alpha)
    for the batch; with both kinds on, a fair coin takes one.
    """
    if len(images) == 0 or not (mixup or cutmix):
        return images, targets
    random = np.random.default_rng(seed)
    cut = cutmix > 0 and (mixup == 0 or random.random() < 0.5)
    alpha = cutmix if cut else mixup
    own = float(random.beta(alpha, alpha))
    partner = torch.from_numpy(random.permutation(len(images))).to(images.device)
    if cut:
        top, bottom, left, right = cut_box(own, images.shape[-2], images.shape[-1], random)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        own = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    else:
        mixed = images[partner].lerp_(images, own)
    return mixed, targets[partner].lerp_(targets, own)


def cut_box(own: float, height: int, width: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box of about 1 - own of the image around a uniform centre, cut at the border."""
    side = math.sqrt(1 - own)
    half_height, half_width = int(height * side) / 2, int(width * side) / 2
    y, x = random.integers(height), random.integers(width)
    top, bottom = (int(np.clip(edge, 0, height)) for edge in (y - half_height, y + half_height))
    left, right = (int(np.clip(edge, 0, width)) for edge in (x - half_width, x + half_width))
    return top, bottom, left, right
