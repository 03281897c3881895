"""Splits are sacred: disjoint, stratified, and the same whatever the order of reading or the number of shots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ray_synth.config import Data, load_experiment
from ray_synth.data.images import ImageSet, first_per_class, rank_in_class
from ray_synth.data.readers import read_folder
from ray_synth.data.source import ImageSource
from ray_synth.data.splits import Splits, split
from ray_synth.errors import InputError
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder

from ..conftest import DIGITS
from .sources import samples, write_parquet


def pixels(images: ImageSource) -> set[bytes]:
    return {image.tobytes() for image in images.images()}


def test_the_four_sets_share_no_pixels_and_keep_the_classes_in_proportion(digits: ImageSet, splits: Splits) -> None:
    named = splits.named()
    total = sum(len(images) for images in named.values())
    assert len(set().union(*(pixels(images) for images in named.values()))) == total
    share = np.bincount(digits.labels) / len(digits)
    for name in ("generator", "validation", "test"):
        assert np.abs(np.bincount(named[name].labels) / len(named[name]) - share).max() < 0.01
    assert np.bincount(splits.train.labels).tolist() == [10] * 10


def test_fewer_shots_are_a_subset_and_move_no_other_set(digits: ImageSet, splits: Splits) -> None:
    fewer = split(digits, Data(shots=4), 0)
    assert pixels(fewer.train) < pixels(splits.train)
    for name in ("generator", "validation", "test"):
        assert fewer.named()[name].digest() == splits.named()[name].digest()


def test_the_split_depends_on_pixels_and_seed_not_on_order(digits: ImageSet, splits: Splits) -> None:
    shuffled = digits.take(np.random.default_rng(1).permutation(len(digits)))
    assert split(shuffled, Data(), 0).test.digest() == splits.test.digest()
    assert split(digits, Data(), 1).test.digest() != splits.test.digest()


def test_a_shared_generator_sees_the_training_images(digits: ImageSet) -> None:
    shared = split(digits, Data(generator_split="shared"), 0)
    assert shared.generator.digest() == shared.train.digest()


def test_copies_cannot_leak(digits: ImageSet) -> None:
    doubled = digits.take(np.concatenate([np.arange(len(digits)), np.arange(5)]))
    cleaned = split(doubled, Data(), 0)
    assert cleaned.notes[0] == "5 image(s) left out: identical pixels stand in the same class already"
    assert cleaned.test.digest() == split(digits, Data(), 0).test.digest()
    labels = doubled.labels.copy()
    labels[-1] = (labels[-1] + 1) % 10
    wrong = ImageSet(pixels=doubled.images(), labels=labels, class_names=doubled.class_names)
    with pytest.raises(InputError, match="identical pixels; remove the wrong one"):
        split(wrong, Data(), 0)


@given(st.lists(st.integers(0, 4), max_size=40), st.lists(st.integers(0, 9), min_size=5, max_size=5))
def test_a_lower_ratio_is_a_prefix_of_a_higher_one(labels: list[int], counts: list[int]) -> None:
    y, wanted = np.asarray(labels, dtype=np.int64), np.asarray(counts)
    chosen = first_per_class(y, wanted)
    assert np.bincount(y[chosen], minlength=5).tolist() == np.minimum(wanted, np.bincount(y, minlength=5)).tolist()
    assert set(first_per_class(y, wanted // 2)) <= set(chosen)
    for label in range(5):
        assert rank_in_class(y)[y == label].tolist() == list(range((y == label).sum()))


def test_a_folder_is_read_in_one_size_and_mode_and_says_so(image_folder: Path) -> None:
    plain = read_folder(image_folder)
    assert plain.images().shape == (90, 8, 8, 1)
    assert plain.notes == ()
    folder = image_folder / "digit 0"
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(folder / "alpha.png")
    Image.new("RGB", (20, 10)).save(folder / "wide.JPEG")
    Image.new("RGB", (8, 8)).save(folder / "other.WebP")
    Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16)).save(folder / "deep.png")
    (folder / "notes.txt").write_text("not an image")
    mixed = read_folder(image_folder)
    assert mixed.images().shape == (94, 8, 8, 3)
    text = "\n".join(mixed.notes)
    for words in (
        "mode RGBA turned to RGB",
        "I;16 scaled to 8 bits",
        "1 image(s) resized to 8x8",
        "grey to RGB",
        ".txt",
    ):
        assert words in text
    assert mixed.images()[mixed.labels == 0].max() == 255


def test_the_same_pixels_have_the_same_key_wherever_they_lie(image_folder: Path, tmp_path: Path) -> None:
    before = read_folder(image_folder)
    image_folder.rename(tmp_path / "moved")
    assert read_folder(tmp_path / "moved").digest() == before.digest()


def test_a_run_reads_its_images_without_ray_and_stops_the_one_it_starts_whatever_happens(
    digits: ImageSet, tmp_path: Path
) -> None:
    import ray

    source = tmp_path / "source"
    write_parquet(source, samples(digits.images()[..., 0], each=(20, 4, 4)))
    settings = {"data": {"kind": "parquet", "path": str(source), "shots": 5}}
    job = Run(load_experiment(DIGITS, settings), RunFolder(tmp_path / "run"), Reporter())
    assert not ray.is_initialized()
    job.inputs.start_ray()
    assert ray.is_initialized()
    assert job.check()["sets"] == {"generator": 18, "train": 15, "validation": 12, "test": 12}
    assert not ray.is_initialized()
    (source / "0.parquet").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"0\.parquet"):
        Run(load_experiment(DIGITS, settings), RunFolder(tmp_path / "run"), Reporter())
    assert not ray.is_initialized()
