"""Photographs are read small, in a stream and in bounded memory; small images are what they always were."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from ray_synth.data import decoding
from ray_synth.data.images import ImageSet
from ray_synth.data.readers import list_folder
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.estimate import estimate_ratio
from ray_synth.features import reading
from ray_synth.features.encoders import encoder_of
from ray_synth.features.families import families_of, linear_families, pooled
from ray_synth.features.reading import SIDE, read_set, spectrum_rows
from ray_synth.folders import estimate_folders
from ray_synth.metrics.spectrum import rapsd


@pytest.fixture
def decoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Width and height that pixels were decoded at."""
    sizes: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def noted(image: ImageFile.ImageFile) -> object:
        sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    return sizes


def scene(seed: int, height: int, width: int, *, mode: str = "RGB") -> Image.Image:
    """A smooth picture whose left half is darker than its right, and its top than its bottom."""
    rng = np.random.default_rng(seed)
    small = (
        rng.integers(0, 60, (3, 4, 3)) + np.linspace(0, 120, 4)[None, :, None] + np.array([0, 30, 60])[:, None, None]
    )
    return Image.fromarray(small.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def photographs(root: Path, sizes: dict[str, tuple[int, int]], **how: object) -> Path:
    """Two classes, a file of each name in both."""
    for label in range(2):
        (root / f"c{label}").mkdir(parents=True)
        for row, (name, size) in enumerate(sizes.items()):
            scene(10 * label + row, *size).save(root / f"c{label}" / name, **how)
    return root


def test_a_photograph_is_never_decoded_at_its_full_size(tmp_path: Path, decoded_sizes: list[tuple[int, int]]) -> None:
    turned = Image.Exif()
    turned[decoding.ORIENTATION] = 6  # 3000 high and 4000 wide on the sensor, shown upright
    photographs(tmp_path / "real", {"a.jpg": (3000, 4000), "b.jpg": (3000, 4000)})
    scene(5, 4000, 3000, mode="L").save(tmp_path / "real" / "c0" / "grey.jpg")
    scene(6, 3000, 4000).save(tmp_path / "real" / "c1" / "turned.jpg", exif=turned)
    photographs(tmp_path / "synthetic", {f"{i}.jpg": (512, 512) for i in range(6)})
    found = estimate_folders(tmp_path / "real", tmp_path / "synthetic")
    assert 0 <= found.estimate.ratio <= 16
    assert set(decoded_sizes) == {(500, 375), (375, 500), (256, 256)}  # an eighth, and half of the synthetic ones
    notes = "\n".join(found.notes)
    assert "real: 6 image(s) resized to 256x192; 2 size(s) were found" in notes
    assert "synthetic: 12 image(s) resized to 256x192" in notes  # never blown up to 4000x3000


def test_draft_mode_shows_what_full_decoding_shows(tmp_path: Path) -> None:
    whole = scene(3, 1500, 2000)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[decoding.ORIENTATION] = orientation
        whole.save(tmp_path / "one.jpg", exif=exif, quality=95)
        full, draft = (decoding.decoded_item(tmp_path / "one.jpg", "one", least=least) for least in (None, (150, 200)))
        assert max(draft.shape) < max(full.shape) == 2000
        assert (draft.shape[0] < draft.shape[1]) == (orientation < 5)
        pair = [decoding.resized(image, (60, 60)).astype(float) for image in (full, draft)]
        assert np.abs(pair[0] - pair[1]).mean() < 2
    assert min(draft.shape[:2]) >= 150  # no smaller than asked, whichever way it lies


def test_small_files_and_other_formats_are_decoded_as_they_are(
    tmp_path: Path, decoded_sizes: list[tuple[int, int]]
) -> None:
    scene(1, 256, 200).save(tmp_path / "small.jpg")
    scene(1, 600, 800).save(tmp_path / "large.png")
    for name in ("small.jpg", "large.png"):
        with_least = decoding.decoded_item(tmp_path / name, name, least=(8, 8))
        np.testing.assert_array_equal(with_least, decoding.decoded_item(tmp_path / name, name))
    assert set(decoded_sizes) == {(200, 256), (800, 600)}


def test_small_images_give_what_whole_arrays_give() -> None:
    """Blocks, sources and one pass over them leave no trace."""
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 256, (number, 20, 24, 3), dtype=np.uint8) for number in (300, 530)]
    sources = [ImageSet(pixels=pixels, labels=np.zeros(len(pixels), int), class_names=()) for pixels in sets]
    read = [read_set(source, None) for source in sources]
    families = linear_families(sets, encoder=None, seed=3)
    for name, found in families_of([each.taken for each in read], seed=3).items():
        for ours, whole in zip(found, families[name], strict=True):
            np.testing.assert_array_equal(ours, whole)
    for each, pixels in zip(read, sets, strict=True):
        np.testing.assert_array_equal(each.stats.spectrum.power, rapsd(pixels).power)
        assert each.stats.variance == pytest.approx(pixels.var(axis=0, dtype=float).mean())
        assert len(each.stats) == each.stats.looked_at == len(pixels)
    encoder = encoder_of(lambda images: images.mean(axis=(1, 2)))
    np.testing.assert_array_equal(read_set(sources[1], encoder).taken, encoder(sets[1]))


