"""Copies of real images among others: found whatever was done to them; and what they are compared by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ray_synth.data.images import ImageSet
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError
from ray_synth.features import copies, crops, sscd
from ray_synth.features.copies import RealImages, views
from ray_synth.features.encoders import encoder_of

from ..benchmarks.copies import CHANGES, changed, planted, sides


def image_set(images: np.ndarray) -> ImageSet:
    return ImageSet(pixels=images, labels=np.zeros(len(images), np.int64), class_names=("any",))


def test_planted_copies_are_found_and_new_images_are_not() -> None:
    """Of 150 digits that no real side holds 20 are copies; the benchmark asks about 1,000, by several seeds."""
    real, new = (images[:number] for images, number in zip(sides("digits", 0), (300, 150), strict=True))
    images, places, sources = planted(real, new, 20, 0)
    against = RealImages(image_set(real))
    found = against.nearest(list(images))
    copied = found.relative < against.limit
    assert (copied[places] & (found.rows[places] == sources)).sum() >= 19
    assert copied.sum() - copied[places].sum() <= 5
    exact = places[:: len(CHANGES)]
    np.testing.assert_allclose(found.distance[exact], 0, atol=1e-3)


def test_distances_are_those_of_every_pair_by_hand() -> None:
    """Ten images of noise in colour, no crop tried: each against all others, mirrored and not."""
    rng = np.random.default_rng(0)
    real, asked = rng.integers(0, 256, (2, 10, 16, 16, 3), dtype=np.uint8)
    against = RealImages(image_set(real))
    against.views, against._indices, against.crops = against.views[:2], against._indices[:2], 0

    def unit(images: np.ndarray) -> np.ndarray:
        flat = np.rint(images @ np.array([0.299, 0.587, 0.114])).reshape(len(images), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    by_view = np.stack([unit(asked) @ unit(each).T for each in (real, real[:, :, ::-1])])
    distance = np.sqrt(2 - 2 * by_view.max(axis=0))
    found = against.nearest(list(asked))
    np.testing.assert_array_equal(found.rows, distance.argmin(axis=1))
    np.testing.assert_allclose(found.distance, distance.min(axis=1), atol=1e-5)
    rest = np.sort(distance, axis=1)[:, 1:].mean(axis=1)
    np.testing.assert_allclose(found.relative, distance.min(axis=1) / rest, atol=1e-5)


def test_a_crop_is_a_mean_over_areas() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    middle = crops.seen(image, np.array([0.25, 0.25, 0.5], np.float32), 2)
    by_hand = image[0, 2:6, 2:6].reshape(2, 2, 2, 2).mean(axis=(1, 3)).ravel()
    by_hand = by_hand - by_hand.mean()
    np.testing.assert_allclose(middle[0], by_hand / np.linalg.norm(by_hand), atol=1e-6)
    assert not crops.seen(np.full((1, 8, 8), 7, np.uint8), crops.WHOLE, 4).any()  # one colour is near to nothing


def test_few_real_images_and_other_sizes_are_no_trouble(splits: Splits) -> None:
    real = splits.generator.images()
    large = real[:2].repeat(3, axis=1).repeat(3, axis=2).repeat(3, axis=3)
    for number in (1, 2, 3, 60):
        against = RealImages(splits.generator.take(slice(number)))
        assert against.are_copies([large[0], real[0], real[200]]).tolist() == [True, True, False]
    assert RealImages(splits.generator.take(slice(60))).by_chance == pytest.approx(1 / 61)


def test_of_very_many_real_images_fewer_crops_are_held(monkeypatch: pytest.MonkeyPatch, splits: Splits) -> None:
    assert [len(views(crops)) for crops in (5, 3, 1, 0)] == [52, 20, 4, 2]
    some, one_view = splits.generator.take(slice(100)), 100 * 64 * 4
    for share, tried in ((52, 52), (51, 20), (19, 4), (3, 2), (1, 2)):
        monkeypatch.setattr(copies, "MOST_BYTES", share * one_view)
        against = RealImages(some)
        assert len(against.views) == tried
        mirrored = np.ascontiguousarray(some.images()[:5, :, ::-1])
        assert (against.nearest(list(mirrored)).distance < 1e-3).all()


class Means(nn.Module):
    """Of the colours over a grid: an embedding that a crop changes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images * self.scale, 6).flatten(1)


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_torchscript_file_embeds_and_its_hash_is_in_the_name(
    tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    monkeypatch.setattr(sscd, "SIDE", 24)
    script = torch.jit.script(Means().eval())
    file = tmp_path / "sscd_disc_mixup.torchscript.pt"
    (torch.jit.freeze(script) if frozen else script).save(str(file))
    encoder = encoder_of(f"sscd:sscd_disc_mixup:{file}", device="cpu")
    assert encoder(splits.test.images()[:3]).shape == (3, 3 * 36)
    assert "sha256" in encoder.name
    assert encoder.digest is not None
    real = splits.generator.take(slice(100))
    new = list(splits.test.images()[:40])
    rng = np.random.default_rng(0)
    copied = [changed(image, how, rng) for image in real.images()[:10] for how in ("exact", "mirrored", "jpeg")]
    against = RealImages(real, encoder)
    assert against.are_copies(copied).mean() > 0.9
    assert against.are_copies(new).mean() < 0.1


def test_a_file_that_is_missing_or_no_program_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no SSCD model at /none; download https://\S+/sscd_disc_large.torchscript.pt"
    ):
        encoder_of("sscd:sscd_disc_large:/none")
    weights = tmp_path / "sscd_disc_mixup.torchvision.pt"
    torch.save(Means().state_dict(), weights)
    with pytest.raises(InputError, match=r"no TorchScript; .* \.torchscript\.pt"):
        encoder_of(f"sscd:sscd_disc_mixup:{weights}")
    weights.write_bytes(b"PK\5\6" + bytes(18))  # an empty archive
    with pytest.raises(InputError, match="no TorchScript"):
        encoder_of(f"sscd:sscd_disc_mixup:{weights}")
