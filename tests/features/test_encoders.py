"""The door: every spec gives the features that its library gives by hand, and says what is wrong in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from ray_synth.errors import InputError
from ray_synth.estimate import estimate_ratio
from ray_synth.features.encoders import encoder_of

NAME = "test_resnet"  # timm's own tiny model
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: torch.nn.Module = timm.create_model(NAME, pretrained=False, num_classes=7)
    return made.eval()


@pytest.fixture(scope="module")
def weights(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As they are published: with the classifier's."""
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_timm_gives_the_models_own_pooled_features(model: torch.nn.Module, weights: Path) -> None:
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    pixels = torch.stack([transform(Image.fromarray(image)) for image in IMAGES])
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
    encoder = encoder_of(f"timm:{NAME}:{weights}")
    found = encoder(IMAGES)
    assert (encoder.name, found.dtype, found.shape) == (f"timm:{NAME}", np.float32, (5, model.num_features))
    assert found == pytest.approx(expected.numpy(), abs=1e-4)
    grey = encoder(IMAGES[..., :1])
    assert grey == pytest.approx(encoder(np.repeat(IMAGES[..., :1], 3, axis=-1)), abs=1e-5)


def test_batches_change_nothing(weights: Path) -> None:
    encoder = encoder_of(f"timm:{NAME}:{weights}")
    many = np.concatenate([IMAGES] * 14)  # more than one batch
    assert encoder(many) == pytest.approx(np.concatenate([encoder(IMAGES)] * 14), abs=1e-4)


def test_digest_is_of_weights_and_layers(model: torch.nn.Module, weights: Path, tmp_path: Path) -> None:
    state = model.state_dict()
    torch.save({"state_dict": state}, tmp_path / "same.pth")
    changed = {name: tensor + (name == "conv1.0.weight") * 1e-4 for name, tensor in state.items()}
    assert any((changed[name] != state[name]).any() for name in state)
    torch.save(changed, tmp_path / "changed.pth")
    digests = [
        encoder_of(f"timm:{NAME}:{path}").digest for path in (weights, tmp_path / "same.pth", tmp_path / "changed.pth")
    ]
    assert digests[0] == digests[1] != digests[2]
    layers = [torch.nn.Sequential(torch.nn.Flatten(), layer()) for layer in (torch.nn.ReLU, torch.nn.Tanh)]
    assert encoder_of(layers[0]).digest != encoder_of(layers[1]).digest
    assert encoder_of(lambda images: images).digest is None


def test_pixels_functions_and_encoders_are_encoders() -> None:
    assert encoder_of("pixels")(IMAGES) == pytest.approx(IMAGES.reshape(5, -1) / 255.0)

    def mean(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1, 3).mean(axis=1)

    encoder = encoder_of(mean)
    assert "mean" in encoder.name
    assert (encoder(IMAGES) == mean(IMAGES)).all()
    assert encoder_of(encoder) is encoder


def test_what_cannot_be_an_encoder_is_refused(weights: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    torch.save({"conv1.weight": Harmful()}, tmp_path / "harmful.pth")
    save_file({"fc.weight": torch.zeros(7, 2)}, tmp_path / "other.safetensors")
    for spec, expected in (
        (f"timm:test_resnt:{weights}", "timm has no model 'test_resnt'; did you mean test_resnet"),
        (f"timm:{NAME}:/nowhere.safetensors", "no file at /nowhere.safetensors"),
        (f"timm:{NAME}", "has no path, and weights come with a package for"),
        (f"timm:{NAME}:{tmp_path / 'harmful.pth'}", "cannot be loaded from .*weights_only"),
        (f"timm:{NAME}:{tmp_path / 'other.safetensors'}", "cannot be loaded from .*Missing key"),
        (f"open_clip:ViT-B/61:{weights}", "open_clip has no model 'ViT-B-61'"),
        ("resnet", "features must be"),
        (7, "features must be"),
    ):
        with pytest.raises(InputError, match=expected) as refused:
            encoder_of(spec)
        assert "\n" not in str(refused.value)
    y = np.arange(5) % 2
    with pytest.raises(InputError, match="features must be"):
        estimate_ratio(IMAGES, y, IMAGES, y, features="pixels")
