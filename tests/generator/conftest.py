"""A tiny Stable Diffusion, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ray_synth.generator.tiny import tiny_pipeline

from .tiny_models import tiny_lora


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny-stable-diffusion")


@pytest.fixture(scope="session")
def loras(stable_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cat.safetensors and dog.safetensors."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("cat", "dog")):
        tiny_lora(folder / f"{name}.safetensors", stable_diffusion, seed=seed, size=0.3)
    return folder


@pytest.fixture
def model_copy(stable_diffusion: Path, tmp_path: Path) -> Path:
    """A model to break."""
    shutil.copytree(stable_diffusion, tmp_path / "model")
    return tmp_path / "model"
