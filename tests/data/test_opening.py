"""What people's own image files are: other formats, odd EXIF, clear colours, pointers, torn and very large ones."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from ray_synth.data import decoding, opening
from ray_synth.data.decoding import EXTENSIONS, decoded_item, look
from ray_synth.data.images import ImageSet
from ray_synth.data.opening import Broken, BrokenImages, opened
from ray_synth.data.readers import list_folder
from ray_synth.errors import InputError
from ray_synth.folders import estimate_folders

SCENE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"


def encoded(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A head and a few rows: as large as it says, and hardly any bytes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(width + 1))), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# Formats.


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("BMP", "BMP"), ("dib", "DIB"), ("tif", "TIFF"), ("tiff", "TIFF"), ("gif", "GIF"), ("ppm", "PPM"), ("pgm", "PPM"),
     ("avif", "AVIF"), ("jfif", "JPEG"), ("jpe", "JPEG"), ("jp2", "JPEG2000"), ("apng", "PNG"), ("WebP", "WEBP")],
)  # fmt: skip
def test_every_format_that_pillow_reads_is_an_image(suffix: str, kind: str, tmp_path: Path) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    scene = Image.fromarray(SCENE).resize((32, 24))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"x.{suffix}").write_bytes(encoded(scene, kind))
    source = list_folder(tmp_path).source(channels=3)
    assert not any("skipped" in note for note in source.notes)
    assert np.abs(source.images()[0].astype(int) - np.asarray(scene)).mean() < 25  # a palette, or losses


def test_pages_and_frames_behind_the_first_are_said(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), grey, dtype=np.uint8)) for grey in (10, 200)]
    for name, kind in (("a", "GIF"), ("b", "TIFF"), ("c", "WEBP")):
        (tmp_path / name).mkdir()
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        (tmp_path / name / f"x.{kind.lower()}").write_bytes(content)
    source = list_folder(tmp_path).source()
    assert "3 image(s) of several frames or pages, of which the first is taken" in source.notes
    assert source.images().max() < 30


def test_a_format_that_starts_other_programs_is_no_image() -> None:
    eps = encoded(Image.fromarray(SCENE), "EPS")
    with pytest.raises(InputError, match=r"a\.png \(no format of images that is read here"):
        decoded_item(eps, "a.png")


# EXIF and transparency.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_image_stands_as_viewers_show_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    content = encoded(Image.fromarray(SCENE), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decoded_item(content, "x"), shown)
    assert list(look([content], ["x"]).sizes) == [shown.shape[:2]]
    for crop, expected in (
        (False, Image.fromarray(shown).resize((3, 3), Image.Resampling.BICUBIC)),
        (True, ImageOps.fit(Image.fromarray(shown), (3, 3), Image.Resampling.BICUBIC)),
    ):
        (found,) = decoding.decoded([content], ["x"], (3, 3, 3), crop=crop)
        np.testing.assert_array_equal(found, np.asarray(expected))


def exif_block(*entries: tuple[int, int, int, int]) -> bytes:
    """tag, type, count and value (or its place) of each."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


