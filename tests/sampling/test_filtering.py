"""Which images are set aside, against what filters are asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ray_synth.config import Filter
from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError
from ray_synth.features.copies import RealImages
from ray_synth.features.encoders import encoder_of
from ray_synth.generator.base import Batch, Parents
from ray_synth.sampling.filtering import build_filters, check_filters, is_blank


def judged(filter: Filter, images: list[np.ndarray], labels: list[int], parents: Parents | None = None) -> list[str]:
    batch: Batch = {"image": images, "label": labels, "rejected": [""] * len(images)}
    found: list[str] = build_filters(filter, ["a", "b"], parents)(batch)["rejected"]
    return found


def test_blank_images_are_rejected_and_dark_ones_are_not() -> None:
    dark = np.zeros((8, 8, 3), np.uint8)
    dark[3, 3] = 40
    colours = np.zeros((8, 8, 3), np.uint8) + np.array([250, 10, 90], np.uint8)
    assert [is_blank(image) for image in (dark, colours, np.zeros((8, 8, 1), np.uint8))] == [False, True, True]
    assert judged(Filter(), [dark, colours], [0, 1]) == ["", "blank"]
    assert judged(Filter(blank=False), [dark, colours], [0, 1]) == ["", ""]


def test_near_copies_are_found_whatever_was_done_to_them(splits: Splits) -> None:
    """Copies that are larger, darker, noisy or mirrored, against other real images of the same kind."""
    real, new = splits.generator.images(), splits.test.images()[:60]
    judge = RealImages(splits.generator.take(slice(300)))
    rng = np.random.default_rng(0)
    some = real[:60].astype(float)
    changed = {
        "same": some,
        "darker": 0.7 * some,
        "noisy": some + rng.normal(0, 4, some.shape),
        "larger": some.repeat(3, axis=1).repeat(3, axis=2),
        "colour": some.repeat(3, axis=3),
        "mirrored": some[:, :, ::-1],
    }
    for name, images in changed.items():
        found = judge.are_copies(list(np.clip(np.round(images), 0, 255).astype(np.uint8)))
        assert found.mean() > 0.9, name
    assert judge.are_copies(list(new)).mean() < 0.05
    filtered = build_filters(Filter(near_copies=True), ["a", "b"], Parents(source=splits.generator, keys=[]))
    blank = np.zeros_like(new[0])
    batch = filtered({"image": [real[0], blank, new[0]], "label": [0, 0, 0], "rejected": ["", "", ""]})
    assert batch["rejected"] == ["near_copy", "blank", ""]
    copied, unasked, kept = batch["near_copy_distance"]
    assert unasked is None
    assert copied < 0.01 < RealImages(splits.generator).limit < kept


PACKAGED = "timm:tf_efficientnet_lite0"


def test_near_copies_may_be_compared_by_features(splits: Splits) -> None:
    real, new = splits.generator.take(slice(30)), splits.test.images()[0]
    copy = (0.9 * real.images()[0]).astype(np.uint8)
    found = judged(Filter(near_copies=True, features=PACKAGED), [copy, new], [0, 0], Parents(source=real, keys=[]))
    assert found == ["near_copy", ""]
    with pytest.raises(InputError, match="has no path"):
        check_filters(Filter(near_copies=True, features="timm:resnet18"))


@pytest.mark.slow
def test_features_know_a_photograph_that_was_mirrored_or_cut(measuring_data: Path) -> None:
    """CIFAR-10."""
    with np.load(measuring_data / "cifar10_dev_10k5k.npz", allow_pickle=False) as file:
        images = file["images"][file["split"] == 0]
    real, some, new = images[:300], images[:60], images[1000:1060]
    source = ImageSet(pixels=real, labels=np.zeros(300, np.int64), class_names=("any",))
    judges = RealImages(source, encoder_of(PACKAGED, device="cpu")), RealImages(source)
    mirrored, cut = (list(map(np.ascontiguousarray, each)) for each in (some[:, :, ::-1], some[:, 2:30, 2:30]))
    for judge in judges:
        assert judge.are_copies(mirrored).mean() > 0.9
        assert judge.are_copies(cut).mean() > 0.7
        assert judge.are_copies(list(new)).mean() < 0.1


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A small open_clip architecture with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny-clip").state_dict(), folder / "weights.safetensors")
    return "tiny-clip", folder / "weights.safetensors"


@pytest.mark.parametrize("rule", ["argmax", "above_chance"])
def test_clip_judges_as_open_clip_by_hand(clip_weights: tuple[str, Path], splits: Splits, rule: str) -> None:
    name, weights = clip_weights
    filter = Filter(clip={"model": name, "weights": str(weights), "rule": rule, "prompt": "an image of {class}"})
    images = [image.repeat(4, axis=0).repeat(4, axis=1) for image in splits.test.images()[:40]]
    labels = [0, 1] * 20
    batch = build_filters(filter, ["a", "b"], None)({"image": images, "label": labels, "rejected": [""] * 40})
    ours = batch["rejected"]
    model = open_clip.create_model(name, pretrained=str(weights), weights_only=True).eval()
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.visual.image_mean, model.visual.image_std))
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(name)(["an image of a", "an image of b"])
        text = model.encode_text(tokens, normalize=True)
        seen = model.encode_image((pixels - mean) / std, normalize=True)
        p = (model.logit_scale.exp() * seen @ text.T).softmax(dim=1).numpy()
    kept = p.argmax(axis=1) == labels if rule == "argmax" else p[np.arange(40), labels] > 0.5
    assert ours == ["" if k else "clip" for k in kept]
    assert 0 < sum(kept) < 40
    np.testing.assert_allclose(batch["clip_probability"], p[np.arange(40), labels], rtol=1e-4)


def test_clip_weights_that_are_missing_or_of_another_model_are_named(
    clip_weights: tuple[str, Path], tmp_path: Path
) -> None:
    name, weights = clip_weights
    for clip in ({"model": name, "weights": str(tmp_path / "none")}, {"model": "ViT-B-32", "weights": str(weights)}):
        with pytest.raises(InputError, match="open_clip"):
            build_filters(Filter(clip=clip), ["a", "b"], None)
