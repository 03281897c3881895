"""Corruptions by what is published of them: constants, closed forms, Pillow and SciPy; noise that follows its image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ray_synth.config import CORRUPTIONS
from ray_synth.data.corruptions import CORRUPTED_BY, STRENGTHS, constants_for, corrupted
from ray_synth.data.images import ImageSet


def set_of(pixels: np.ndarray) -> ImageSet:
    return ImageSet(pixels=pixels, labels=np.zeros(len(pixels), dtype=np.int64), class_names=("a", "b"))


def random_images(number: int, side: int, channels: int = 3) -> ImageSet:
    return set_of(np.random.default_rng(0).integers(60, 196, (number, side, side, channels), dtype=np.uint8))


def test_the_settings_name_all_that_there_are() -> None:
    assert tuple(CORRUPTED_BY) == CORRUPTIONS
    assert all(len(small) == len(large) == len(STRENGTHS) == 5 for _, small, large in CORRUPTED_BY.values())


@pytest.mark.parametrize(("side", "scales"), [(32, (0.04, 0.10)), (65, (0.08, 0.38))])
def test_noise_has_the_published_spread(side: int, scales: tuple[float, float]) -> None:
    grey = set_of(np.full((20, side, side, 3), 128, dtype=np.uint8))
    for strength, scale in zip((1, 5), scales, strict=True):
        found = corrupted(grey, "gaussian_noise", strength, seed=0).images().astype(float)
        clipped = np.clip(128 / 255 + np.random.default_rng(1).normal(scale=scale, size=200_000), 0, 1) * 255
        assert found.std() == pytest.approx(np.floor(clipped).std(), rel=0.03)
        assert found.mean() == pytest.approx(np.floor(clipped).mean(), abs=0.5)


def test_noise_follows_an_images_place_and_not_its_batch() -> None:
    images = random_images(9, 16)
    noisy = corrupted(images, "gaussian_noise", 3, seed=5)
    assert (noisy.take(np.array([7, 2])).images() == noisy.images()[[7, 2]]).all()
    assert (np.concatenate(list(noisy.batches(4))) == noisy.images()).all()
    assert (corrupted(images, "gaussian_noise", 3, seed=6).images() != noisy.images()).any()
    same = set_of(np.repeat(images.images()[:1], 2, axis=0))
    first, second = corrupted(same, "gaussian_noise", 3, seed=5).images()
    assert (first != second).any()


def test_contrast_and_pixels_by_their_closed_forms() -> None:
    images = random_images(3, 32)
    x = images.images().astype(float)
    mean = x.mean(axis=(1, 2), keepdims=True)
    for strength, factor in zip(STRENGTHS, (0.75, 0.5, 0.4, 0.3, 0.15), strict=True):
        found = corrupted(images, "contrast", strength, seed=0).images().astype(float)
        assert np.abs(found - np.floor((x - mean) * factor + mean)).max() <= 1
    halves = set_of(np.kron(np.array([[0, 200], [100, 40]]), np.ones((112, 112)))[None, :, :, None].astype(np.uint8))
    assert (corrupted(halves, "pixelate", 2, seed=0).images() == halves.images()).all()  # blocks larger than a pixel
    point = np.zeros((1, 224, 224, 1), dtype=np.uint8)
    point[0, 100, 100] = 200
    blocks = corrupted(set_of(point), "pixelate", 2, seed=0).images()  # each of 2 x 2
    assert (blocks[0, 100:102, 100:102] == 50).all()
    assert blocks.sum() == 200


def test_a_blurred_point_is_a_gaussian() -> None:
    point = np.zeros((1, 33, 33, 1), dtype=np.uint8)
    point[0, 16, 16] = 255
    found = corrupted(set_of(point), "gaussian_blur", 5, seed=0).images()[0, :, :, 0].astype(float)  # sigma 1
    offsets = np.arange(-16, 17)
    kernel = np.exp(-0.5 * offsets**2) * (np.abs(offsets) <= 4)
    kernel /= kernel.sum()
    assert np.abs(found - np.outer(kernel, kernel) * 255).max() <= 1
    assert corrupted(random_images(1, 32, 3), "gaussian_blur", 1, seed=0).images().shape == (1, 32, 32, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels: int) -> None:
    images = random_images(2, 32, channels)
    found = corrupted(images, "jpeg_compression", 4, seed=0).images()
    for image, said in zip(images.images(), found, strict=True):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if channels == 1 else image).save(file, "JPEG", quality=50)
        assert (np.asarray(Image.open(file)).reshape(image.shape) == said).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_stronger_is_farther_from_the_clean_image(name: str) -> None:
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(3).uniform(0, 255, (4, 32, 32, 3)), (0, 2, 2, 0)) * 4 % 255
    images = set_of(smooth.astype(np.uint8))
    before = images.images().copy()
    distances = [
        float(np.abs(corrupted(images, name, strength, seed=0).images().astype(float) - before).mean())
        for strength in STRENGTHS
    ]
    assert all(distance > 0 for distance in distances)
    assert distances == sorted(distances)
    assert (images.images() == before).all()


def test_small_and_large_images_take_other_constants() -> None:
    assert constants_for((64, 64, 3)) == "CIFAR-10-C"
    assert constants_for((64, 65, 3)) == "ImageNet-C"
