"""Images that exist already, by the names of their classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ray_synth.config import Generate, ImageFolder
from ray_synth.errors import InputError
from ray_synth.generator import generator_of
from ray_synth.generator.folder import FolderSampler, check_folder, folder_fingerprints, folder_name


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
    with pytest.raises(InputError, match=r"no folder for class 'B/1', which would be called B%2F1; it has C%2FV"):
        check_folder(str(tmp_path), ["DC-10", "B/1"], 2)
