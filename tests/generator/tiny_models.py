"""What tests do to the tiny models of `ray_synth.generator.tiny`: a LoRA for one, a file of one changed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoModel
from safetensors.torch import save_file


def tiny_lora(
    file: Path, pipeline: Path, *, part: str = "unet", seed: int = 1, rank: int = 2, size: float = 1.0
) -> Path:
    """A LoRA on the attention of the denoiser, with both factors random (peft starts one at zero)."""
    random = torch.Generator().manual_seed(seed)
    denoiser = AutoModel.from_pretrained(str(pipeline / part))
    tensors = {}
    for name, module in denoiser.named_modules():
        if name.endswith(("to_q", "to_v")):
            out, into = module.weight.shape
            tensors[f"{part}.{name}.lora_A.weight"] = size * torch.randn(rank, into, generator=random)
            tensors[f"{part}.{name}.lora_B.weight"] = size * torch.randn(out, rank, generator=random)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
