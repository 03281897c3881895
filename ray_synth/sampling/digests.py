"""What images and their files are a function of, beside the generator: for digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_synth.config import SAMPLING, Generate, encoder_in, said
from ray_synth.features.packaged import packaged_digests
from ray_synth.generator.pretrained import content_digest

NEAR_COPIES = 2  # how they are told; another number where that changes


def sampling_settings(generate: Generate) -> dict[str, Any]:
    """The settings of sampling that pixels depend on."""
    return said(generate, only={*SAMPLING, "noise_variance"})


def file_settings(generate: Generate) -> dict[str, Any]:
    """The settings that a chunk's bytes depend on beside its pixels: filters and the form of its images."""
    shown = said(generate, only={"filter", "format"} | ({"quality"} if generate.format != "png" else set()))
    if generate.filter.clip is not None:
        shown["filter"]["clip"]["weights"] = content_digest(Path(generate.filter.clip.weights))
    if generate.filter.near_copies:
        shown["filter"]["near_copies"] = NEAR_COPIES
    if generate.filter.features != "pixels":
        shown["filter"]["features"] = encoder_files(generate.filter.features)
    return shown


def encoder_files(features: str) -> list[str]:
    """The model and what lies in the weights file of `open_clip:MODEL:/path`, `timm:NAME:/path` or `timm:NAME`."""
    encoder = encoder_in(features)
    if encoder is None:
        return []
    name, file = encoder
    return [*([content_digest(Path(file))] if file else []), *packaged_digests(name)]
