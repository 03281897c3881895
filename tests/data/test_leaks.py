"""No image stands on both sides: copies are refused with their names, or taken away; look-alikes are told."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_synth.config import Data, load_experiment
from ray_synth.data import leaks
from ray_synth.data.images import ImageSet
from ray_synth.data.leaks import (
    Fingerprints,
    identical_pairs,
    image_hashes,
    near_notes,
    near_pairs,
    near_threshold,
    refuse_judged,
)
from ray_synth.data.readers import read_images
from ray_synth.data.splits import Splits, read_splits, split
from ray_synth.errors import InputError
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.sampling import chunks
from ray_synth.stages import Generate, generate

from ..conftest import DIGITS, write_folder


def official(digits: ImageSet, *, train: int = 1000, val: int = 300) -> ImageSet:
    parts = np.asarray(["train"] * train + ["val"] * val + ["test"] * (len(digits) - train - val))
    return ImageSet(pixels=digits.images(), labels=digits.labels, class_names=digits.class_names, parts=parts)


def fingerprints(images: ImageSet) -> dict[str, Fingerprints]:
    return {p: Fingerprints.of(images.take(np.flatnonzero(images.parts == p))) for p in ("train", "val", "test")}


def with_copies(images: ImageSet, copies: dict[int, int]) -> ImageSet:
    """Image `source` written over image `target`, label too."""
    pixels, labels = images.images().copy(), images.labels.copy()
    for target, source in copies.items():
        pixels[target], labels[target] = pixels[source], labels[source]
    return ImageSet(pixels=pixels, labels=labels, class_names=images.class_names, parts=images.parts)


# Official splits.


def test_official_sets_stay_what_they_are(digits: ImageSet) -> None:
    images = official(digits)
    sets = split(images, Data(), 0)
    by_part = {part: {i.tobytes() for i in images.images()[images.parts == part]} for part in ("train", "val", "test")}
    pixels = {name: {i.tobytes() for i in s.images()} for name, s in sets.named().items()}
    assert pixels["test"] == by_part["test"]
    assert pixels["validation"] == by_part["val"]
    assert pixels["train"] | pixels["generator"] <= by_part["train"]
    assert not pixels["train"] & pixels["generator"]
    counts = np.bincount(images.labels[images.parts == "train"])
    assert np.bincount(sets.generator.labels).tolist() == [int(0.33 * count) for count in counts]
    assert np.bincount(sets.train.labels).tolist() == [10] * 10
    assert split(images, Data(shots=3), 0).test.digest() == sets.test.digest()


def test_without_an_official_validation_set_one_is_drawn_from_train(digits: ImageSet) -> None:
    images = official(digits, train=1300, val=0)
    sets = split(images, Data(generator_split="shared", shots=None, max_validation=20, max_test=5), 0)
    train = {i.tobytes() for i in images.images()[images.parts == "train"]}
    assert {i.tobytes() for i in sets.validation.images()} < train
    assert np.bincount(sets.validation.labels).tolist() == [20] * 10
    assert np.bincount(sets.test.labels).tolist() == [5] * 10
    assert len(sets.train) + len(sets.validation) == 1300
    assert sets.generator.digest() == sets.train.digest()


def test_the_official_split_does_not_depend_on_the_order_of_reading(digits: ImageSet) -> None:
    images = official(digits)
    shuffled = images.take(np.random.default_rng(0).permutation(len(images)))
    settings = Data(max_test=7)
    for name, expected in split(images, settings, 0).named().items():
        assert split(shuffled, settings, 0).named()[name].digest() == expected.digest()


def test_a_class_without_real_training_images_is_refused_by_name(digits: ImageSet) -> None:
    images = official(digits)
    parts = np.where((images.labels == 7) & (images.parts == "train"), "test", images.parts)
    lacking = ImageSet(pixels=images.images(), labels=images.labels, class_names=images.class_names, parts=parts)
    with pytest.raises(InputError, match="class '7' has no real training image"):
        split(lacking, Data(), 0)


# Identical images.


def test_copies_across_official_parts_are_refused_and_both_are_named(digits: ImageSet) -> None:
    images = with_copies(official(digits), {1500: 3, 1501: 3, 1100: 1600})
    with pytest.raises(InputError) as error:
        split(images, Data(), 0)
    for words in ("2 image(s)", "3 pair(s)", "train 3 = test 200", "val 100 = test 300", "--set data.on_leak=drop"):
        assert words in str(error.value), str(error.value)


def test_copies_are_dropped_from_the_training_side_and_never_from_test(digits: ImageSet) -> None:
    images = with_copies(official(digits), {1500: 3, 1501: 3, 1100: 1600})
    sets = split(images, Data(on_leak="drop", shots=None, generator_split="shared"), 0)
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (999, 299, 497)
    assert identical_pairs({name: Fingerprints.of(s) for name, s in sets.named().items() if name != "generator"}) == []
    assert any(note.startswith("taken away: 1 from train, 1 from val;") for note in sets.notes)


def test_a_copy_under_another_class_goes_altogether_where_copies_are_dropped(digits: ImageSet) -> None:
    images = official(digits)
    wrong = ImageSet(
        pixels=with_copies(images, {5: 4}).images(), labels=images.labels, class_names=images.class_names,
        parts=images.parts,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"--set data\.on_leak=drop"):
        split(wrong, Data(), 0)
    sets = split(wrong, Data(on_leak="drop", shots=None, generator_split="shared"), 0)
    assert len(sets.train) == 998
    assert "2 image(s) left out: identical pixels stand in another class too" in sets.notes


def test_the_leak_of_pneumoniamnist_is_found(measuring_data: Path) -> None:
    """The published data set holds 8 images that stand in two splits, in 10 pairs."""
    data = Data(kind="npz", path=str(measuring_data / "pneumoniamnist28_imbalanced.npz"), shots=None)
    images = read_images(data)
    pairs = identical_pairs(fingerprints(images))
    assert len(pairs) == 10
    sets = fingerprints(images)
    assert len({sets[pair.first].digests[pair.first_row].tobytes() for pair in pairs}) == 8
    with pytest.raises(InputError, match=r"8 image\(s\) stand in two sets .* in 10 pair\(s\)"):
        read_splits(data, 0)
    cleaned = read_splits(data.model_copy(update={"on_leak": "drop"}), 0)
    assert len(cleaned.test) == 624
    assert identical_pairs({name: Fingerprints.of(s) for name, s in cleaned.named().items()}) == []


# Images that look alike.


def recompressed(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def test_recompressed_images_are_found_and_others_hardly(measuring_data: Path) -> None:
    images = read_images(Data(kind="npz", path=str(measuring_data / "cifar10_dev_10k5k.npz")))
    test = images.take(np.flatnonzero(images.parts == "test")[:2000])
    train = images.take(np.flatnonzero(images.parts == "train")[:4000])
    copies = np.stack([recompressed(image) for image in test.images()[:100]])
    leaky = ImageSet(
        pixels=np.concatenate([train.images(), copies]), labels=np.zeros(4100, dtype=np.int64), class_names=("a", "b")
    )
    pairs, by_chance = near_pairs({"train": Fingerprints.of(leaky), "test": Fingerprints.of(test)})
    found = {pair.second_row for pair in pairs if pair.first_row >= 4000}
    assert len(found & set(range(100))) >= 95
    honest, _ = near_pairs({"train": Fingerprints.of(train), "test": Fingerprints.of(test)})
    assert len(honest) <= 2 * by_chance


def test_the_threshold_is_set_by_neighbours_within_a_set(digits: ImageSet) -> None:
    hashes = image_hashes(digits.images())
    threshold = near_threshold(hashes)
    bits = np.unpackbits(hashes, axis=1).astype(np.int64)
    distance = bits @ (1 - bits).T + (1 - bits) @ bits.T
    np.fill_diagonal(distance, 999)
    nearest = distance.min(axis=1)
    assert (nearest <= threshold).mean() <= 0.01 < (nearest <= threshold + 1).mean()


def test_of_large_sets_some_images_are_looked_up_and_it_is_said(
    digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = with_copies(digits.take(slice(1500)), {row: row - 1000 for row in range(1000, 1500)})
    images.pixels[1000:, 0, 0] += 1  # near copies, all 500 of them, and 20 exact ones
    images.pixels[1000:1020] = images.pixels[:20]
    sets = {
        name: Fingerprints.of(images.take(rows)) for name, rows in (("train", slice(1000)), ("test", slice(1000, 1500)))
    }
    calls: list[int] = []
    nearest = leaks._nearest

    def counted(queries: np.ndarray, references: np.ndarray, but: np.ndarray | None = None) -> Any:
        calls.append(len(queries) * len(references) * (but is None))
        return nearest(queries, references, but)

    monkeypatch.setattr(leaks, "_nearest", counted)
    whole, by_chance = near_pairs(sets)
    assert (len(whole), by_chance, max(calls)) == (480, 5, 500_000)
    assert not any("looked for" in note for note in near_notes(sets))
    calls.clear()
    monkeypatch.setattr(leaks, "MOST_PAIRS", 100_000)
    assert len(near_pairs(sets)[0]) == 480  # they are few
    monkeypatch.setattr(leaks, "LEAST_ASKED", 10)
    calls.clear()
    some, by_chance = near_pairs(sets)
    assert max(calls) <= 100_000
    assert by_chance == 1
    assert set(some) <= set(whole)
    assert 90 <= len(some) <= 100  # a fifth of them
    assert {pair.second_row % 5 for pair in some} == set(range(5))  # from all over the set
    assert near_notes(sets)[-1] == (
        "near copies in train, of 1,000 images, were looked for of 100 of 500 images of test; exact ones of all"
    )
    assert len(identical_pairs(sets)) == 20


def test_20000_by_5000_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    sets = {
        name: Fingerprints.of(
            ImageSet(
                pixels=rng.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8),
                labels=np.zeros(count, dtype=np.int64),
                class_names=("a", "b"),
            )
        )
        for name, count in (("train", 20_000), ("test", 5_000))
    }
    start = time.monotonic()
    assert identical_pairs(sets) == []
    near_pairs(sets)
    assert time.monotonic() - start < 20


# Synthetic images that exist already.


def test_a_synthetic_folder_that_holds_test_images_is_refused(splits: Splits, digits: ImageSet, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "made", splits.generator, classes=tuple(range(10)), each=20)
    for label in range(10):
        (folder / f"digit {label}").rename(folder / str(label))
    settings = {
        "generator": {"kind": "folder", "path": str(folder)},
        "generate.images_per_class": 20,
        "generate.batch_size": None,
    }

    def check() -> Run:
        return Run(load_experiment(DIGITS, settings), RunFolder(tmp_path / "run"), Reporter())

    assert check().notes is not None
    Image.fromarray(splits.test.images()[0][..., 0]).save(folder / "3" / "000.png")
    with pytest.raises(InputError) as error:
        check()
    for words in (
        "1 image(s)",
        "synthetic",
        "3/000.png = test",
        "remove these synthetic images from generator.path",
    ):
        assert words in str(error.value)


def wide_folder(root: Path, digits: ImageSet, *, classes: int = 2, each: int = 20) -> Path:
    """400x300 colour images of digits, as photos are."""
    for label in range(classes):
        (root / str(label)).mkdir(parents=True)
        for number, image in enumerate(digits.images()[digits.labels == label][:each]):
            small = Image.fromarray(image[..., 0]).convert("RGB")
            small.resize((400, 300), Image.Resampling.BICUBIC).save(root / str(label) / f"{number:02d}.png")
    return root


def test_a_copied_photo_is_found_where_real_ones_are_cropped(digits: ImageSet, tmp_path: Path) -> None:
    real = wide_folder(tmp_path / "real", digits)
    made = wide_folder(tmp_path / "made", digits.take(np.arange(900, len(digits))))
    settings = {
        "data": {"kind": "folder", "path": str(real), "image_size": 16, "fit": "crop", "shots": 3},
        "generator": {"kind": "folder", "path": str(made)},
        "generate.images_per_class": 20,
        "generate.batch_size": None,
    }

    def check() -> Run:
        return Run(load_experiment(DIGITS, settings), RunFolder(tmp_path / "run"), Reporter())

    held_out = check().inputs.splits.test.sources
    assert held_out is not None
    shutil.copy(held_out[0], made / "1" / "00.png")
    with pytest.raises(InputError, match=r"synthetic .*1/00\.png = test"):
        check()


def test_synthetic_images_that_the_first_look_left_out_are_compared_when_they_are_read(
    splits: Splits, digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "MAX_COMPARED", 100)
    folder = write_folder(tmp_path / "made", splits.generator, classes=tuple(range(10)), each=20)
    for label in range(10):
        (folder / f"digit {label}").rename(folder / str(label))
    last = sorted((folder / "3").iterdir())[-1]
    Image.fromarray(splits.test.images()[0][..., 0]).save(last)
    settings = {
        "generator": {"kind": "folder", "path": str(folder)},
        "generate.images_per_class": 20,
        "generate.batch_size": None,
    }
    job = Run(load_experiment(DIGITS, settings), RunFolder(tmp_path / "run"), Reporter())
    assert job.notes[-1].startswith("the first 10 synthetic images per class were compared")
    for label in range(10):
        keys = [job.of(Generate).images.key(label, index) for index in range(20)]
        rows = (
            dict.fromkeys(chunks.SCHEMA.names, "")
            | dict.fromkeys(chunks.SCORES)
            | {"key": keys, "image": b"", "label": label}
        )
        rows |= {"seed": 0, "cluster": 0}
        chunks.write_chunk(job.folder, chunks.Chunk(job.of(Generate).images.chunk_digest[:12], label, 0, 20), rows)
    with pytest.raises(InputError, match=f"synthetic .*{last.name} = test"):
        _ = job.of(Generate).all


def test_judged_images_are_compared_with_synthetic_ones_only(digits: ImageSet) -> None:
    a, b = digits.take(np.arange(50)), digits.take(np.arange(25, 75))
    with pytest.raises(InputError, match=r"25 image\(s\)"):
        refuse_judged(Fingerprints.of(a), {"test": Fingerprints.of(b)})
    other = Fingerprints.of(digits.take(np.arange(100, 150)))
    refuse_judged(
        other, {"validation": Fingerprints.of(a), "test": Fingerprints.of(b)}
    )  # their own leak is another check's
