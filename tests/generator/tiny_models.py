"""What tests do to the tiny models of `ray_synth.generator.tiny`: a LoRA for one, a file of one changed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file


def tiny_lora(file: Path, pipeline: Path, *, seed: int = 1, rank: int = 2, size: float = 1.0) -> Path:
    """A LoRA on the attention of the UNet, with both factors random (peft starts one at zero)."""
    random = torch.Generator().manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    tensors = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            out, into = module.weight.shape
            tensors[f"unet.{name}.lora_A.weight"] = size * torch.randn(rank, into, generator=random)
            tensors[f"unet.{name}.lora_B.weight"] = size * torch.randn(out, rank, generator=random)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
