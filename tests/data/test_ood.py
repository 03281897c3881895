"""Further test sets: classes by name, by synset and by number; what does not match is refused before work begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ray_synth.config import Data, Evaluate, Ood
from ray_synth.data.images import ImageSet
from ray_synth.data.ood import further_sets
from ray_synth.data.readers import read_folder
from ray_synth.data.splits import Splits, read_splits
from ray_synth.errors import InputError


def written(root: Path, classes: dict[str, int], *, side: int = 8, seed: int = 0, suffix: str = "png") -> Path:
    rng = np.random.default_rng(seed)
    for name, number in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.{suffix}")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Data:
    root = written(tmp_path / "train", dict.fromkeys(("ant", "bee", "cat"), 20))
    return Data(kind="folder", path=str(root), shots=4)


@pytest.fixture
def splits(data: Data) -> Splits:
    return read_splits(data, 0)


def asked(**sets: object) -> Ood:
    return Ood.model_validate({"sets": sets})


def test_classes_are_matched_by_name_and_images_take_the_training_size(
    tmp_path: Path, data: Data, splits: Splits
) -> None:
    other = written(tmp_path / "other", {"cat": 3, "ant": 2}, side=13, seed=1)
    (found,) = further_sets(asked(other=str(other)), data, splits)
    assert found.images.shape == splits.train.shape == (8, 8, 3)
    assert found.images.labels.tolist() == [0, 0, 2, 2, 2]
    assert found.images.class_names == splits.train.class_names
    assert found.classes.tolist() == [0, 2]
    assert found.among is not None
    assert (found.images.images() == read_folder(other, size=(8, 8), channels=3).images()).all()  # fit as in training
    whole = written(tmp_path / "whole", dict.fromkeys(("ant", "bee", "cat"), 1), seed=2)
    (found,) = further_sets(asked(whole={"kind": "folder", "path": str(whole)}), data, splits)
    assert found.among is None
    before = found.digest
    written(whole, {"more": 1}, seed=3)
    (whole / "more" / "0.png").rename(whole / "cat" / "1.png")
    (whole / "more").rmdir()
    assert further_sets(asked(whole=str(whole)), data, splits)[0].digest != before


def test_classes_that_do_not_match_are_listed(tmp_path: Path, data: Data, splits: Splits) -> None:
    other = written(tmp_path / "other", {"dog": 2, "Bee": 2})
    with pytest.raises(InputError, match=r"no class of the set 'mine'.*'Bee', 'dog'.*such as 'Bee' to 'bee'"):
        further_sets(asked(mine=str(other)), data, splits)
    some = written(tmp_path / "some", {"ant": 2, "dog": 2}, seed=4)
    with pytest.raises(InputError, match=r"has 1 class\(es\).*'dog'.*evaluate\.ood\.sets\.mine\.unknown=drop"):
        further_sets(asked(mine=str(some)), data, splits)
    (found,) = further_sets(asked(mine={"path": str(some), "unknown": "drop"}), data, splits)
    assert found.images.labels.tolist() == [0, 0]
    assert any("left out" in note and "'dog'" in note for note in found.notes)


def test_an_empty_folder_a_broken_image_and_a_missing_path_are_refused(
    tmp_path: Path, data: Data, splits: Splits
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"evaluate\.ood\.sets\.mine: .*empty"):
        further_sets(asked(mine=str(empty)), data, splits)
    (empty / "ant").mkdir()
    with pytest.raises(InputError, match=r"evaluate\.ood\.sets\.mine: .*ant"):
        further_sets(asked(mine=str(empty)), data, splits)
    broken = written(tmp_path / "broken", {"ant": 2})
    (broken / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0\.png"):
        further_sets(asked(mine=str(broken)), data, splits)
    cut = written(tmp_path / "cut", {"ant": 2}, side=64)
    whole = (cut / "ant" / "1.png").read_bytes()
    (cut / "ant" / "1.png").write_bytes(whole[: len(whole) // 2])  # behind its head
    with pytest.raises(InputError, match=r"1\.png"):
        further_sets(asked(mine=str(cut)), data, splits)
    with pytest.raises(InputError, match=r"evaluate\.ood\.sets\.mine: .*nowhere"):
        further_sets(asked(mine="nowhere"), data, splits)


def test_an_image_that_is_trained_on_or_chosen_by_is_refused_or_left_out(
    tmp_path: Path, data: Data, splits: Splits
) -> None:
    other = written(tmp_path / "other", {"ant": 3}, seed=9)
    for name, images in (("train", splits.train), ("validation", splits.validation)):
        copied = images.images()[images.labels == 0][0]
        Image.fromarray(copied).save(other / "ant" / f"copy of {name}.png")
    with pytest.raises(InputError, match=r"2 image\(s\).*copy of.*data\.on_leak=drop"):
        further_sets(asked(mine=str(other)), data, splits)
    (found,) = further_sets(asked(mine=str(other)), data.model_copy(update={"on_leak": "drop"}), splits)
    assert len(found.images) == 3
    assert any("left out" in note for note in found.notes)
    Image.fromarray(splits.test.images()[splits.test.labels == 0][0]).save(other / "ant" / "of the test set.png")
    (found,) = further_sets(asked(mine=str(other)), data.model_copy(update={"on_leak": "drop"}), splits)
    assert len(found.images) == 4  # which it may be a shifted version of


def test_the_test_part_of_a_source_is_taken(tmp_path: Path, data: Data, splits: Splits) -> None:
    rng = np.random.default_rng(5)
    file = tmp_path / "images.npz"
    np.savez(
        file,
        images=rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8),
        labels=np.arange(30) % 3,
        split=np.repeat([0, 1], 15).astype(np.uint8),
        split_names=np.array(["train", "test"]),
        class_names=np.array(["ant", "bee", "cat"]),
    )
    (found,) = further_sets(asked(mine={"kind": "npz", "path": str(file)}), data, splits)
    assert len(found.images) == 15
    (found,) = further_sets(asked(mine={"kind": "npz", "path": str(file), "part": "all"}), data, splits)
    assert len(found.images) == 30
    with pytest.raises(InputError, match=r"no part 'val', only test, train"):
        further_sets(asked(mine={"kind": "npz", "path": str(file), "part": "val"}), data, splits)


SYNSETS = ("n00000001", "n00000003", "n00000005")


@pytest.fixture
def imagenet(tmp_path: Path) -> tuple[Data, Splits]:
    """Three classes of a thousand."""
    root = tmp_path / "imagenet"
    written(root / "train", dict.fromkeys(SYNSETS, 6), side=16)
    written(root / "val", dict.fromkeys(SYNSETS, 2), side=16, seed=1)
    (root / "LOC_synset_mapping.txt").write_text("".join(f"n{k:08d} thing {k}, other\n" for k in range(1000)))
    data = Data(kind="imagenet", path=str(root), image_size=8, shots=2)
    return data, read_splits(data, 0)


def test_imagenets_sets_are_found_by_their_folders(tmp_path: Path, imagenet: tuple[Data, Splits]) -> None:
    data, splits = imagenet
    assert splits.train.class_names == ("thing 1", "thing 3", "thing 5")
    below = tmp_path / "below"
    written(below / "imagenetv2-matched-frequency-format-val", {"3": 2, "4": 1, "5": 1}, side=20, seed=2)
    written(below / "sketch" / "sketch", {"n00000001": 2}, side=12, seed=3)
    written(below / "imagenet-r", {"n00000005": 1, "n00000900": 1}, side=12, seed=4)
    (below / "imagenet-r" / "README.txt").write_text("of the release")
    found = {each.name: each for each in further_sets(Ood(imagenet=str(below)), data, splits)}
    assert set(found) == {"v2", "sketch", "r"}
    assert found["v2"].images.labels.tolist() == [1, 1, 2]  # folders are numbered in the order of the synsets
    assert any("1 class(es)" in note for note in found["v2"].notes)
    assert found["sketch"].classes.tolist() == [0]
    assert found["r"].images.labels.tolist() == [2]
    with pytest.raises(InputError, match=r"holds none of imagenetv2.*imagenet-a"):
        further_sets(Ood(imagenet=str(tmp_path / "imagenet")), data, splits)
    (Path(data.path or "") / "LOC_synset_mapping.txt").unlink()
    with pytest.raises(InputError, match=r"numbered as all 1000 synsets.*lay LOC_synset_mapping\.txt"):
        further_sets(Ood(imagenet=str(below)), data, splits)


def test_the_digits_themselves_as_a_set_of_a_kind(digits: ImageSet) -> None:
    data = Data()
    with pytest.raises(InputError, match=r"identical pixels"):
        further_sets(asked(same={"kind": "digits"}), data, read_splits(data, 0))


def test_settings_are_checked_at_the_door() -> None:
    with pytest.raises(ValidationError, match=r"unknown corruption 'gausian_noise'; did you mean gaussian_noise\?"):
        Evaluate.model_validate({"ood": {"corruptions": ["gausian_noise"]}})
    with pytest.raises(ValidationError, match="path is missing"):
        asked(mine={"kind": "npz"})
    with pytest.raises(ValidationError, match="must be one of"):
        asked(mine={"kind": "nzp", "path": "a"})
    with pytest.raises(ValidationError, match="letters, digits"):
        asked(**{"a/b": "somewhere"})
    with pytest.raises(ValidationError, match="name of one below imagenet"):
        Ood.model_validate({"sets": {"v2": "somewhere"}, "imagenet": "elsewhere"})
    assert Ood(corruptions=True).corrupted[0] == "gaussian_noise"
    assert Ood.model_validate({"corruptions": ["contrast", "contrast"]}).corrupted == ("contrast",)
    assert Ood().corrupted == ()
