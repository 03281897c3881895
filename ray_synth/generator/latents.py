"""Real images in, what a model's autoencoder sees in them out: made once, kept on disk by content."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ray_synth.data.decoding import unified
from ray_synth.data.source import ImageSource
from ray_synth.features.cache import cached
from ray_synth.features.encoders import Encoder
from ray_synth.hardware.machine import cache_folder

PIECE = 64  # images of a file
AT_ONCE = 8
MAX_KEPT = 16 * 2**30  # bytes of all files
MOST_HELD = 4 * 2**30  # bytes in memory; above, each batch is looked at when its turn comes


def colour_images(source: ImageSource, rows: Sequence[int] | np.ndarray, side: int) -> np.ndarray:
    """uint8 [n,side,side,3]: what a model of that size takes."""
    images = [unified(np.squeeze(image), (side, side, 3)) for image in source.images(np.asarray(rows))]
    return np.stack([np.broadcast_to(image, (side, side, 3)) for image in images])


class Latents:
    """Draws from the autoencoder's posterior of real images, in the scale that the denoiser works at.

    keep: whether what it saw is kept, on disk and here; else every draw looks at the images again.
    """

    def __init__(self, vae: Any, source: ImageSource, side: int, *, keep: bool = True):
        self.vae, self.source, self.side = vae, source, side
        self.device = next(vae.parameters()).device
        across = side // 2 ** (len(vae.config.block_out_channels) - 1)
        self.shape = (vae.config.latent_channels, across, across)
        self.moments = self._all() if keep and 2 * 4 * math.prod(self.shape) * len(source) <= MOST_HELD else None

    def draw(self, rows: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[B,c,h,w] of these images. noise: normal, of the same shape, on the CPU."""
        moments = self._look(rows.numpy()) if self.moments is None else self.moments[rows]
        mean, logvar = moments.float().chunk(2, dim=1)
        latents = mean + (0.5 * logvar.clamp(-30, 20)).exp() * noise
        config = self.vae.config
        latents = (latents - (config.get("shift_factor") or 0.0)) * config["scaling_factor"]
        scaled: torch.Tensor = latents.to(self.device)
        return scaled

    def _all(self) -> torch.Tensor:
        encoder = Encoder(name="latents", function=self._flat, module=self.vae, libraries=("diffusers",))
        kept = cached(encoder, cache_folder() / "ray_synth" / "latents", max_bytes=MAX_KEPT)
        pieces = [
            kept(colour_images(self.source, np.arange(start, min(start + PIECE, len(self.source))), self.side))
            for start in range(0, len(self.source), PIECE)
        ]
        channels, *sides = self.shape
        return torch.from_numpy(np.concatenate(pieces)).reshape(-1, 2 * channels, *sides)

    def _flat(self, images: np.ndarray) -> np.ndarray:
        return self._encoded(images).flatten(1).numpy()

    def _look(self, rows: np.ndarray) -> torch.Tensor:
        return self._encoded(colour_images(self.source, rows, self.side))

    @torch.no_grad()
    def _encoded(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [n,s,s,3] -> mean and logarithm of the variance, float32 [n,2c,h,w] on the CPU."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        dtype = next(self.vae.parameters()).dtype
        parts = [
            self.vae.encode(part.to(self.device, dtype)).latent_dist.parameters.float().cpu()
            for part in pixels.split(AT_ONCE)
        ]
        return torch.cat(parts)
