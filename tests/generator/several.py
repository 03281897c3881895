"""Folders of several generators on disk, for tests: noisy digits, of which one may have wrong labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ray_synth.data.readers import read_digits


def write_generator(root: Path, *, seed: int, each: int, wrong: int = 0) -> str:
    """Digits with noise on them, so that none is a copy of a real one. wrong: each class holds the images of the one
    that is so many further on."""
    digits, random = read_digits(), np.random.default_rng(seed)
    for label, name in enumerate(digits.class_names):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(digits.pixels[digits.labels == (label + wrong) % 10][:each]):
            noisy = np.clip(image[..., 0] + random.normal(0, 40, image.shape[:2]), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / name / f"{i:03d}.png")
    return str(root)
