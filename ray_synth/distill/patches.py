"""Real images of a class and a teacher in, images stitched from the crops that it knows best out (RDED).

Sun et al. (2024): of a few random crops of each image the one with the least cross-entropy is kept, the best of those
are chosen, and factor² of them, each shrunk to its place, make one image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ray_synth.data.transforms import to_model_range
from ray_synth.errors import InputError

Teacher = Callable[[torch.Tensor], torch.Tensor]  # float [N,C,H,W] in [-1, 1] -> logits [N,classes]

AREA = (0.08, 1.0)  # of a crop as a part of the image: torchvision's RandomResizedCrop, as in the released code
BLOCK = 256  # crops that the teacher sees at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Patchwork:
    """images: uint8 [num,H,W,C]; rows: int64 [num,factor²], whose crops each shows, row by row from the upper left;
    boxes: int64 [num,factor²,3], their top, left and side; losses: float64 [num,factor²], cross-entropies."""

    images: np.ndarray
    rows: np.ndarray
    boxes: np.ndarray
    losses: np.ndarray


def patchwork(
    images: np.ndarray, labels: np.ndarray, teacher: Teacher, num: int, *, factor: int = 2, crops: int = 5, seed: int
) -> Patchwork:
    """The crops of least loss, `factor` a side in each image.

    images: uint8 [n,H,W,C]; labels: int [n]. A second crop of an image is taken only when every image has given one.
    The best crop is the upper left of the first image, the next that of the second, and so on: each image gets crops
    of all ranks. Crops are a function of (seed, row). The teacher sees a crop at the size of its place, amid zeros.

    Raises:
        InputError: fewer crops than places, a factor beyond the images' side, other shapes.
    """
    _check(images, labels, num, factor, crops)
    boxes = np.stack([_boxes(images.shape[1:3], crops, seed, row) for row in range(len(images))])  # (n, crops, 3)
    losses = _losses(images, labels, teacher, boxes, factor)  # (n, crops)
    order = losses.argsort(axis=1, kind="stable")
    ranks = order.argsort(axis=1, kind="stable")  # of a crop among those of its image
    best = np.lexsort((losses.ravel(), ranks.ravel()))[: num * factor**2]
    rows, kept = np.divmod(best, crops)
    by_image = [one.reshape(factor**2, num).T for one in (rows, kept)]  # (num, factor²)
    found = boxes[by_image[0], by_image[1]]
    return Patchwork(
        images=np.stack([_stitched(images[r], b, factor) for r, b in zip(by_image[0], found, strict=True)]),
        rows=by_image[0],
        boxes=found,
        losses=losses[by_image[0], by_image[1]],
    )


def _boxes(shape: tuple[int, ...], crops: int, seed: int, row: int) -> np.ndarray:
    """Squares anywhere in an image: top, left and side, [crops,3]."""
    rng = np.random.default_rng([seed, row])
    height, width = shape
    sides = np.sqrt(rng.uniform(*AREA, size=crops) * height * width).round().astype(np.int64)
    sides = np.clip(sides, 1, min(height, width))
    return np.stack([rng.integers(0, height - sides + 1), rng.integers(0, width - sides + 1), sides], axis=1)


@torch.no_grad()
def _losses(images: np.ndarray, labels: np.ndarray, teacher: Teacher, boxes: np.ndarray, factor: int) -> np.ndarray:
    """The teacher's cross-entropy of each crop, float64 [n,crops]."""
    n, crops, _ = boxes.shape
    height, width = (side // factor for side in images.shape[1:3])
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    found = np.empty(n * crops)
    for start in range(0, n * crops, BLOCK):
        some = np.arange(start, min(start + BLOCK, n * crops))
        canvas = torch.zeros(len(some), images.shape[3], *images.shape[1:3])
        for place, one in enumerate(some):
            row, crop = divmod(int(one), crops)
            cut = _resized(images[row], boxes[row, crop], height, width)
            canvas[place, :, top : top + height, left : left + width] = cut
        target = torch.as_tensor(labels[some // crops], dtype=torch.int64)
        logits = teacher(canvas).float().cpu()
        found[some] = functional.cross_entropy(logits, target, reduction="none").numpy()
    if not np.isfinite(found).all():
        raise InputError("the teacher's logits are not finite; look at how it was trained")
    return found.reshape(n, crops)


def _resized(image: np.ndarray, box: np.ndarray, height: int, width: int) -> torch.Tensor:
    """A square of an image at another size: uint8 [H,W,C] -> float [C,height,width] in [-1, 1]."""
    top, left, side = (int(one) for one in box)
    cut = to_model_range(torch.from_numpy(image[None, top : top + side, left : left + side].copy()))
    return functional.interpolate(cut, size=(height, width), mode="bilinear", antialias=True)[0]


def _stitched(images: np.ndarray, boxes: np.ndarray, factor: int) -> np.ndarray:
    """factor² crops as one image, row by row: uint8 [factor²,H,W,C] -> [H,W,C]"""
    whole = np.empty(images.shape[1:], dtype=np.uint8)
    rows, columns = (np.arange(factor + 1) * side // factor for side in images.shape[1:3])
    for place, (image, box) in enumerate(zip(images, boxes, strict=True)):
        i, j = divmod(place, factor)
        down, across = slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1])
        cut = _resized(image, box, int(rows[i + 1] - rows[i]), int(columns[j + 1] - columns[j]))
        whole[down, across] = ((cut + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return whole


def _check(images: Any, labels: Any, num: int, factor: int, crops: int) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or len(labels) != len(images):
        raise InputError(
            f"images must be uint8 [n,H,W,C] with a label each, got {images.dtype} {list(images.shape)} and "
            f"{len(labels)} labels"
        )
    if not 1 <= factor <= min(images.shape[1:3]):
        raise InputError(
            f"factor must be between 1 and the side of the images ({min(images.shape[1:3])}), got {factor}"
        )
    if num < 1 or crops < 1 or num * factor**2 > len(images) * crops:
        raise InputError(
            f"{num} images of {factor}x{factor} crops need {num * factor**2}, and {len(images)} images of {crops} "
            f"crops give {len(images) * crops}; ask for fewer images, a lower factor or more crops"
        )
