"""open_clip weights from a local path are the features of that model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ray_synth.features.encoders import encoder_of
from ray_synth.torch_ops import import_torchvision

import_torchvision()
open_clip = pytest.importorskip("open_clip")


def test_local_weights_give_the_models_own_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model("RN50", pretrained=None).eval()
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    encoder = encoder_of(f"open_clip:RN50:{path}")
    assert encoder is not None
    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    mean, std = (np.array(values) for values in (model.visual.image_mean, model.visual.image_std))
    pixels = torch.from_numpy(((images / 255.0 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.encode_image(pixels).numpy()
    assert encoder(images) == pytest.approx(expected, abs=1e-4)
