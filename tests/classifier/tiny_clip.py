"""Small CLIP models with random weights in local files, in place of the large ones: one transformer, one residual."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CONFIGS = {
    "tiny-ViT": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2},
        "text_cfg": TEXT,
    },
    "tiny-RN": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": TEXT,
    },
}


def register_tiny_clips(folder: Path) -> dict[str, str]:
    """Make open_clip know them and save weights of each; name -> file."""
    import open_clip

    folder.mkdir(exist_ok=True)
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    files = {}
    for name in CONFIGS:
        files[name] = str(folder / f"{name}.safetensors")
        save_file(_random_state(open_clip.create_model(name)), files[name])
    return files


def _random_state(clip: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights as drawn, but no bias or last layer that is zero or one, and measured batch statistics.

    Zeros would hide mistakes, and without statistics images look all alike after four stages.
    """
    random = torch.Generator().manual_seed(0)
    side = clip.visual.image_size
    side = side if isinstance(side, int) else side[0]
    for _ in range(30):
        clip.train().encode_image(torch.randn(8, 3, 1, 1, generator=random).expand(-1, -1, side, side))
    state = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    for tensor in state.values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor += 0.1 * torch.rand(tensor.shape, generator=random)
    return {name: tensor.contiguous() for name, tensor in state.items()}
