"""What other programs read: folders that our own reader takes, and shards that Ray Data's WebDataset reader takes."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ray_synth.data.readers import read_folder
from ray_synth.errors import Spoiled
from ray_synth.generator.folder import folder_name
from ray_synth.runs import RunFolder
from ray_synth.sampling import chunks
from ray_synth.sampling import export as room
from ray_synth.sampling.card import About
from ray_synth.sampling.chunks import SCORES, Plan, work_left
from ray_synth.sampling.export import Exported, export_images

from ..generator.tiny_models import edit_json
from .test_chunks import NAMES, PLAN, pixels, write, write_rows


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


ABOUT = About(name="digits | <b>", version="1", origins=[("m", "r", "")], rejected={"blank": 3})


def export(folder: RunFolder, kind: str, plan: Plan = PLAN, about: About = ABOUT) -> Path:
    images = Exported(folder=folder, plan=plan, class_names=NAMES, extension="png", about=about)
    return Path(folder.root) / export_images(images, kind)


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
    export(folder, "folder", dataclasses.replace(PLAN, images_per_class=(5,) * 3))
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
        origin = json.loads(sample["json"])
        assert (origin["class_name"], origin["clip_probability"]) == (NAMES[label], None)

        assert np.asarray(Image.open(io.BytesIO(sample["png"]))).shape == (4, 5, 3)


def test_a_torn_record_of_an_export_is_named(folder: RunFolder) -> None:
    place = export(folder, "folder")
    (place.parent / "folder.json").write_text('{"images": ')
    with pytest.raises(Spoiled, match=r"export/folder\.json cannot be read: .*move it away to make it anew") as error:
        export(folder, "folder")
    folder.set_aside(error.value.names, "spoiled")
    assert export(folder, "folder") == place


def test_datasets_opens_what_is_exported_for_it(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images and labels, under the names of the classes; several shards."""
    monkeypatch.setattr(room, "SHARD_BYTES", 1_500)
    place = export(folder, "huggingface")
    assert len(list(place.glob("data/*.parquet"))) > 1
    found = datasets.load_dataset(str(place), split="train", cache_dir=str(Path(folder.root) / "cache"))
    assert found.features["label"].names == list(NAMES)
    assert isinstance(found.features["image"], datasets.Image)
    assert found["key"] == [PLAN.key(label, index) for label in range(3) for index in INDICES]
    assert found["label"] == [label for label in range(3) for _ in INDICES]
    shown = [int(np.asarray(image)[0, 0, 0]) for image in found["image"]]
    assert shown == [value for label in range(3) for value in pixels(label, INDICES)]
    assert found[0]["image"].info["XML:com.adobe.xmp"].count("trainedAlgorithmicMedia") == 1
    assert found[0]["near_copy_distance"] is None


def test_each_of_several_generators_is_a_configuration(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    several = dataclasses.replace(PLAN, images_per_class=(2, 2, 2, 3, 3, 3), generators=("sd15", "flux.1 dev"))
    for chunk in work_left([], several).missing:
        label = several.place(chunk.label)[1]
        seeds = [value + chunk.label for value in range(chunk.start, chunk.stop)]
        write_rows(folder, several, chunk, label, seeds)
    about = dataclasses.replace(ABOUT, origins=[("m1", "r1", "l1"), ("m2", "r2", "")])
    place = export(folder, "huggingface", several, about)
    for name, each in (("sd15", 2), ("flux.1 dev", 3)):
        found = datasets.load_dataset(str(place), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert found["label"] == [label for label in range(3) for _ in range(each)]
    first = datasets.load_dataset(str(place), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(first) == 6


def test_the_card_has_the_figures_that_there_are_by_then(folder: RunFolder) -> None:
    before = (export(folder, "huggingface") / "README.md").read_text()
    assert "How many to use" not in before
    assert "3 as `blank`" in before
    assert "<b>" not in before.split("---")[2]
    figures = {
        "predicted_ratio": 12.0,
        "interval": [8.0, 16.0],
        "verdict": "helps",
        "num_real": 100,
        "best_ratio": 16.0,
        "repeats": 3,
        "accuracy": {"real_only": 0.8, "best": 0.9},
        "accuracy_std": {"real_only": 0.01, "best": 0.02},
    }
    table = next((Path(folder.root) / "export" / "huggingface").rglob("*.parquet"))
    written = table.stat().st_mtime_ns
    after = (export(folder, "huggingface", about=dataclasses.replace(ABOUT, figures=figures)) / "README.md").read_text()
    assert "about 12 synthetic images for each real one (8 to 16)" in after
    assert "| the best of the sweep | 0.9000 | 0.0200 |" in after
    assert table.stat().st_mtime_ns == written


def test_chunks_of_a_version_without_scores_are_exported(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = chunks.SCHEMA
    monkeypatch.setattr(chunks, "SCHEMA", pa.schema([each for each in before if each.name not in SCORES]))
    monkeypatch.setattr(chunks, "SCORES", ())
    older = RunFolder(tmp_path / "older")
    for chunk in work_left([], PLAN).missing:
        write(older, chunk)
    monkeypatch.undo()
    place = export(older, "huggingface")
    found = datasets.load_dataset(str(place), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["clip_probability"] == [None] * 30
