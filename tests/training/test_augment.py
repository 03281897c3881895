"""Augmentation against torchvision, one image at a time; the same pixels in every batch; mixed batches by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from ray_synth.training import augment as augmentation
from ray_synth.training.augment import (
    DRAWS,
    Augmentation,
    augment,
    blur_radius,
    blur_sigmas,
    color_jitter,
    crop_boxes,
    cut_box,
    gaussian_blur,
    jitter_factors,
    mix_images,
    resized_crop,
    soft_targets,
    uniforms,
)

EVERYTHING = Augmentation(flip=0.5, resized_crop=(0.3, 1.0), color_jitter=0.8, grayscale=0.3, blur=0.5, solarize=0.3)


TORCHVISIONS_LUMA = (0.2989, 0.587, 0.114)  # sums to .9999; ours to 1, so that white stays white


def images(number: int, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(number, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def draws_of(seeds: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(DRAWS, uniforms(seeds, len(DRAWS)).T, strict=True))


def per_image(batch: torch.Tensor, change) -> torch.Tensor:
    """torchvision on [0, 1], image by image."""
    return torch.stack([change((image + 1) / 2, i) * 2 - 1 for i, image in enumerate(batch)])


def test_draws_are_uniform_independent_and_a_function_of_the_seed() -> None:
    seeds = np.arange(-20_000, 20_000)
    values = uniforms(seeds, 5)
    assert values.min() >= 0
    assert values.max() < 1
    # 40,000 draws: standard errors of .0014 (mean), .005 (correlation)
    assert np.abs(values.mean(0) - 0.5).max() < 0.006
    assert np.abs(values.var(0) - 1 / 12).max() < 0.002
    assert np.abs(np.corrcoef(values.T) - np.eye(5)).max() < 0.025
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.025
    assert (uniforms(seeds[7:9], 5) == values[7:9]).all()
    assert (uniforms(seeds, 9)[:, :5] == values).all()


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 40, 24), (3, 224, 224)])
def test_an_image_does_not_depend_on_its_batch(shape: tuple[int, int, int]) -> None:
    number = 4 if shape[1] > 100 else 24
    batch, seeds = images(number, *shape), np.arange(number) * 977 + 5
    whole = augment(batch, EVERYTHING, seeds)
    order = np.random.default_rng(0).permutation(number)
    shuffled = augment(batch[order], EVERYTHING, seeds[order])
    one_by_one = torch.cat([augment(batch[i : i + 1], EVERYTHING, seeds[i : i + 1]) for i in range(number)])
    parts = torch.cat([augment(batch[rows], EVERYTHING, seeds[rows]) for rows in (slice(0, 3), slice(3, None))])
    torch.testing.assert_close(shuffled, whole[order], atol=1e-6, rtol=0)
    torch.testing.assert_close(one_by_one, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert whole.min() >= -1
    assert whole.max() <= 1
    assert not torch.equal(augment(batch, EVERYTHING, seeds + 1), whole)


def test_without_colour_jitter_the_same_pixels_are_the_same_bits() -> None:
    settings = replace(EVERYTHING, color_jitter=0.0)  # whose mean is a sum, in an order that may differ
    batch, seeds = images(10), np.arange(10)
    one_by_one = torch.cat([augment(batch[i : i + 1], settings, seeds[i : i + 1]) for i in range(10)])
    assert torch.equal(one_by_one, augment(batch, settings, seeds))


def test_nothing_asked_is_nothing_done_and_the_input_stays() -> None:
    batch = images(6)
    before, seeds = batch.clone(), np.arange(6)
    assert torch.equal(augment(batch, Augmentation(), seeds), batch)
    augment(batch, EVERYTHING, seeds)
    assert torch.equal(batch, before)
    assert augment(batch[:0], EVERYTHING, seeds[:0]).shape == (0, 3, 32, 32)
    whole = Augmentation(resized_crop=(1.0, 1.0))
    torch.testing.assert_close(augment(batch, whole, seeds), batch, atol=1e-5, rtol=0)


def test_each_probability_is_kept() -> None:
    batch, seeds = images(4000, height=4, width=4), np.arange(4000)
    for name in ("flip", "color_jitter", "grayscale", "solarize"):
        changed = (augment(batch, Augmentation(**{name: 0.3}), seeds) != batch).flatten(1).any(1).float().mean()
        assert float(changed) == pytest.approx(0.3, abs=0.03), name
    batch = images(4000, channels=1)
    blurred = (augment(batch, Augmentation(blur=0.3), seeds) != batch).flatten(1).any(1).numpy()
    draws = draws_of(seeds)
    wide = blur_sigmas(draws, np.arange(4000), 32) > 0.2  # a narrower one leaves every bit
    assert (blurred[wide] == (draws["blur"] < 0.3)[wide]).all()
    assert not blurred[draws["blur"] >= 0.3].any()


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 20, 36), (1, 8, 8)])
def test_crops_are_torchvisions(shape: tuple[int, int, int]) -> None:
    batch, seeds = images(20, *shape), np.arange(20)
    boxes = crop_boxes(draws_of(seeds), (0.2, 0.9), *shape[1:])
    expected = per_image(
        batch, lambda x, i: tv.resized_crop(x, *boxes[i].tolist(), size=list(shape[1:]), antialias=False)
    )
    torch.testing.assert_close(resized_crop(batch, boxes), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        augment(batch, Augmentation(resized_crop=(0.2, 0.9)), seeds), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("height", "width"), [(224, 224), (180, 240)])
def test_boxes_keep_the_share_and_the_aspect(height: int, width: int) -> None:
    boxes = crop_boxes(draws_of(np.arange(5000)), (0.25, 1.0), height, width)
    top, left, box_height, box_width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + box_height <= height).all()
    assert (left + box_width <= width).all()
    share = box_height * box_width / (height * width)
    assert share.min() > 0.24
    assert float(share.mean()) == pytest.approx(0.625, abs=0.01)
    aspect = box_width / box_height
    assert aspect.min() > 0.73
    assert aspect.max() < 1.37
    assert crop_boxes(draws_of(np.arange(50)), (0.01, 0.02), 4, 400)[:, 2:].min() >= 1


def test_flips_and_solarize_are_torchvisions() -> None:
    batch, seeds = images(6), np.arange(6)
    assert torch.equal(augment(batch, Augmentation(flip=1.0), seeds), tv.horizontal_flip(batch))
    expected = per_image(batch, lambda x, i: tv.solarize(x, 0.5))
    torch.testing.assert_close(augment(batch, Augmentation(solarize=1.0), seeds), expected, atol=1e-6, rtol=0)


def test_colour_jitter_is_torchvisions_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "LUMA", TORCHVISIONS_LUMA)
    batch, seeds = images(40, height=16, width=16), np.arange(40)
    batch[0], batch[1] = -1.0, 0.25  # a hue of grey is none
    batch[2, 1] = batch[2, 0]  # two channels alike
    factors = jitter_factors(draws_of(seeds), np.arange(40))

    def oracle(x: torch.Tensor, i: int) -> torch.Tensor:
        brightness, contrast, saturation, hue = factors[i].tolist()
        x = tv.adjust_contrast(tv.adjust_brightness(x, brightness), contrast)
        return tv.adjust_hue(tv.adjust_saturation(x, saturation), hue)

    torch.testing.assert_close(color_jitter(batch, factors), per_image(batch, oracle), atol=2e-5, rtol=0)
    assert np.abs(factors[:, :3] - 1).max() <= 0.4
    assert np.abs(factors[:, 3]).max() <= 0.1


@pytest.mark.parametrize("column", range(4))
def test_one_factor_moves_one_thing(column: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "LUMA", TORCHVISIONS_LUMA)
    batch = images(5)
    factors = np.tile([1.0, 1.0, 1.0, 0.0], (5, 1))
    torch.testing.assert_close(color_jitter(batch, factors), batch, atol=1e-5, rtol=0)
    factors[:, column] += 0.07
    change = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue][column]
    expected = per_image(batch, lambda x, i: change(x, factors[i, column]))
    torch.testing.assert_close(color_jitter(batch, factors), expected, atol=2e-5, rtol=0)


def test_grey_images_have_brightness_and_contrast_alone() -> None:
    batch, seeds = images(6, channels=1), np.arange(6)
    factors = jitter_factors(draws_of(seeds), np.arange(6))
    expected = per_image(batch, lambda x, i: tv.adjust_contrast(tv.adjust_brightness(x, factors[i, 0]), factors[i, 1]))
    torch.testing.assert_close(augment(batch, Augmentation(color_jitter=1.0), seeds), expected, atol=1e-5, rtol=0)
    assert torch.equal(augment(batch, Augmentation(grayscale=1.0), seeds), batch)


def test_greyscale_is_torchvisions() -> None:
    batch = images(6)
    expected = per_image(batch, lambda x, i: tv.rgb_to_grayscale(x, num_output_channels=3))
    torch.testing.assert_close(augment(batch, Augmentation(grayscale=1.0), np.arange(6)), expected, atol=3e-4, rtol=0)
    white = torch.ones(1, 3, 4, 4)
    assert torch.equal(augment(white, Augmentation(grayscale=1.0), np.arange(1)), white)


@pytest.mark.parametrize("side", [8, 32, 224])
def test_blur_is_torchvisions_with_a_sigma_per_image(side: int) -> None:
    batch, seeds = images(5, height=side, width=side), np.arange(5)
    sigmas = blur_sigmas(draws_of(seeds), np.arange(5), side)
    taps = 2 * blur_radius(side) + 1
    expected = per_image(batch, lambda x, i: tv.gaussian_blur(x, [taps, taps], [sigmas[i]] * 2))
    torch.testing.assert_close(gaussian_blur(batch, sigmas), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(augment(batch, Augmentation(blur=1.0), seeds), expected, atol=1e-5, rtol=0)
    assert blur_radius(224) == 6
    assert len(np.unique(sigmas)) == 5


def test_parts_of_a_batch_are_an_affair_of_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, seeds = images(9), np.arange(9)
    whole = augment(batch, EVERYTHING, seeds)
    monkeypatch.setattr(augmentation, "CACHED", 1)
    torch.testing.assert_close(augment(batch, EVERYTHING, seeds), whole, atol=1e-6, rtol=0)


def test_soft_targets_are_torchs_label_smoothing() -> None:
    labels, logits = torch.tensor([0, 2, 1]), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    found = torch.nn.functional.cross_entropy(logits, soft_targets(labels, 4, 0.2))
    torch.testing.assert_close(found, expected)
    assert torch.equal(soft_targets(labels, 4, 0.0).argmax(1), labels)
    assert soft_targets(labels, 4, 0.1).sum(1).allclose(torch.ones(3))


def test_mixup_is_one_share_of_a_permutation() -> None:
    batch, targets = images(8), soft_targets(torch.arange(8), 8, 0.0)
    mixed, soft = mix_images(batch, targets, mixup=1.0, cutmix=0.0, seed=3)
    torch.testing.assert_close(torch.einsum("bk,kchw->bchw", soft, batch), mixed, atol=1e-6, rtol=0)
    torch.testing.assert_close(soft.sum(0), torch.ones(8))  # a permutation
    shares = {round(float(share), 5) for share in soft[(soft > 0) & (soft < 1)]}
    assert len(shares) == 2
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    again, _ = mix_images(batch, targets, mixup=1.0, cutmix=0.0, seed=3)
    assert torch.equal(again, mixed)
    assert not torch.equal(mix_images(batch, targets, mixup=1.0, cutmix=0.0, seed=4)[0], mixed)


def test_cutmix_targets_are_the_shares_of_pixels() -> None:
    number = 6
    batch = torch.arange(number).float().view(-1, 1, 1, 1).expand(-1, 3, 9, 13).contiguous()
    targets = soft_targets(torch.arange(number), number, 0.0)
    partial = 0
    for seed in range(30):
        mixed, soft = mix_images(batch, targets, mixup=0.0, cutmix=1.0, seed=seed)
        counted = torch.stack([(mixed == k).float().mean(dim=(1, 2, 3)) for k in range(number)], dim=1)
        torch.testing.assert_close(counted, soft, atol=1e-6, rtol=0)
        partial += int(((soft > 0) & (soft < 1)).any())
    assert partial > 15


def test_with_both_each_takes_half_of_the_batches() -> None:
    batch, targets = images(4, height=6, width=6), soft_targets(torch.arange(4), 4, 0.0)
    cut = sum(
        bool(torch.isin(mix_images(batch, targets, mixup=1.0, cutmix=1.0, seed=seed)[0], batch).all())
        for seed in range(400)
    )
    assert 160 <= cut <= 245  # 200 of 400, and now and then a mixing whose partner is the image itself
    same, soft = mix_images(batch, targets, mixup=0.0, cutmix=0.0, seed=0)
    assert same is batch
    assert soft is targets


def test_boxes_hold_the_share_they_should_where_they_fit() -> None:
    random = np.random.default_rng(0)
    areas = []
    for _ in range(3000):
        top, bottom, left, right = cut_box(0.75, 64, 64, random)
        assert 0 <= top <= bottom <= 64
        assert 0 <= left <= right <= 64
        areas.append((bottom - top) * (right - left) / 64**2)
    assert max(areas) == pytest.approx(0.25)
    assert np.median(areas) > 0.18


@pytest.mark.gpu
def test_a_gpu_gives_the_same_pixels() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    batch, seeds = images(16), np.arange(16)
    on_gpu = augment(batch.cuda(), EVERYTHING, seeds).cpu()
    torch.testing.assert_close(on_gpu, augment(batch, EVERYTHING, seeds), atol=1e-4, rtol=0)
