"""What images and their files are a function of, beside the generator: for digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_synth.config import SAMPLING, Generate
from ray_synth.generator.pretrained import content_digest


def sampling_settings(generate: Generate) -> dict[str, Any]:
    """The settings of sampling that pixels depend on; noise only where there is any."""
    noise = {"noise_variance": generate.noise_variance} if generate.noise_variance else {}
    return generate.model_dump(mode="json", include=set(SAMPLING)) | noise


def file_settings(generate: Generate) -> dict[str, Any]:
    """The settings that a chunk's bytes depend on beside its pixels: filters and the form of its images."""
    shown = generate.model_dump(mode="json", include={"filter", "format"})
    if generate.format != "png":
        shown["quality"] = generate.quality
    if generate.filter.clip is not None:
        shown["filter"]["clip"]["weights"] = content_digest(Path(generate.filter.clip.weights))
    return shown
