"""What other programs read: folders that our own reader takes, and shards that Ray Data's WebDataset reader takes."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_synth.data.readers import read_folder
from ray_synth.errors import Spoiled
from ray_synth.generator.folder import folder_name
from ray_synth.runs import RunFolder
from ray_synth.sampling import export as room
from ray_synth.sampling.chunks import work_left
from ray_synth.sampling.export import export_images

from ..generator.tiny_models import edit_json
from .test_chunks import NAMES, PLAN, pixels, write


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    wanted = dataclasses.replace(PLAN, max_attempts=3)
    for chunk in work_left([], wanted).missing:
        write(folder, chunk, rejected=(3,))
    from ray_synth.sampling.chunks import finished_chunks

    for chunk in work_left(finished_chunks(folder, wanted), wanted).missing:
        write(folder, chunk)
    return folder


INDICES = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


def export(folder: RunFolder, kind: str) -> Path:
    return Path(folder.root) / export_images(folder, PLAN, kind, class_names=NAMES, extension="png")


def test_a_folder_is_read_back_by_our_own_reader(folder: RunFolder) -> None:
    place = export(folder, "folder")
    images = read_folder(place)
    assert sorted(images.class_names) == sorted(["zero", "%2E.%2Fone", "dwie%2F😀"])
    for label, name in enumerate(NAMES):
        mine = images.labels == images.class_names.index(folder_name(name))
        assert images.images()[mine][:, 0, 0, 0].tolist() == pixels(label, INDICES)
    assert not (Path(folder.root).parent / "one").exists()


def test_an_export_is_completed_and_then_left_alone(folder: RunFolder) -> None:
    place = export(folder, "folder")
    files = {file: file.stat().st_mtime_ns for file in place.rglob("*.png")}
    edit_json(place.parent / "folder.json", complete=False)  # killed before the end
    next(iter(files)).unlink()
    export(folder, "folder")
    export(folder, "folder")
    again = {file: file.stat().st_mtime_ns for file in place.rglob("*.png")}
    assert set(again) == set(files)
    assert sum(again[file] == files[file] for file in files) == len(files) - 1
    export_images(
        folder, dataclasses.replace(PLAN, images_per_class=(5,) * 3), "folder", class_names=NAMES, extension="png"
    )
    assert len(list(place.rglob("*.png"))) == 15
    assert len(list((Path(folder.root) / "stale").rglob("*.png"))) == 30


def test_shards_hold_image_label_and_origin(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SHARD_BYTES", 1_500)
    place = export(folder, "webdataset")
    shards = sorted(place.glob("*.tar"))
    assert len(shards) > 1
    found: dict[str, dict[str, bytes]] = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for entry in tar:
                key, suffix = entry.name.split(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(entry).read()  # type: ignore[union-attr]
    assert list(found) == [PLAN.key(label, index) for label in range(3) for index in INDICES]
    for key, sample in found.items():
        label = int(key.split("-")[1])
        assert int(sample["cls"]) == label
        assert json.loads(sample["json"])["class_name"] == NAMES[label]

        assert np.asarray(Image.open(io.BytesIO(sample["png"]))).shape == (4, 5, 3)


def test_a_torn_record_of_an_export_is_named(folder: RunFolder) -> None:
    place = export(folder, "folder")
    (place.parent / "folder.json").write_text('{"images": ')
    with pytest.raises(Spoiled, match=r"export/folder\.json cannot be read: .*move it away to make it anew") as error:
        export(folder, "folder")
    folder.set_aside(error.value.names, "spoiled")
    assert export(folder, "folder") == place
