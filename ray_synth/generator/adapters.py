"""A LoRA as PEFT's own `save_pretrained` writes it in, its weights and settings as a pipeline takes them out.

Such a file names the layers of the one model that it was made for, and its scale stands in adapter_config.json.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ray_synth.errors import InputError

PREFIX = "base_model.model."
CONFIG = "adapter_config.json"
KEPT = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
REFUSED = ("use_dora", "modules_to_save", "layer_replication", "lora_bias", "trainable_token_indices")


def is_pefts_own(names: Collection[str]) -> bool:
    return any(name.startswith(PREFIX) for name in names)


def part_of(names: Collection[str], denoiser: str = "unet") -> str:
    """Which model of a pipeline it adapts. denoiser: what the pipeline calls its own."""
    return "text_encoder" if any("encoder.layers." in name for name in names) else denoiser


def as_in_a_pipeline(name: str, part: str) -> str:
    return f"{part}.{name.removeprefix(PREFIX)}"


def adapter_files(path: Path, names: Collection[str]) -> dict[str, Path]:
    """The files that its effect depends on, by name."""
    return {path.name: path, **({CONFIG: path.with_name(CONFIG)} if is_pefts_own(names) else {})}


def adapter_settings(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Rank, scale and layers, for PEFT's LoraConfig.

    Raises:
        InputError: no adapter_config.json beside the weights, or one that asks for more than a LoRA.
    """
    from ray_synth.generator.pretrained import read_config

    if not path.with_name(CONFIG).is_file():
        raise InputError(
            f"generator.lora={path} is PEFT's own file, and {CONFIG}, which holds its scale, is not beside it; "
            f"copy it to {path.parent}"
        )
    config = read_config(path.with_name(CONFIG), path.parent)
    if config.get("peft_type", "LORA") != "LORA":
        raise InputError(f"generator.lora={path} is an adapter of the type {config['peft_type']!r}; give a LoRA")
    asked = [name for name in REFUSED if config.get(name)]
    if asked:
        raise InputError(f"generator.lora={path}: {CONFIG} has {asked[0]}, which is not read here; give a plain LoRA")
    for name in ("r", "lora_alpha"):
        if isinstance(config.get(name), bool) or not isinstance(config.get(name), int | float) or config[name] <= 0:
            raise InputError(f"{path.with_name(CONFIG)}: {name} must be a number above 0, got {config.get(name)!r}")
    layers = sorted({name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in names})
    return {**{name: config[name] for name in KEPT if name in config}, "target_modules": layers}