@pytest.mark.parametrize(
    "others",
    [
        [(0x9286, 7, 400, 90_000)],  # a comment that lies behind the end
        [(0x0110, 2, 2**31, 26)],  # a name longer than the file
        [(0x829A, 5, 1, 26)],  # an exposure of 0/0
        [(0x8769, 4, 1, 8)],  # a table that is its own table
        [(0x0102, 99, 3, 8)],  # of a type that there is not
        [(0x0112, 2, 1, 65)],  # a second orientation, in words
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_tags_beside_the_orientation_do_no_harm(kind: str, others: list[tuple[int, ...]]) -> None:
    content = encoded(Image.fromarray(SCENE), kind, exif=exif_block((0x0112, 3, 1, 6), *others))
    shown = decoded_item(content, "x")
    assert shown.shape[:2] in ((6, 4), (4, 6))
    assert list(look([content], ["x"]).sizes) == [shown.shape[:2]]
    if others[0][0] != 0x0112:
        assert shown.shape[:2] == (6, 4)


@settings(max_examples=60)
@given(st.binary(max_size=80))
def test_no_exif_block_makes_an_image_unreadable(block: bytes) -> None:
    content = encoded(Image.fromarray(SCENE), "JPEG", exif=b"Exif\0\0" + block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decoded_item(content, "x").shape in ((4, 6, 3), (6, 4, 3))


@pytest.mark.parametrize(("mode", "clear", "other"), [("L", 0, 90), ("RGB", (0, 0, 0), (90, 80, 70)), ("1", 0, 1)])
def test_a_transparent_colour_is_white_as_alpha_is(mode: str, clear: object, other: object, tmp_path: Path) -> None:
    image = Image.new(mode, (4, 4), clear)
    image.putpixel((1, 2), other)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png", transparency=clear)
    source = list_folder(tmp_path).source()
    shown = source.images()[0]
    assert (np.delete(shown.reshape(16, -1), 9, axis=0) == 255).all()
    assert (shown[2, 1] == (255 if mode == "1" else other)).all()
    assert any("transparent parts white" in note for note in source.notes)


# What cannot be read.


def write_classes(root: Path, digits: ImageSet, *, each: int = 12) -> Path:
    for label in range(2):
        (root / str(label)).mkdir(parents=True)
        for number, image in enumerate(digits.images()[digits.labels == label][:each]):
            Image.fromarray(image[..., 0]).save(root / str(label) / f"{number:02d}.png")
    return root


def test_all_broken_images_of_both_sides_are_named_in_one_run(tmp_path: Path, digits: ImageSet) -> None:
    real, made = write_classes(tmp_path / "real", digits), write_classes(tmp_path / "made", digits)
    whole = (real / "0" / "00.png").read_bytes()
    torn = {
        real / "0" / "01.png": b"", real / "1" / "02.png": b"text", real / "1" / "07.png": whole[:70],
        real / "1" / "08.png": POINTER, made / "0" / "03.png": whole[:75], made / "1" / "05.png": whole[:20],
    }  # fmt: skip
    for file, content in torn.items():
        file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        estimate_folders(real, made)
    said = str(refused.value)
    assert said.startswith("5 images cannot be read: ")
    assert "01.png (it is empty)" in said
    assert re.search(r"image cannot be read: \S+08\.png \(a pointer of Git LFS .*; type git lfs pull", said)
    for file in torn:
        assert said.count(str(file)) == 1


def test_many_broken_images_are_counted_and_the_first_named() -> None:
    error = BrokenImages([Broken(f"{number}.png", "torn") for number in range(50)])
    assert str(error).startswith("50 images cannot be read: 0.png (torn), 1.png")
    assert str(error).endswith("19.png (torn) and 30 more; repair or remove them")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.found) == (str(error), error.found)


def test_a_large_photograph_is_read_in_silence_and_a_larger_one_names_the_line_that_reads_it(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, larger = huge_png(9500, 10_000), huge_png(20_000, 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(look([large], ["x"]).sizes) == [(10_000, 9500)]
        with pytest.raises(InputError, match=r"20000x10000 are 200 megapixels.*RAY_SYNTH_MAX_MEGAPIXELS=200 in front"):
            look([larger], ["x.png"])
        monkeypatch.setenv(opening.LARGEST, "200")
        assert list(look([larger], ["x"]).sizes) == [(10_000, 20_000)]
    monkeypatch.setenv(opening.LARGEST, "many")
    with pytest.raises(InputError, match=r"RAY_SYNTH_MAX_MEGAPIXELS must be a whole number .* got 'many'"):
        look([large], ["x"])


def test_pillows_own_limit_is_back_afterwards() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    content = encoded(Image.fromarray(SCENE), "PNG")
    with opened(content, "x"), opened(content, "y"):
        assert Image.MAX_IMAGE_PIXELS is None
    with pytest.raises(InputError):
        decoded_item(b"torn", "x")
    assert before == Image.MAX_IMAGE_PIXELS


def test_heic_says_what_reads_it_and_is_read_where_that_is_there(tmp_path: Path) -> None:
    """pillow-heif is no dependency: a stand-in of that name, which takes PNG files for HEIC."""
    content = encoded(Image.fromarray(SCENE), "PNG")
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "x.heic").write_bytes(b"heic" + content)
    if ".heic" not in EXTENSIONS:
        with pytest.raises(
            InputError, match=r"'a' holds no image \(1 file.*\.heic; type pip install 'ray_synth\[heif\]'"
        ):
            list_folder(tmp_path / "photos")
    (tmp_path / "pillow_heif.py").write_text(
        "import io\nfrom PIL import Image\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', lambda file, name: Image.open(io.BytesIO(file.read()[4:])),\n"
        "                        lambda head: head.startswith(b'heic'))\n"
    )
    script = (
        "from pathlib import Path; from ray_synth.data.readers import list_folder; "
        f"print(list_folder(Path({str(tmp_path / 'photos')!r})).source().images().shape)"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "(2, 4, 6, 3)"
