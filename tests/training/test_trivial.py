"""TrivialAugment's changes against torchvision, one image at a time; all of them as likely, and by seeds alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ray_synth.training.augment import DRAWS, Augmentation, augment, uniforms
from ray_synth.training.trivial import CHANGES, SHEAR, SHIFT, TURN, trivial_augment

SIDE = 16


def images(number: int, channels: int = 3, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    drawn = torch.rand(number, channels, height, width, generator=torch.Generator().manual_seed(1))
    return (drawn * 255).round() / 255 * 2 - 1


def changed(batch: torch.Tensor, name: str, strength: float, sign: int = 1) -> torch.Tensor:
    number = len(batch)
    which = np.full(number, (CHANGES.index(name) + 0.5) / len(CHANGES))
    return trivial_augment(batch, which, np.full(number, strength), np.full(number, 0.25 if sign < 0 else 0.75))


def bytes_of(batch: torch.Tensor) -> torch.Tensor:
    return ((batch + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("brightness", lambda x, s: tv.adjust_brightness(x, 1 + 0.9 * s)),
        ("color", lambda x, s: tv.adjust_saturation(x, 1 + 0.9 * s)),
        ("sharpness", lambda x, s: tv.adjust_sharpness(x, 1 + 0.9 * s)),
        ("autocontrast", lambda x, s: tv.autocontrast(x)),
        ("solarize", lambda x, s: tv.solarize(x, 1 - abs(s))),
    ],
)
def test_colours_are_torchvisions(name: str, theirs, sign: int) -> None:
    batch = images(3)
    expected = torch.stack([theirs((image + 1) / 2, 0.6 * sign) for image in batch]) * 2 - 1
    assert torch.allclose(changed(batch, name, 0.6, sign), expected, atol=2e-3)  # their grey has other last digits


def test_contrast_is_about_the_mean_grey() -> None:
    batch = images(2)
    expected = torch.stack([tv.adjust_contrast((image + 1) / 2, 1.54) for image in batch]) * 2 - 1
    assert torch.allclose(changed(batch, "contrast", 0.6), expected, atol=2e-3)


def test_equalize_and_posterize_are_torchvisions_of_bytes() -> None:
    dark = images(3) * 0.4 - 0.3
    dark = (dark * 127.5 + 127.5).round() / 127.5 - 1
    assert (bytes_of(changed(dark, "equalize", 0.5)).int() - tv.equalize(bytes_of(dark)).int()).abs().max() <= 1
    flat = torch.full((1, 3, 8, 8), 0.25)
    assert torch.allclose(changed(flat, "equalize", 1.0), flat)
    assert (bytes_of(changed(dark, "posterize", 1.0)) == tv.posterize(bytes_of(dark), 4)).all()
    assert (bytes_of(changed(dark, "posterize", 0.5)) == tv.posterize(bytes_of(dark), 6)).all()


def test_shapes_are_moved_as_torchvision_moves_them() -> None:
    batch = images(2, channels=1, height=16, width=24)
    black = {"interpolation": InterpolationMode.BILINEAR, "fill": [0.0]}

    def theirs(**words: object) -> torch.Tensor:
        whole = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **words}
        return tv.affine((batch + 1) / 2, **whole, **black) * 2 - 1

    inside = changed(torch.ones_like(batch), "rotate", 0.5) > 1 - 1e-6  # they weigh the border twice
    assert 0.5 < inside.float().mean() < 0.95
    assert torch.allclose(changed(batch, "rotate", 0.5)[inside], theirs(angle=0.5 * TURN)[inside], atol=1e-4)
    down = changed(batch, "translate_y", 0.4)  # by 2 of 16 pixels
    assert torch.allclose(down[:, :, :-2], batch[:, :, 2:], atol=1e-5)
    assert (down[:, :, -2:] == -1).all()
    across = changed(batch, "translate_x", 2 / 24 / SHIFT, -1)
    assert torch.allclose(across[..., 2:], batch[..., :-2], atol=1e-4)
    line = torch.full((1, 1, 33, 33), -1.0)
    line[..., 16] = 1
    sheared = changed(line, "shear_x", 1.0)[0, 0]
    tops, ends = sheared[2].argmax(), sheared[30].argmax()
    assert abs(int(tops - ends)) == round(SHEAR * 28)


def test_each_change_is_as_likely_and_follows_from_the_seed_alone() -> None:
    draws = dict(zip(DRAWS, uniforms(np.arange(14_000), len(DRAWS)).T, strict=True))
    counts = np.bincount((draws["change"] * len(CHANGES)).astype(int), minlength=len(CHANGES))
    assert len(counts) == 14
    assert np.abs(counts - 1000).max() < 150  # five standard deviations
    batch, seeds = images(40), np.arange(40)
    whole = augment(batch, Augmentation(trivial=1.0), seeds)
    parts = torch.cat([augment(batch[i : i + 7], Augmentation(trivial=1.0), seeds[i : i + 7]) for i in range(0, 40, 7)])
    assert torch.allclose(whole, parts, atol=1e-6)
    assert ((whole != batch).flatten(1).any(1)).sum() >= 30
    assert whole.min() >= -1 - 1e-6
    assert whole.max() <= 1 + 1e-6
    assert (augment(batch, Augmentation(trivial=0.0), seeds) == batch).all()
    assert augment(images(5, channels=1), Augmentation(trivial=1.0), seeds[:5]).shape == (5, 1, SIDE, SIDE)