def test_spectra_are_of_a_stated_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(spectrum_rows(50_000, (32, 32, 3))) == 50_000
    assert len(spectrum_rows(1500, (256, 256, 3))) == 1024
    rows = spectrum_rows(1500, (256, 256, 3))
    assert (rows[0], rows[-1]) == (0, 1499)
    assert set(np.diff(rows)) == {1, 2}
    monkeypatch.setattr(reading, "SPECTRUM_PIXELS", 300 * 64)
    pixels = np.random.default_rng(1).integers(0, 256, (1000, 8, 8, 1), dtype=np.uint8)
    found = read_set(ImageSet(pixels=pixels, labels=np.zeros(1000, int), class_names=()), None)
    assert (found.stats.count, found.stats.looked_at, len(found.taken)) == (1000, 300, 1000)
    rows = spectrum_rows(1000, (8, 8, 1))
    np.testing.assert_array_equal(found.stats.spectrum.power, rapsd(pixels[rows]).power)  # across blocks of 256
    np.testing.assert_allclose(found.stats.spectrum.power, rapsd(pixels).power, rtol=0.2)


def test_memory_does_not_grow_with_the_size_and_hardly_with_the_number(tmp_path: Path) -> None:
    """numpy's own: what Pillow decodes is bounded by the threads."""
    photographs(tmp_path, {f"{i}.jpg": (600, 800) for i in range(3)})

    def peak(number: int) -> int:
        source = list_folder(tmp_path).source(within=SIDE)
        many = source.take(np.arange(number) % len(source))
        tracemalloc.start()
        read_set(many, None)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = peak(550), peak(900)
    each = 256 * 192 * 3
    assert large < small + 350 * each * 1.5  # what the spectrum is taken of, and thumbnails
    assert large < 900 * 600 * 800 * 3 / 4


def test_arrays_that_are_large_are_looked_at_small() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(12) % 2
    large = (
        rng.integers(0, 120, (12, 300, 600, 2), dtype=np.uint8) + (labels * 100).astype(np.uint8)[:, None, None, None]
    )
    small = ImageSet(pixels=large, labels=labels, class_names=()).within(SIDE)
    assert small.shape == (128, 256, 2)
    assert small.take(np.array([3, 1])).images().shape == (2, 128, 256, 2)
    np.testing.assert_array_equal(small.take(np.array([3, 1])).images(), small.images()[[3, 1]])
    np.testing.assert_allclose(pooled(small.images()).mean(axis=(1, 2)), pooled(large).mean(axis=(1, 2)), atol=0.01)
    found = estimate_ratio(large, labels, large, labels, methods=("probe",), max_ratio=1)
    assert len(found.spectra.frequency) == 64


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, Path]:
    """Real ones 600x400, one square; synthetic ones square."""
    real = photographs(tmp_path / "real", {"a.jpg": (400, 600), "b.jpg": (400, 600), "c.png": (300, 300)})
    return real, photographs(tmp_path / "synthetic", {f"{i}.jpg": (320, 320) for i in range(4)})


def sources(mixed: tuple[Path, Path], *, crop: bool) -> Iterator[ImageSource]:
    from ray_synth.folders import _Folders

    sets = _Folders.read(mixed[0], None, crop=crop)
    yield sets.real
    yield sets.synthetic(mixed[1], several=False)


def test_fit_is_as_in_training(mixed: tuple[Path, Path]) -> None:
    for crop in (False, True):
        for source, root in zip(sources(mixed, crop=crop), mixed, strict=True):
            assert source.shape == (171, 256, 3)
            files = [Path(source.name(row)) for row in range(len(source))]
            trained = list_folder(root).source((171, 256), 3, crop=crop).images()
            assert files == sorted(files)
            assert np.abs(source.images().astype(float) - trained).mean() < 2  # draft mode is no other picture
    stretched, cropped = ([source.images() for source in sources(mixed, crop=crop)] for crop in (False, True))
    assert np.abs(stretched[1].astype(float) - cropped[1]).mean() > 5  # square ones lose their top and bottom
    np.testing.assert_allclose(stretched[0][:2].astype(float), cropped[0][:2], atol=3)  # of these proportions already
    with pytest.raises(InputError, match=r"--fit must be stretch or crop, got 'pad'; type --fit crop"):
        estimate_folders(*mixed, fit="pad")
    notes = estimate_folders(*mixed, fit="crop", methods=("probe",)).notes
    assert "synthetic: 8 image(s) cropped and resized to 256x171; 1 size(s) were found" in notes


def test_a_torn_photograph_is_named_and_no_setting_of_files_is_hinted_at(mixed: tuple[Path, Path]) -> None:
    victim = mixed[0] / "c1" / "b.jpg"
    victim.write_bytes(victim.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"cannot be read: .*b\.jpg.*repair or remove it") as refused:
        estimate_folders(*mixed)
    assert "--set" not in str(refused.value)


def test_what_memory_does_not_hold_is_said_without_words_that_estimate_refuses(
    mixed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "machine_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"take .* GiB, this machine has .*; give fewer .*in an experiment file"):
        estimate_folders(*mixed)
