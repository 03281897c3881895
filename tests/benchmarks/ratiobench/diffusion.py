"""A pool of real images in, samples of a small diffusion model trained on it out; samples are kept on disk.

As in (Shidani et al., 2025, section I.2), a generator's worth is set by how long it was trained and by noise added to
what it samples (pixels in [-1, 1]).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ray_synth.config import Diffusion, Generate
from ray_synth.data.images import ImageSet
from ray_synth.generator.diffusion import DiffusionSampler, load_unet
from ray_synth.generator.finetune import finetune
from ray_synth.runs import RunFolder

CACHE = Path(os.environ.get("RATIOBENCH_CACHE", Path.home() / ".cache" / "ray_synth-ratiobench"))
PER_CLASS = 480  # samples that are kept: what 100 real images ask for at most
BATCH = 256


def diffusion(steps: int, variance: float) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def generator(
        images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        clean = samples(images, labels, steps)
        clean = clean.reshape(-1, PER_CLASS, *clean.shape[1:])[:, :count].reshape(-1, *clean.shape[1:])
        noise = rng.normal(0, np.sqrt(variance) * 127.5, clean.shape) if variance else 0.0
        return np.clip(np.round(clean + noise), 0, 255).astype(np.uint8), np.repeat(np.unique(labels), count)

    return generator


def samples(images: np.ndarray, labels: np.ndarray, steps: int) -> np.ndarray:
    """PER_CLASS images of each class in turn, from the cache or from a model trained on the pool."""
    classes = np.unique(labels)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
    kept = CACHE / f"{digest}-{steps}-{PER_CLASS}.npy"
    if kept.exists():
        return np.asarray(np.load(kept, allow_pickle=False))
    settings = Diffusion(steps=steps)
    pool = ImageSet(pixels=images, labels=labels.astype(np.int64), class_names=tuple(str(c) for c in classes))
    with tempfile.TemporaryDirectory() as folder:
        finetune(RunFolder(folder), pool, settings, seed=0)
        unet = load_unet(RunFolder(folder))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generate = Generate(guidance_scale=1.0, num_inference_steps=15)
    sampler = DiffusionSampler(unet, settings, generate, device)
    wanted = np.repeat(classes, PER_CLASS).tolist()
    starts = range(0, len(wanted), BATCH)
    batches = [{"label": wanted[i : i + BATCH], "seed": list(range(len(wanted)))[i : i + BATCH]} for i in starts]
    made = np.stack([image for batch in batches for image in sampler(batch)["image"]])
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial.npy")
    np.save(partial, made, allow_pickle=False)
    partial.rename(kept)
    return made
