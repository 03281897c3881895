"""The small Stable Diffusion at a tiny size: its folder is what our checks take, made once; what its judge counts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ray_synth.data.images import ImageSet
from ray_synth.data.transforms import to_model_range
from ray_synth.generator.pretrained import check_pipeline, license_of, read_tokenizer
from tests.benchmarks import small_stable_diffusion as small

NAMES = tuple(map(str, range(10)))
TINY = replace(
    small.SIZES["digits"], vae_channels=(8, 8), unet_channels=(8, 16), vae_updates=2, updates=2, batch=8, width=16
)


def test_two_updates_of_each_part_make_a_folder_that_our_checks_take_and_that_is_made_once(tmp_path: Path) -> None:
    wanted = small.Wanted(dataset="digits", size=TINY, classes=(3, 4))
    folder = small.make(wanted, tmp_path / "model")
    check_pipeline(folder, allow_pickle=False)
    assert license_of(folder) == "apache-2.0"
    tokenizer = read_tokenizer(folder)
    assert tokenizer.tokenize("a photo of a 7") == ["a</w>", "photo</w>", "of</w>", "a</w>", "7</w>"]
    assert tokenizer.unk_token_id not in tokenizer("a zebra!", add_special_tokens=False).input_ids
    texts = [f"a photo of a {name}" for name in NAMES]
    again = [small.prompt_tokenizer(texts)(texts).input_ids for _ in range(2)]
    assert again[0] == again[1]
    images = small.generated(folder, NAMES, [3, 7], 2, steps=2)
    assert images.pixels.shape == (4, 16, 16, 3)
    assert images.labels.tolist() == [3, 3, 7, 7]
    alone = small.generated(folder, NAMES, [7], 1, steps=2)
    assert np.abs(alone.pixels[0].astype(int) - images.pixels[2]).max() <= 1
    written = (folder / small.MADE).stat().st_mtime_ns
    assert small.make(wanted, folder) == folder
    assert (folder / small.MADE).stat().st_mtime_ns == written
    with pytest.raises(SystemExit, match="of other settings"):
        small.make(replace(wanted, invert=True), folder)


def test_latents_get_mean_0_and_deviation_1_and_images_are_decoded_as_before() -> None:
    torch.manual_seed(0)
    vae = small.build_vae(TINY).eval()
    with torch.no_grad():
        vae.quant_conv.bias += torch.arange(8.0)
    real, test = small.real_images("digits", 16)
    assert (len(real), len(test)) == (1200, 597)
    pixels = to_model_range(torch.from_numpy(real.pixels[:64]))
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        decoded = vae.decode(before.mean).sample
        latents = small.standardize(vae, before.mean)
        after = vae.encode(pixels).latent_dist
        torch.testing.assert_close(after.mean, latents, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(after.std * before.mean.std((0, 2, 3))[:, None, None], before.std)
        torch.testing.assert_close(vae.decode(latents).sample, decoded, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4))


def test_a_training_that_was_cut_off_ends_in_the_same_weights(tmp_path: Path) -> None:
    def train(folder: Path, cut: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)

        def loss(step: int) -> torch.Tensor:
            if step == cut:
                raise KeyboardInterrupt
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

        small.trained(model, loss, 220, rate=5e-2, budget_s=None, ema_decay=0.9, folder=folder, what="linear")
        return model.weight.detach()

    whole = train(tmp_path / "whole", None)
    assert whole.sum() == pytest.approx(3, abs=0.5)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 150)
    assert torch.equal(train(tmp_path / "cut", 20), whole)  # update 20 is not made a second time


def test_a_training_makes_fewer_updates_where_its_time_is_short(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)

    def loss(step: int) -> torch.Tensor:
        return model(torch.ones(8, 3)).square().mean()

    found = small.trained(model, loss, 90, rate=1e-2, budget_s=1e-9, ema_decay=0.9, folder=tmp_path, what="linear")
    assert found["updates"] == 1


def test_the_judge_counts_the_images_that_it_gives_to_their_class() -> None:
    """One that knows a class by its brightness, and images of which every second of class 1 is as bright as class 0."""
    mean, last = nn.Linear(4 * 4 * 3, 2, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        mean.weight.fill_(1 / 48)
        last.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    network = nn.Sequential(nn.Flatten(), mean, last)
    bright = np.array([50, 60, 50, 60, 200, 210, 50, 60], dtype=np.uint8)
    pixels = np.broadcast_to(bright[:, None, None, None], (8, 4, 4, 3)).copy()
    labels = np.repeat([0, 1], 4)
    images = ImageSet(pixels=pixels, labels=labels, class_names=("dark", "light"))
    found = small.judged(images, small.Judge(network=network, test=images, accuracy=0.75))
    assert found.fidelity == 0.75
    assert found.of_class == {"dark": 1.0, "light": 0.5}
    assert found.fid == pytest.approx(0, abs=1e-6)
    brighter = replace(images, pixels=pixels + np.uint8(40))
    assert small.judged(brighter, small.Judge(network=network, test=images, accuracy=0.75)).fid > 0.1


def test_classes_are_a_range_or_a_list() -> None:
    assert small.class_range("0-4") == (0, 1, 2, 3, 4)
    assert small.class_range("5,0,2") == (0, 2, 5)
    with pytest.raises(argparse.ArgumentTypeError, match="0 to 9"):
        small.class_range("8-12")
