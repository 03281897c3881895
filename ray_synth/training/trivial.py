"""A batch of images in [-1, 1] and numbers for each in, one change of shape or colour of each out: TrivialAugment.

Of (Müller & Hutter, 2021, Algorithm 1): one of 14 changes, all as likely, and a strength from none to the largest, any
as likely. The largest are those of RandAugment (their RA space), a translation as a share of the side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from ray_synth.data.decoding import LUMA

SHEAR = 0.3
SHIFT = 10 / 32  # of the side
TURN = 30.0  # degrees
BLEND = 0.9  # factors from 1 - BLEND to 1 + BLEND
BITS = 4  # that posterize takes away
MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
Change = Callable[[torch.Tensor, list[str], np.ndarray], torch.Tensor]
CHANGES = ("identity", *MOVES, *BLENDS, "posterize", "solarize", "autocontrast", "equalize")


def trivial_augment(images: torch.Tensor, change: np.ndarray, strength: np.ndarray, sign: np.ndarray) -> torch.Tensor:
    """float [B,C,H,W] in [-1, 1] -> the same, changed. change, strength, sign: uniform numbers in [0, 1), [B] each;
    what is about colour leaves out images that do not have three channels."""
    which = np.minimum((change * len(CHANGES)).astype(np.int64), len(CHANGES) - 1)
    signed = np.where(sign < 0.5, -strength, strength)
    x = images.add(1).mul_(0.5)
    groups: tuple[tuple[tuple[str, ...], Change], ...] = (
        (MOVES, lambda x, which, rows: moved(x, which, signed[rows])),
        (BLENDS, lambda x, which, rows: blended(x, which, 1 + BLEND * signed[rows])),
        (("posterize",), lambda x, which, rows: posterized(x, strength[rows])),
        (("solarize",), lambda x, which, rows: solarized(x, strength[rows])),
        (("autocontrast",), lambda x, which, rows: autocontrast(x)),
        (("equalize",), lambda x, which, rows: equalized(x)),
    )
    for names, changed in groups:
        rows = np.flatnonzero(np.isin(which, [CHANGES.index(name) for name in names]))
        if len(rows):
            index = torch.from_numpy(rows).to(x.device)
            x = x.index_put((index,), changed(x[index], [CHANGES[k] for k in which[rows]], rows))
    return x.mul(2).sub_(1)


def moved(x: torch.Tensor, names: list[str], signed: np.ndarray) -> torch.Tensor:
    """Sheared, shifted or turned about the middle, black outside. x: [B,C,H,W] in [0, 1]; signed: [B] in [-1, 1]."""
    height, width = x.shape[-2:]
    theta = np.zeros((len(x), 2, 3))
    for row, (name, s) in enumerate(zip(names, signed, strict=True)):
        turn = np.deg2rad(TURN * s) if name == "rotate" else 0.0
        # From a place in the output to one in the input, in pixels from the middle.
        (a, b), (c, d) = (np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))
        b += SHEAR * s if name == "shear_x" else 0.0
        c += SHEAR * s if name == "shear_y" else 0.0
        across = SHIFT * s if name == "translate_x" else 0.0
        down = SHIFT * s if name == "translate_y" else 0.0
        theta[row] = [[a, b * height / width, 2 * across], [c * width / height, d, 2 * down]]
    grid = F.affine_grid(torch.from_numpy(theta).to(x.device, x.dtype), list(x.shape), align_corners=False)
    found: torch.Tensor = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found


def blended(x: torch.Tensor, names: list[str], factors: np.ndarray) -> torch.Tensor:
    """Towards, or away from, black, grey, the mean grey or a smooth image. factors: [B], 1 for no change."""
    colour = x.shape[1] == 3
    grey = sum(x[:, c : c + 1] * LUMA[c] for c in range(3)) if colour else x
    assert isinstance(grey, torch.Tensor)  # noqa: S101 - of the sum
    towards = {
        "brightness": torch.zeros_like(x),
        "color": grey.expand_as(x),
        "contrast": grey.mean(dim=(1, 2, 3), keepdim=True).expand_as(x),
        "sharpness": _smooth(x),
    }
    degenerate = torch.stack([towards[name][row] for row, name in enumerate(names)])
    by = torch.from_numpy(factors).to(x.device, x.dtype).view(-1, 1, 1, 1)
    return torch.lerp(degenerate, x, by).clamp_(0, 1)


def _smooth(x: torch.Tensor) -> torch.Tensor:
    """Pillow's SMOOTH kernel; the border stays."""
    channels, height, width = x.shape[1:]
    if min(height, width) < 3:
        return x
    kernel = torch.ones(3, 3, device=x.device, dtype=x.dtype)
    kernel[1, 1] = 5
    inner = F.conv2d(x, (kernel / kernel.sum()).expand(channels, 1, 3, 3), groups=channels)
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = inner
    return smooth


def posterized(x: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Values of 8 bits without their last ones."""
    gone = np.exp2(np.rint(BITS * strength))
    step = torch.from_numpy(gone).to(x.device, x.dtype).view(-1, 1, 1, 1)
    return (x * 255).round().div_(step).floor_().mul_(step).div_(255)


def solarized(x: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Inverted from a threshold on, which is the lower, the stronger."""
    threshold = torch.from_numpy(1 - strength).to(x.device, x.dtype).view(-1, 1, 1, 1)
    return torch.where(x >= threshold, 1 - x, x)


def autocontrast(x: torch.Tensor) -> torch.Tensor:
    """Each channel from 0 to 1; one of a single value stays."""
    low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, (x - low) / torch.where(span > 0, span, 1), x)


def equalized(x: torch.Tensor) -> torch.Tensor:
    """Each channel's histogram made even, over 256 values, by the rule of Pillow's ImageOps.equalize."""
    flat = (x * 255).round().clamp_(0, 255).long().flatten(2)  # [B,C,P]
    counts = torch.zeros(*flat.shape[:2], 256, device=x.device, dtype=torch.long)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    pixels = flat.shape[2]
    largest = counts.gather(2, flat.amax(dim=2, keepdim=True))
    step = (pixels - largest) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    made = table.gather(2, flat).view_as(x).to(x.dtype).div_(255)
    return torch.where(step.unsqueeze(-1) > 0, made, x)
