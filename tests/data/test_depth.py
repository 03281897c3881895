"""Images of more than 8 bits a channel: what they hold comes out, on one scale for both sides, and it is said."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ray_synth.config import Generate, ImageFolder
from ray_synth.data.decoding import decoded_item
from ray_synth.data.depth import Depth, Range, deep_values, depth_of
from ray_synth.data.readers import list_folder
from ray_synth.errors import InputError
from ray_synth.folders import _Folders
from ray_synth.generator.folder import FolderGenerator
from ray_synth.runs import RunFolder


def png16(values: np.ndarray, *, clear: np.ndarray | None = None) -> bytes:
    """uint16 [H,W] or [H,W,C] as PNG, which Pillow writes of grey images only. clear: the value that is transparent."""
    height, width = values.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if clear is not None:
        parts.append((b"tRNS", np.atleast_1d(clear).astype(">u2").tobytes()))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values: np.ndarray, compression: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", compression=compression)
    return buffer.getvalue()


def gradient(top: int, *, low: int = 0, channels: int = 1) -> np.ndarray:
    """64x64 values from low to top, all of them where there are so few."""
    values = np.linspace(low, top, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    return values if channels == 1 else np.stack([values, values.T, values[::-1], values][:channels], axis=2)


def write_sides(root: Path, **images: list[bytes]) -> Path:
    for name, files in images.items():
        (root / name).mkdir(parents=True)
        for number, content in enumerate(files):
            (root / name / f"{number}.png").write_bytes(content)
    return root


@settings(max_examples=40)
@given(bits=st.integers(8, 16), channels=st.integers(1, 4), seed=st.integers(0, 9))
def test_both_bytes_of_every_channel_are_read(bits: int, channels: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**bits, (5, 7, channels)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    found, opaque = deep_values(png16(values if channels > 1 else values[..., 0]), "x")
    colours = values[..., 0] if channels < 3 else values[..., :3]
    np.testing.assert_array_equal(found, colours)
    if channels in (2, 4):
        np.testing.assert_allclose(opaque * 65535, values[..., -1])
    assert depth_of(Range(0, found.max())).high == 2 ** int(found.max()).bit_length() - 1 or found.max() < 256


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("top", [255, 1023, 4095, 65535])
def test_a_container_of_16_bits_keeps_the_levels_of_what_it_holds(top: int, channels: int, tmp_path: Path) -> None:
    deep = png16(gradient(top, channels=channels))
    source = list_folder(write_sides(tmp_path, a=[deep], b=[deep])).source()
    pixels = source.images()
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) == 256
    assert source.depth == Depth(0, top)
    assert f"2 image(s) of more than 8 bits a channel: values from 0 to {top} become 0 to 255" in source.notes


def test_a_tiff_is_read_in_either_order_of_bytes_and_in_floats() -> None:
    values = gradient(4095)
    for content in (tiff(values), tiff(values, "tiff_lzw"), tiff(values.astype(">u2"))):
        np.testing.assert_array_equal(deep_values(content, "x")[0], values)
    shown = decoded_item(tiff((values / 4095).astype(np.float32)), "x")
    assert len(np.unique(shown)) == 256
    with pytest.raises(InputError, match=r"odd\.tif \(it holds values that are not finite"):
        decoded_item(tiff(np.full((4, 4), np.nan, dtype=np.float32)), "odd.tif")


def test_values_far_from_zero_and_below_it_are_scaled_by_their_own_range() -> None:
    assert depth_of(Range(31768, 34000)) == Depth(31768, 34000)  # a CT with an offset
    assert depth_of(Range(-1024, 3071)) == Depth(-1024, 3071)
    assert depth_of(Range(7, 7)) == depth_of(Range(0, 1)) == Depth(0, 255)
    assert depth_of(Range(0.0, 0.4, whole=False)) == Depth(0, 1)
    assert depth_of(Range(0, 40_000)) == Depth(0, 65535)  # a dark photograph is as dark as its copy of 8 bits


def test_both_sides_have_one_scale_and_what_lies_beyond_is_said(tmp_path: Path) -> None:
    real, half, beyond = (png16(gradient(top)) for top in (4095, 2047, 60_000))
    sets = _Folders.read(write_sides(tmp_path / "real", a=[real], b=[real]), None, crop=False)
    darker = sets.synthetic(write_sides(tmp_path / "half", a=[half], b=[half]), several=False)
    assert (sets.real.images().max(), darker.images().max()) == (255, 127)
    brighter = sets.synthetic(write_sides(tmp_path / "beyond", a=[beyond], b=[half]), several=False)
    assert np.median(brighter.images()[0]) == 255
    assert any("go from 0 to 60000, and what lies beyond is cut off" in note for note in sets.notes)
    assert not any("beyond" in note for note in sets.notes[:-1])


def test_a_generators_folder_has_the_scale_of_the_real_images_or_one_of_its_own(tmp_path: Path) -> None:
    half, dark = png16(gradient(2047)), png16(gradient(1000))
    path = write_sides(tmp_path, a=[half], b=[dark, b"torn"])

    def sampled(depth: Depth | None) -> list[int]:
        section = ImageFolder(kind="folder", path=str(path))
        kind = FolderGenerator(section, Generate(), class_names=("a", "b"), shape=(64, 64, 1), depth=depth)
        batch = {"label": [0, 1, 1], "index": [0, 0, 1]}
        made = kind.on_workers().sampler(RunFolder(tmp_path / "run"), None, "cpu")(batch)
        assert made["rejected"] == ["", "", "unreadable"]
        again = np.concatenate([np.unique(image) for image in made["image"][:2]])
        prints = kind.fingerprints(1, crop=False)
        alone = kind.pixel_settings().get("depth")
        assert alone == [0, 4095] if depth else alone == [0, 2047]
        assert len(prints) == 2
        return [int(again.max()), int(made["image"][1].max())]

    assert sampled(Depth(0, 4095)) == [127, 62]
    assert sampled(None) == [255, 125]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_is_white_in_16_bits_too(channels: int) -> None:
    values = gradient(65535, channels=channels)
    shown = decoded_item(png16(values, clear=values[3, 5]), "x")
    opaque = decoded_item(png16(values), "x")
    assert (opaque[3, 5] < 255).all()
    assert (shown[3, 5] == 255).all()
    assert (shown != opaque).any(axis=-1).sum() if channels == 3 else (shown != opaque).sum() == 1
