"""Spectra of images whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_synth.errors import InputError
from ray_synth.metrics.spectrum import rapsd, rapsd_distance


def brute_force(images: np.ndarray) -> np.ndarray:
    """Ring means of the full FFT, one coefficient at a time."""
    n, height, width, channels = images.shape
    shorter = min(height, width)
    sums, counts = np.zeros(shorter // 2 + 1), np.zeros(shorter // 2 + 1)
    power = np.abs(np.fft.fft2(images.astype(np.float64), axes=(1, 2))) ** 2 / (height * width)
    for a in range(height):
        for b in range(width):
            ring = round(shorter * np.hypot(np.fft.fftfreq(height)[a], np.fft.fftfreq(width)[b]))
            if ring <= shorter // 2:
                sums[ring] += power[:, a, b].sum() / (n * channels)
                counts[ring] += 1
    return (sums / counts)[1:]


@pytest.mark.parametrize("shape", [(3, 8, 8, 1), (2, 9, 7, 3), (2, 6, 11, 2), (1, 16, 5, 1)])
def test_equals_the_full_transform_ring_by_ring(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_allclose(rapsd(images).power, brute_force(images), rtol=1e-10)


def test_white_noise_is_flat_at_its_variance() -> None:
    noise = np.random.default_rng(0).normal(0, 3, (400, 32, 32))
    spectrum = rapsd(noise)
    np.testing.assert_allclose(spectrum.power, 9, rtol=0.05)
    assert abs(spectrum.slope) < 0.02


@pytest.mark.parametrize("slope", [-1.0, -2.0, -3.0])
def test_a_power_law_gives_its_slope_back(slope: float) -> None:
    rng = np.random.default_rng(0)
    size, shorter = 128, 128
    k = shorter * np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    amplitude = np.where(k > 0, np.rint(np.maximum(k, 1)) ** (slope / 2), 0.0)
    phases = np.fft.fft2(rng.normal(size=(40, size, size)))
    images = np.fft.ifft2(phases / np.abs(phases) * amplitude).real
    assert rapsd(images).slope == pytest.approx(slope, abs=0.02)


@given(st.floats(0.1, 10))
def test_power_scales_with_the_square_and_the_slope_not_at_all(scale: float) -> None:
    images = np.random.default_rng(1).normal(size=(3, 8, 8, 1))
    one, scaled = rapsd(images), rapsd(images * scale)
    np.testing.assert_allclose(scaled.power, one.power * scale**2, rtol=1e-9)
    assert scaled.slope == pytest.approx(one.slope, abs=1e-9)


def test_images_too_small_or_constant_have_no_slope() -> None:
    assert np.isnan(rapsd(np.ones((2, 1, 1))).slope)
    assert np.isnan(rapsd(np.ones((2, 8, 8))).slope)
    assert rapsd(np.ones((2, 8, 8))).power.max() < 1e-20


def test_wrong_arrays_are_refused() -> None:
    for wrong in (np.zeros((4, 4)), np.zeros((0, 8, 8)), np.full((1, 4, 4), np.nan)):
        with pytest.raises(InputError):
            rapsd(wrong)
    with pytest.raises(InputError, match="resize the images first"):
        rapsd_distance(rapsd(np.ones((1, 8, 8))), rapsd(np.ones((1, 16, 16))))
