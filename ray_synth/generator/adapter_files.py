"""The LoRA adapters that a run trains: how long each takes, where they lie in its folder, written and read back."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import LoraTraining
from ray_synth.runs import RunFolder

if TYPE_CHECKING:
    import torch

FOLDER = "generator/adapters"
PRIOR = "generator/prior"  # latents of what the base makes
MOST_HELD_OUT = 64  # images: more would take longer than the updates between two looks at them
SAMPLES = "generator/samples"
TENSORBOARD = "generator/tensorboard"
ONE = "pytorch_lora_weights"  # the name that diffusers looks for: load_lora_weights("OUT/generator")
METADATA = "lora_adapter_metadata"  # diffusers' key of rank and scale


def adapter_file(part: str) -> str:
    """Of the adapter of all classes (part ""), or of one class (its label)."""
    return f"{FOLDER}/{part}.safetensors" if part else f"generator/{ONE}.safetensors"


def checkpoint_file(part: str) -> str:
    return f"{FOLDER}/checkpoint-{part}.safetensors" if part else "generator/checkpoint.safetensors"


def history_file(part: str) -> str:
    return f"{FOLDER}/{part}.json" if part else "generator/training.json"


def sample_file(part: str, step: int) -> str:
    return f"{SAMPLES}/{part or 'all'}-{step:06d}.png"


def events_file(part: str, step: int) -> str:
    """What TensorBoard reads of a checkpoint; it reads the files of a folder in their order."""
    return f"{TENSORBOARD}/{part or 'all'}/events.out.tfevents.{step:010d}.adapter"


def guidance_file(part: str) -> str:
    """The projection of visual guidance that was trained with an adapter."""
    return guidance_beside(adapter_file(part))


def guidance_beside(adapter: str) -> str:
    return adapter.removesuffix(".safetensors") + "-guidance.safetensors"


def adapter_of(file: str) -> str:
    """The adapter that a file belongs to: itself, or its guidance."""
    return file.removesuffix("-guidance.safetensors").removesuffix(".safetensors") + ".safetensors"


def write_adapter(folder: RunFolder, part: str, tensors: Mapping[str, torch.Tensor], settings: Any) -> None:
    from ray_synth.training.checkpoint import sealed

    metadata = {"format": "pt", METADATA: json.dumps(settings, indent=2, sort_keys=True)}
    folder.write(adapter_file(part), sealed(tensors, metadata))


def write_guidance(folder: RunFolder, part: str, tensors: Mapping[str, torch.Tensor]) -> None:
    from ray_synth.training.checkpoint import sealed

    folder.write(guidance_file(part), sealed(tensors, {"format": "pt"}))


def trained_adapters(folder: RunFolder, training: LoraTraining, num_classes: int) -> str:
    """Where the adapters that a run trained lie on this machine, as generator.lora says it; fetched from elsewhere.

    Raises:
        Spoiled: one that is not what was written.
    """
    from ray_synth.training.checkpoint import refuse_torn

    parts = [""] if training.adapters == "dataset" else [str(label) for label in range(num_classes)]
    names = [adapter_file(part) for part in parts]
    names += [name for name in map(guidance_file, parts) if folder.exists(name)]
    if folder.is_local:
        root = Path(folder.root)
        for name in names:
            refuse_torn(folder, name)
    else:
        root = Path(tempfile.mkdtemp(prefix="ray-synth-adapters-"))
        here = RunFolder(root)
        for name in names:
            here.write(name, folder.read(name))
            refuse_torn(here, name)
    return str(root / adapter_file("" if training.adapters == "dataset" else "{label}"))


def updates_per_epoch(training: LoraTraining, counts: np.ndarray) -> int:
    """Of so many images of each class [C] that are trained on."""
    if training.batches == "mixed":
        return math.ceil(int(counts.sum()) / training.batch_size)
    return int(np.ceil(counts / min(training.batch_size, max(int(counts.sum()), 1))).sum())


def num_updates(training: LoraTraining, counts: np.ndarray) -> int:
    """Of a training on so many real images of each class [C], held-out ones among them."""
    return training.steps or training.epochs * updates_per_epoch(training, counts - num_held_out(counts, training))


def num_held_out(counts: np.ndarray, training: LoraTraining) -> np.ndarray:
    """Of each class [C]: its share in all of so many, and never its last one."""
    share = min(training.validation_fraction, MOST_HELD_OUT / max(int(counts.sum()), 1))
    wanted = np.floor(np.cumsum(counts) * share + 1e-9).astype(np.int64)
    return np.asarray(np.minimum(np.diff(wanted, prepend=0), np.maximum(counts - 1, 0)))


CARD = """---
{facts}---
# A LoRA of {model}

Trained by ray_synth on real images with the digest `{images}`. Load it with
`pipeline.load_lora_weights(FOLDER, weight_name="{name}")`, scale 1.

Settings:

```yaml
{settings}```
"""
