"""Folders as people have them: nothing that lies in one is left out without a word, and names are one on every side."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from ray_synth.config import Data
from ray_synth.data.images import ImageSet
from ray_synth.data.listing import labels_of
from ray_synth.data.readers import list_folder, list_images
from ray_synth.errors import InputError, near_misses, one_spelling
from ray_synth.folders import _Folders, estimate_folders
from ray_synth.generator.folder import folder_files

from ..conftest import write_folder
from . import sources


def put(*files: Path) -> None:
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 + number, dtype=np.uint8)).save(file, "PNG")


def classes(root: Path, *names: str, each: int = 2) -> Path:
    put(*(root / name / f"{number}.png" for name in names for number in range(each)))
    return root


# What is left out.


def hidden_folder(root: Path) -> None:
    put(root / ".ipynb_checkpoints" / "x.png", root / "cat" / ".trash" / "deep" / "y.png", root / "dog" / ".z.png")


def macos_archive(root: Path) -> None:
    put(root / "__MACOSX" / "cat" / "._0.png", root / "cat" / "._0.png", root / "dog" / "__MACOSX" / "._1.png")


def dangling(root: Path) -> None:
    for number in range(7):
        (root / "cat" / f"link{number}.png").symlink_to("/nowhere/x.png")
    (root / "beside.jpg").symlink_to("/nowhere/y.jpg")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (dangling, ["8 link(s) that lead nowhere left out: ", "/beside.jpg, cat/link0.png", "and 3 more"]),
        (lambda root: put(root / "cat" / "2019" / "may" / "a.PNG", root / "dog" / "old" / "b.png"),
         ["2 image(s) in folders inside of class folders left out: may/a.PNG, old/b.png"]),
        (lambda root: put(root / "a.jpg", root / "b.png"), ["2 image(s) beside the class folders left out: ", "a.jpg"]),
        (hidden_folder, ["3 image(s) hidden left out: ", ".ipynb_checkpoints/x.png", "deep/y.png", "dog/.z.png"]),
        (macos_archive, ["folder left out: __MACOSX"]),
        (lambda root: (root / "dog" / "notes.txt").touch(), ["1 file(s) skipped, not an image: .txt"]),
    ],
)  # fmt: skip
def test_nothing_is_left_out_without_a_word(spoil: Callable[[Path], object], words: list[str], tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", "cat", "dog")
    assert list_folder(root).notes == ()
    spoil(root)
    listing = list_folder(root)
    assert (listing.class_names, len(listing)) == (("cat", "dog"), 4)
    (note,) = listing.notes
    for word in words:
        assert word in note


def test_a_target_without_classes_says_what_is_left_out_too(tmp_path: Path) -> None:
    real = classes(tmp_path / "real", "cat", "dog")
    flat = tmp_path / "flat"
    put(flat / "a.png", flat / "b.png", flat / "__MACOSX" / "._a.png", flat / ".c.png")
    (flat / "d.png").symlink_to("/nowhere")
    sets = _Folders.read(real, flat, crop=False)
    assert not sets.target_labelled
    assert "target: 1 link(s) that lead nowhere left out: flat/d.png" in sets.notes
    assert "target: 1 image(s) hidden left out: flat/.c.png" in sets.notes


def whole_class_dangles(root: Path) -> None:
    (root / "bird").symlink_to("/nowhere/bird")


def class_of_dangling_links(root: Path) -> None:
    (root / "bird").mkdir()
    for number in range(3):
        (root / "bird" / f"{number}.png").symlink_to("../../.git/annex/x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (whole_class_dangles, r"bird.* lead nowhere.*repair or remove.*/nowhere/bird"),
        (class_of_dangling_links, r"'bird' holds no image: 3 link\(s\), bird/0\.png.* lead nowhere; repair or remove"),
        (lambda root: put(root / "bird" / "sparrow" / "a.png", root / "bird" / "eagle" / "b.png"),
         r"'bird' holds no image of its own, but 2 in its folders bird/eagle, bird/sparrow; .*photos/bird in place"),
        (lambda root: (root / "bird").mkdir(), r"'bird' holds no image; add png, jpg.* or remove the folder"),
    ],
)  # fmt: skip
def test_a_whole_class_is_never_left_out(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", "cat", "dog")
    spoil(root)
    with pytest.raises(InputError, match=message):
        list_folder(root)


@pytest.mark.parametrize(
    ("make", "give"),
    [
        (lambda root: classes(root / "train", "cat", "dog") and classes(root / "val", "cat", "dog"), "photos/train"),
        (lambda root: classes(root / "Testing", "cat", "dog") and classes(root / "Training", "cat"), "photos/Training"),
        (lambda root: classes(root, "train", "test"), "photos/train"),
        (lambda root: classes(root / "train", "cat", "dog") and (root / "labels").mkdir(), "photos/train"),
        (lambda root: classes(root / "photos", "cat", "dog") and put(root / "__MACOSX" / "._a.png"), "photos/photos"),
        (lambda root: classes(root / "val", "cat", "dog"), "photos/val"),
    ],
)
def test_parts_and_wrappers_are_no_classes(make: Callable[[Path], object], give: str, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    with pytest.raises(InputError, match=rf"give .*{give}|in its place: .*{give}"):
        list_folder(tmp_path / "photos")
    if give != "photos/Training":
        return
    assert list_folder(tmp_path / "photos" / "Testing").class_names == ("cat", "dog")


def test_a_class_may_be_called_as_a_part(tmp_path: Path) -> None:
    assert list_folder(classes(tmp_path, "bus", "train")).class_names == ("bus", "train")


def test_archives_of_macos_add_no_class_to_known_data_sets(tmp_path: Path, digits: ImageSet) -> None:
    images = sources.samples(digits.images()[..., 0])
    for write, place in ((sources.write_caltech101, "101_ObjectCategories"), (sources.write_imagenette, "train")):
        data = write(tmp_path / write.__name__, images)
        before = list_images(data).class_names
        put(tmp_path / write.__name__ / place / "__MACOSX" / "a.png")
        assert list_images(data).class_names == before


def test_classes_of_known_data_sets_do_not_vanish_either(tmp_path: Path, digits: ImageSet) -> None:
    images = sources.samples(digits.images()[..., 0])
    for write, place in ((sources.write_caltech101, "101_ObjectCategories"), (sources.write_imagenette, "train")):
        data = write(tmp_path / write.__name__, images)
        folder = tmp_path / write.__name__ / place
        first = next(path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "B")
        put(first / "more" / "x.png")
        assert "1 folder(s) inside of class folders skipped" in list_images(data).notes
        (folder / "n99999999").symlink_to("/nowhere/n99999999")
        with pytest.raises(
            InputError, match=r"n99999999, in .* lead nowhere: a class each, it seems; repair or remove"
        ):
            list_images(data)


# Names.

CAFE = "café"
NFC, NFD = (unicodedata.normalize(form, CAFE) for form in ("NFC", "NFD"))


def test_a_name_is_one_name_on_every_side(tmp_path: Path) -> None:
    assert NFC != NFD
    real = classes(tmp_path / "real", NFD, "zoo")
    made = classes(tmp_path / "made", NFC, "zoo")
    sets = _Folders.read(real, None, crop=False)
    assert sets.real.class_names == (NFC, "zoo")
    assert np.bincount(sets.synthetic(made, several=False).labels).tolist() == [2, 2]
    assert sets.notes == []
    assert [len(files) for files in folder_files(str(real), (NFC, "zoo"))] == [2, 2]
    classes(made, NFD)
    with pytest.raises(InputError, match=r"two class folders in .* have one name, 'café'"):
        list_folder(made)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6, unique_by=one_spelling))
@example([CAFE, "한국어"])
def test_labels_in_any_normal_form_are_of_the_class_list(names: list[str]) -> None:
    for ours, theirs in (("NFC", "NFD"), ("NFD", "NFC")):
        known = [unicodedata.normalize(ours, name) for name in names]
        labels = [unicodedata.normalize(theirs, name) for name in names]
        found, class_names = labels_of(labels, known, ["x"] * len(names), "here")
        assert found.tolist() == list(range(len(names)))
        assert class_names == tuple(map(one_spelling, names))


def test_near_misses_are_suggested(tmp_path: Path) -> None:
    real = classes(tmp_path / "real", "Golden_Retriever", "zoo", "T-shirt")
    made = classes(tmp_path / "made", "golden retriever", "zoo", "t_shirt", "house")
    sets = _Folders.read(real, None, crop=False)
    sets.synthetic(made, several=False)
    notes = "\n".join(sets.notes)
    assert "'golden retriever' (synthetic) and 'Golden_Retriever' (real)? Rename one" in notes
    assert "'t_shirt' (synthetic) and 'T-shirt' (real)" in notes
    assert "did you mean one class by 'house'" not in notes
    with pytest.raises(InputError, match=r"no class name in common.*such as 'golden retriever' to 'Golden_Retriever'"):
        estimate_folders(
            classes(tmp_path / "only", "Golden_Retriever", "dog"), classes(tmp_path / "a", "golden retriever", "b")
        )
    with pytest.raises(InputError, match="rename 'golden retriever' to 'Golden_Retriever'"):
        folder_files(str(made), ("Golden_Retriever", "zoo"))
    with pytest.raises(InputError, match="did you mean 'Golden_Retriever'"):
        labels_of(["GOLDEN-retriever"], ["Golden_Retriever", "zoo"], ["x"], "here")
    assert near_misses(["digit 2"], ["digit 3", "digit"]) == []


def test_one_synthetic_class_is_enough_to_fill_it(tmp_path: Path, digits: ImageSet) -> None:

    real = write_folder(tmp_path / "real", digits, classes=(0, 1), each=5)
    made = write_folder(tmp_path / "made", digits, classes=(1,), each=6, skip=20)
    found = estimate_folders(real, made, methods=("probe",), max_ratio=0.25)
    assert {each.num_synthetic for each in found.estimate.classes} == {0, 6}
    assert "no synthetic images for the real class(es) 'digit 0': they stay real only" in found.notes
    with pytest.raises(InputError, match="only one class in"):
        list_images(Data(kind="folder", path=str(made)))
