"""Features on disk: made once, made anew when the weights or the file are others, and never more than a bound."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_synth.features.cache import cached, features_folder
from ray_synth.features.encoders import Encoder, encoder_of

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


class Counting(torch.nn.Module):
    """A linear layer that counts its passes."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.passes = 0
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = torch.nn.Linear(8 * 8 * 3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.layer(images.flatten(1))


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)


def test_the_second_encoding_is_read(tmp_path: Path) -> None:
    first, again = Counting(), Counting()
    made = cached(encoder_of(first), tmp_path)(IMAGES)
    read = cached(encoder_of(again), tmp_path)(IMAGES)  # another process would make the same module
    assert (first.passes, again.passes) == (1, 0)
    assert (read == made).all()
    assert read.dtype == made.dtype
    assert (read == encoder_of(first)(IMAGES)).all()


def test_other_weights_and_other_images_are_encoded(tmp_path: Path) -> None:
    cached(encoder_of(Counting()), tmp_path)(IMAGES)
    other = Counting(seed=1)
    assert (cached(encoder_of(other), tmp_path)(IMAGES) == encoder_of(Counting(seed=1))(IMAGES)).all()
    assert other.passes == 1
    changed = Counting()
    with torch.no_grad():
        changed.layer.weight[0, 0] += 1e-3
    cached(encoder_of(changed), tmp_path)(IMAGES)
    cached(encoder_of(changed), tmp_path)(IMAGES[::-1])
    cached(encoder_of(changed), tmp_path)(IMAGES[:, :, :4].repeat(2, axis=2))
    assert changed.passes == 3
    assert len(files(tmp_path)) == 5


@pytest.mark.parametrize("damage", ["torn", "altered", "empty", "another file"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    made = cached(encoder_of(Counting()), tmp_path)(IMAGES)
    (file,) = files(tmp_path)
    data = file.read_bytes()
    damaged = {
        "torn": data[:-5],
        "altered": data[:-1] + bytes([data[-1] ^ 1]),
        "empty": b"",
        "another file": b"\x93NUMPY",
    }
    file.write_bytes(damaged[damage])
    module = Counting()
    encoder = cached(encoder_of(module), tmp_path)
    assert (encoder(IMAGES) == made).all()
    assert (encoder(IMAGES) == made).all()
    assert module.passes == 1
    assert [f.read_bytes() for f in files(tmp_path)] == [data]


def test_the_folder_is_bounded_and_the_latest_used_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(bytes(5000))
    module = Counting()
    cached(encoder_of(module), tmp_path)(IMAGES)
    size = files(tmp_path)[-1].stat().st_size
    encoder = cached(encoder_of(module), tmp_path, max_bytes=2 * size)
    for age, images in ((30, IMAGES), (20, IMAGES[::-1])):
        encoder(images)
        os.utime(files(tmp_path)[-1], (os.path.getmtime(tmp_path) - age,) * 2)
    encoder(IMAGES)  # is read, and so used last
    encoder(IMAGES[:, ::-1])  # one too many
    assert module.passes == 3
    encoder(IMAGES)
    assert module.passes == 3
    encoder(IMAGES[::-1])
    assert module.passes == 4
    assert len(files(tmp_path)) == 3
    assert (tmp_path / "mine.safetensors").stat().st_size == 5000  # somebody else's


def test_without_a_folder_to_write_to_or_a_digest_it_works_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    module = Counting()
    assert cached(encoder_of(module), tmp_path / "file" / "features")(IMAGES).shape == (6, 4)
    plain = Encoder(name="mean", function=lambda images: images.mean(axis=(1, 2)))
    assert cached(plain, tmp_path) is plain
    pixels = encoder_of("pixels")
    assert cached(pixels, tmp_path) is pixels


def test_the_users_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert features_folder() == tmp_path / "ray_synth" / "features"
