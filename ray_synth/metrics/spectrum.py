"""Images in, their radially averaged power spectrum, its decay, their variance out (Shidani et al., 2025, sec. 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ray_synth.errors import InputError

FloatArray = NDArray[np.float64]

BLOCK, BLOCK_VALUES = 256, 2**22  # images, and numbers, that are held as floats at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """frequency: [F], cycles per shorter side, 1 to Nyquist; power: [F]; slope: of log power against log frequency.

    White noise of variance v has power v at every frequency. The slope is NaN with fewer than two frequencies of
    positive power (images of 1 to 3 pixels, constant images).
    """

    frequency: FloatArray
    power: FloatArray
    slope: float


def rapsd(images: np.ndarray) -> Spectrum:
    """Radially averaged power spectral density: 2-D FFT per channel, averaged over rings of equal radial frequency,
    then over channels and images (Shidani et al., 2025, section 6).

    images: [N,H,W,C] or [N,H,W], any real dtype, taken at the scale in which they come.

    Raises:
        InputError: another shape, no image, or values that are not finite.
    """
    pixels = np.asarray(images)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.size == 0:
        raise InputError(f"images must be [N,H,W,C] or [N,H,W] with N >= 1, got shape {list(np.shape(images))}")
    height, width = pixels.shape[1:3]
    total = np.zeros((height, width // 2 + 1))
    for block in _blocks(pixels):
        if not np.isfinite(block).all():
            raise InputError("images must be finite, got NaN or infinity")
        amplitude = np.fft.rfft2(block, axes=(1, 2))
        total += (amplitude.real**2 + amplitude.imag**2).sum(axis=(0, 3))
    power_2d = total / (len(pixels) * pixels.shape[3] * height * width)
    shorter = min(height, width)
    rows = np.fft.fftfreq(height)[:, None] * shorter
    columns = np.fft.rfftfreq(width)[None, :] * shorter
    ring = np.rint(np.hypot(rows, columns)).astype(np.int64)
    # rfft keeps one of each conjugate pair: all columns but the first (and Nyquist, where even) stand for two.
    weight = np.full((1, width // 2 + 1), 2.0)
    weight[0, 0] = 1.0
    if width % 2 == 0:
        weight[0, -1] = 1.0
    weight = np.broadcast_to(weight, power_2d.shape)
    sums = np.bincount(ring.ravel(), (weight * power_2d).ravel())
    counts = np.bincount(ring.ravel(), weight.ravel())
    frequency = np.arange(1, shorter // 2 + 1)
    power = sums[frequency] / counts[frequency] if len(frequency) else np.zeros(0)
    return Spectrum(frequency=frequency.astype(np.float64), power=power, slope=log_slope(frequency, power))


def mean_spectrum(spectra: Sequence[Spectrum], counts: ArrayLike) -> Spectrum:
    """Of all images, from the spectra of parts of them, of one size. counts: images of each part, [P]."""
    power = np.average([each.power for each in spectra], axis=0, weights=np.asarray(counts))
    frequency = spectra[0].frequency
    return Spectrum(frequency=frequency, power=power, slope=log_slope(frequency, power))


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelStats:
    """What the bound asks of a set's pixels: its spectrum and `variance`, over images and averaged over pixels and
    channels, both of pixels in [0, 255].

    count: images of the set, of which `looked_at` were taken; shape: height, width and channels that these had.
    """

    count: int
    looked_at: int
    shape: tuple[int, ...]
    spectrum: Spectrum
    variance: float

    def __len__(self) -> int:
        return self.count


def pixel_stats(images: np.ndarray, *, count: int | None = None) -> PixelStats:
    """Of uint8 images [N,H,W,C], which may be a sample of `count` (default: N)."""
    mean = images.mean(axis=0, dtype=np.float64)
    total = sum(float(((block - mean) ** 2).sum()) for block in _blocks(images))
    return PixelStats(
        count=len(images) if count is None else count,
        looked_at=len(images),
        shape=images.shape[1:],
        spectrum=rapsd(images),
        variance=total / images.size,
    )


def _blocks(images: np.ndarray) -> Iterator[FloatArray]:
    """Floats of a few images at a time: those of all would not fit. [N,...] -> [b,...]"""
    size = max(1, min(BLOCK, BLOCK_VALUES // images[0].size))
    for start in range(0, len(images), size):
        yield images[start : start + size].astype(np.float64)


def log_slope(frequency: np.ndarray, power: np.ndarray) -> float:
    """Least-squares slope of log power against log frequency; NaN with fewer than two positive powers."""
    positive = np.asarray(power) > 0
    if positive.sum() < 2:
        return float("nan")
    x, y = np.log(np.asarray(frequency, dtype=np.float64)[positive]), np.log(np.asarray(power)[positive])
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


def rapsd_distance(real: Spectrum, synthetic: Spectrum) -> float:
    """ℓ2 distance between two average spectra: the discrepancy proxy D (Shidani et al., 2025, section 6)."""
    if real.power.shape != synthetic.power.shape:
        raise InputError(
            f"spectra must have the same frequencies, got {len(real.power)} and {len(synthetic.power)}; "
            "resize the images first"
        )
    return float(np.linalg.norm(real.power - synthetic.power))
