"""Images that exist already, by the names of their classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ray_synth.config import Generate, ImageFolder
from ray_synth.errors import InputError
from ray_synth.generator import generator_of
from ray_synth.generator.folder import FolderSampler, check_folder, folder_files, folder_fingerprints, folder_name
from ray_synth.runs import RunFolder


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        (".", "%2E"),
        ("a/b", "a%2Fb"),
        ('say "hi"', "say %22hi%22"),
        ("кот 😀", "кот 😀"),
    ],
)
def test_class_names_become_names_of_one_folder(name: str, folder: str) -> None:
    assert folder_name(name) == folder


def test_an_exported_folder_is_read_by_the_names_of_its_classes(tmp_path: Path) -> None:
    names = ("F/A-18", "C/V", "DC-10")
    for folder in map(folder_name, names):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.new("RGB", (4, 6), (number, 0, 0)).save(tmp_path / folder / f"{number}.png")
    check_folder(str(tmp_path), names, 2)
    settings = ImageFolder(path=str(tmp_path))
    assert generator_of(settings, Generate(), class_names=names, shape=(4, 4, 3)).available() == (2, 2, 2)
    batch = FolderSampler(str(tmp_path), names)({"label": [0, 1, 2], "index": [0, 1, 2]})
    assert batch["rejected"] == ["", "", "no_file"]
    assert batch["image"][1][0, 0].tolist() == [1, 0, 0]
    fingerprints = folder_fingerprints(str(tmp_path), names, 1, (4, 4, 3), crop=True)
    assert [Path(name).parent.name for name in fingerprints.names] == ["F%2FA-18", "C%2FV", "DC-10"]
    with pytest.raises(InputError, match=r"no folder for class 'B/1', which would be called B%2F1 .*; it has C%2FV"):
        check_folder(str(tmp_path), ["B/1", "B/2"], 2)


def folder_of(root: Path, **numbers: int) -> ImageFolder:
    for name, number in numbers.items():
        (root / name).mkdir(parents=True)
        for image in range(number):
            Image.new("RGB", (4, 4), (len(name), image, 0)).save(root / name / f"{image}.png")
    return ImageFolder(path=str(root))


def test_classes_without_images_are_said_in_one_line_and_get_none(tmp_path: Path) -> None:
    names, generate = ("cat", "dog", "ox"), Generate(images_per_class=3)
    one = generator_of(folder_of(tmp_path / "one", ox=4), generate, class_names=names, shape=(4, 4, 3))
    assert one.available() == (0, 0, 4)
    assert one.check() == [f"no synthetic images of class(es) 'cat', 'dog' in {tmp_path}/one: they stay real only"]
    batch = one.sampler(RunFolder(tmp_path / "run"), None, "cpu")({"label": [2, 0], "index": [3, 0]})
    assert batch["rejected"] == ["", "no_file"]
    other = folder_of(tmp_path / "other", cat=3, ox=4, yak=1)
    assert generator_of(other, generate, class_names=names, shape=(4, 4, 3)).check() == [
        f"{tmp_path}/other: class(es) without real images are left out: 'yak'",
        f"no synthetic images of class(es) 'dog' in {tmp_path}/other: they stay real only",
    ]
    few = generator_of(other, Generate(images_per_class=4), class_names=names, shape=(4, 4, 3))
    with pytest.raises(InputError, match=r"must be <= 3, the images of class 'cat' .*=null .*or remove the folder"):
        few.check()


def test_images_that_lie_in_the_folder_itself_are_of_no_class(tmp_path: Path) -> None:
    settings = folder_of(tmp_path / "made", ox=2)
    with pytest.raises(InputError, match=rf"2 image\(s\) lie in it directly.*or give {settings.path} where 'ox' is"):
        folder_files(f"{settings.path}/ox", ("cat", "ox"))
