"""Tables, shards and arrays as other tools write and name them come in; what was taken for what is said."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ray_synth.config import Columns, Data, load_experiment
from ray_synth.data.listing import FileImages
from ray_synth.data.opening import BrokenImages, Member
from ray_synth.data.packed import packed
from ray_synth.data.readers import list_images, read_images
from ray_synth.errors import InputError

from ..conftest import DIGITS
from .sources import png

Rows = list[dict[str, Any]]


def rows(count: int = 6, **columns: Sequence[Any]) -> Rows:
    """Small pictures, all different, of two classes; columns: more of them, or in place of these."""
    made = [{"image": png(np.full((8, 8), 3 * i, np.uint8)), "label": "ab"[i % 2]} for i in range(count)]
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(made)]


def table(file: Path, content: Rows, features: dict[str, Any] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    written = pa.Table.from_pylist(content)
    if features is not None:
        written = written.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with file.open("wb") as opened:
        pq.write_table(written, opened)
    return file


def shard(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file


def renamed(content: Rows, **names: str) -> Rows:
    return [{names.get(name, name): value for name, value in row.items()} for row in content]


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: not name.startswith((".", "_")) and name.strip()
)


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folder=st.sampled_from(["what?", "a#b", "50%", "st*r", "b[1]", "a::b", "s3:", "{x}", "a b"]) | NAMES, file=NAMES)
def test_a_place_may_have_any_name(folder: str, file: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("place") / folder
    table(root / f"{file}.parquet", rows())
    assert len(read_images(Data(kind="parquet", path=str(root)))) == 6
    assert len(read_images(Data(kind="huggingface", path=str(root / f"{file}.parquet")))) == 6
    shard(root / f"{file}.tar", [(f"{i}.{end}", row[key]) for i, row in enumerate(rows(label=[b"a", b"b"] * 3))
                                 for end, key in (("png", "image"), ("cls", "label"))])  # fmt: skip
    assert len(read_images(Data(kind="webdataset", path=str(root)))) == 6


@pytest.mark.parametrize("ending", [".pq", ".parq", ".PARQUET", ".parquet"])
@pytest.mark.parametrize("kind", ["parquet", "huggingface"])
def test_a_parquet_file_of_any_ending_is_read_alone_and_in_its_folder(kind: str, ending: str, tmp_path: Path) -> None:
    file = table(tmp_path / f"x{ending}", rows())
    for place in (file, tmp_path):
        assert len(read_images(Data(kind=kind, path=str(place)))) == 6


@pytest.mark.parametrize(("name", "kind"), [("x.pq", "parquet"), ("x.tar", "webdataset"), ("x.npz", "npz")])
def test_a_file_of_another_kind_says_which(name: str, kind: str, tmp_path: Path) -> None:
    table(tmp_path / name, rows())
    with pytest.raises(InputError, match=rf"is a file; .*; type --set data\.kind={kind}$"):
        list_images(Data(kind="folder", path=str(tmp_path / name)))


def test_labels_may_stand_behind_all_images(tmp_path: Path) -> None:
    content = rows(8)
    images = [(f"{i:03}.png", row["image"]) for i, row in enumerate(content)]
    labels = [(f"{i:03}.cls", row["label"].encode()) for i, row in enumerate(content)]
    apart = list_images(Data(kind="webdataset", path=str(shard(tmp_path / "apart.tar", images + labels))))
    beside = [member for pair in zip(images, labels, strict=True) for member in pair]
    together = list_images(Data(kind="webdataset", path=str(shard(tmp_path / "together.tar", beside))))
    assert apart.labels.tolist() == together.labels.tolist() == [0, 1] * 4
    assert [item.read_bytes() for item in apart.items] == [item.read_bytes() for item in together.items]


def test_members_that_find_no_partner_are_counted_in_one_line(tmp_path: Path) -> None:
    content = rows(75)
    images = [(f"images/{i:03}.png", row["image"]) for i, row in enumerate(content)]
    labels = [(f"labels/{i:03}.cls", row["label"].encode()) for i, row in enumerate(content)]
    file = shard(tmp_path / "x.tar", images + labels)
    with pytest.raises(InputError) as error:
        list_images(Data(kind="webdataset", path=str(file)))
    assert "\n" not in str(error.value)
    for words in ("of 150 samples 75 without a label, such as images/000", "75 without an image", "in one folder"):
        assert words in str(error.value)
    (tmp_path / "torn.tar").write_bytes(b"no tar at all")
    with pytest.raises(InputError, match=r"^[^\n]*torn\.tar cannot be read as a tar file: [^\n]*$"):
        list_images(Data(kind="webdataset", path=str(tmp_path / "torn.tar")))


@pytest.mark.parametrize(
    ("files", "parts", "said"),
    [
        (["flowers-dev-kit"], None, "no split by words in names of files: 'dev' in flowers-dev-kit.parquet, and no"),
        (["crash-test-dummies", "valid_coins"], None, "'valid' in valid_coins.parquet, 'test' in crash-test-dummies"),
        (["flowers-dev-kit-train", "test"], {"train", "test"}, "'train' in flowers-dev-kit-train.parquet, 'test' in"),
        (
            ["train-00000-of-00002", "train-00001-of-00002", "dev"],
            {"train", "val"},
            "00000-of-00002.parquet and 1 more",
        ),
        (["my-train-set-v2", "TESTING.1"], {"train", "test"}, "'testing' in TESTING.1.parquet"),
        (["trains", "devices"], None, "a seeded one is drawn"),
        (["train/a", "val/dev-kit"], {"train", "val"}, "splits by words in names of files: 'train' in train/a.parquet"),
    ],
)
def test_a_word_makes_a_split_where_something_is_left_to_train_on_and_it_is_said(
    files: list[str], parts: set[str] | None, said: str, tmp_path: Path
) -> None:
    for number, name in enumerate(files):
        table(tmp_path / f"{name}.parquet", rows(10)[number::2])
    found = list_images(Data(kind="parquet", path=str(tmp_path)))
    assert (None if found.parts is None else set(found.parts)) == parts
    assert said in "\n".join(found.notes)


def test_rows_that_name_their_split_ask_no_file_name(tmp_path: Path) -> None:
    table(tmp_path / "flowers-dev.parquet", rows(split=["train", "test"] * 3))
    found = list_images(Data(kind="parquet", path=str(tmp_path)))
    assert found.parts is not None
    assert found.parts.tolist() == ["train", "test"] * 3


@pytest.mark.parametrize(
    ("names", "asked", "said"),
    [
        ({"image": "img", "label": "fine_label"}, {}, "image is 'img', label is 'fine_label'"),
        ({"image": "images", "label": "targets"}, {}, "image is 'images', label is 'targets'"),
        ({"image": "jpg", "label": "cls"}, {}, "image is 'jpg', label is 'cls'"),
        (
            {"image": "picture", "label": "Art"},
            {"image": "picture", "label": "Art"},
            "image is 'picture', label is 'Art'",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_columns_have_the_names_that_people_give_them(
    kind: str, names: dict[str, str], asked: dict[str, str], said: str, tmp_path: Path
) -> None:
    content = renamed(rows(coarse_label=[7] * 6), **names)
    place = tmp_path / "x"
    if kind == "saved":
        import datasets

        datasets.Dataset.from_list(content).save_to_disk(str(place))
    else:
        table(place / "x.parquet", content)
    found = list_images(Data(kind="huggingface", path=str(place), columns=Columns(**asked)))
    assert (found.class_names, found.labels.tolist()) == (("a", "b"), [0, 1] * 3)
    assert said in "\n".join(found.notes)
    assert "coarse_label" in "\n".join(found.notes)  # and what was not taken stands beside it


def test_the_features_of_hugging_face_say_which_column_is_what(tmp_path: Path) -> None:
    features = {"scan": {"_type": "Image"}, "finding": {"_type": "ClassLabel", "names": ["none", "nodule"]}}
    content = renamed(rows(label=[0, 1] * 3, age=[3] * 6), image="scan", label="finding")
    table(tmp_path / "x.parquet", content, features)
    found = list_images(Data(kind="parquet", path=str(tmp_path)))
    assert (found.class_names, found.labels.tolist()) == (("none", "nodule"), [0, 1] * 3)


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        ({"label": "art"}, {}, r"no column 'label', it has image, art; type --set data\.columns\.label=NAME"),
        ({"label": "art"}, {"label": "Art"}, r"no column data\.columns\.label='Art', it has image, art"),
        (
            {"image": "img", "label": "jpg"},
            {},
            r"several columns that may be the image: img, jpg; type --set data\.col",
        ),
    ],
)
def test_a_column_that_cannot_be_told_is_asked_for(
    names: dict[str, str], asked: dict[str, str], message: str, tmp_path: Path
) -> None:
    table(tmp_path / "x.parquet", renamed(rows(), **names))
    with pytest.raises(InputError, match=message):
        list_images(Data(kind="parquet", path=str(tmp_path), columns=Columns(**asked)))


def test_a_sample_s_json_may_call_its_label_otherwise(tmp_path: Path) -> None:
    members = [
        (f"{i}.{end}", content)
        for i, row in enumerate(rows())
        for end, content in (("png", row["image"]), ("json", json.dumps({"art": row["label"]}).encode()))
    ]
    file = shard(tmp_path / "x.tar", members)
    found = list_images(Data(kind="webdataset", path=str(file), columns=Columns(label="art")))
    assert found.class_names == ("a", "b")


def test_columns_are_for_sources_that_have_some() -> None:
    with pytest.raises(InputError, match=r"data\.columns must be empty for kind: folder; they are for parquet"):
        load_experiment(DIGITS, {"data": {"kind": "folder", "path": "x", "columns": {"label": "y"}}})


MEDMNIST = {f"{part}_{what}": (part, what) for part in ("train", "val", "test") for what in ("images", "labels")}
KERAS = {f"{what}_{part}": (part, what) for part in ("train", "test") for what in ("x", "y")}


@pytest.mark.parametrize("form", [MEDMNIST, KERAS, {name.upper(): row for name, row in KERAS.items()}])
def test_an_npz_may_hold_its_parts_apart(form: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    sides = {"train": 6, "val": 4, "test": 2}
    arrays = {
        name: np.arange(64 * sides[part]).reshape(-1, 8, 8).astype(np.uint8) if what in ("images", "x")
        else np.arange(sides[part]).reshape(-1, 1) % 2
        for name, (part, what) in form.items()
    }  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays)
    found = list_images(Data(kind="npz", path=str(tmp_path / "x.npz")))
    expected = [part for part in sides if part in {part for part, _ in form.values()} for _ in range(sides[part])]
    assert found.parts is not None
    assert (found.parts.tolist(), found.class_names) == (expected, ("0", "1"))
    first = next(name for name, (part, what) in form.items() if part == "train" and what in ("images", "x"))
    assert np.array_equal(np.asarray(found.items)[:6, ..., 0], arrays[first])


IMAGES, LABELS = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2


@pytest.mark.parametrize(
    ("arrays", "asked", "message"),
    [
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, {}, "images or labels of 'test' alone, it"),
        ({"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES[:, :4], "test_labels": LABELS}, {},
         r"test_images is uint8 \[4, 4, 8\], beside train_images, which is uint8 \[4, 8, 8\]"),
        ({"arr_0": IMAGES, "arr_1": LABELS}, {}, r"no array 'images', it has arr_0, arr_1; type --set data\.col"),
        ({"arr_0": IMAGES, "arr_1": LABELS}, {"image": "a"}, r"no array data\.columns\.image='a', it has arr_0, arr_1"),
        ({"images": IMAGES, "labels": LABELS}, {"split": "part"}, r"no array data\.columns\.split='part'"),
    ],
)  # fmt: skip
def test_an_npz_whose_arrays_cannot_be_told_asks(
    arrays: dict[str, np.ndarray], asked: dict[str, str], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=message):
        list_images(Data(kind="npz", path=str(tmp_path / "x.npz"), columns=Columns(**asked)))


def test_an_npz_says_which_array_is_what(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", arr_0=IMAGES, arr_1=LABELS, part=["train"] * 3 + ["test"], weights=LABELS)
    asked = Columns(image="arr_0", label="arr_1", split="part")
    found = list_images(Data(kind="npz", path=str(tmp_path / "x.npz"), columns=asked))
    assert found.parts is not None
    assert (found.labels.tolist(), found.parts.tolist()) == ([0, 1, 0, 1], ["train"] * 3 + ["test"])
    assert found.notes == ("arrays of x.npz that are not read: weights",)


def test_a_path_that_is_not_there_says_from_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(tmp_path / "photos" / "x.parquet", rows())
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    with pytest.raises(InputError, match=r"was looked for from .*/deep/er: type --set data.path=/.*/photos$") as error:
        read_images(Data(kind="parquet", path="photos"))
    assert f"{tmp_path}/deep/er/photos is not there" in str(error.value)
    monkeypatch.chdir(tmp_path)
    assert len(read_images(Data(kind="parquet", path="photos"))) == 6
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert len(read_images(Data(kind="parquet", path="~/photos"))) == 6


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_images_of_a_shard_stay_in_it_where_it_is_not_compressed(tmp_path: Path, ending: str) -> None:
    """As small as a place in a file, they are what one in memory is: decoded, hashed, packed, named where torn."""
    rng, samples = np.random.default_rng(0), list[tuple[str, bytes]]()
    for number in range(12):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(buffer, format="jpeg")
        samples += [(f"{number:02d}.jpg", buffer.getvalue()), (f"{number:02d}.cls", str(number % 2).encode())]
    file = tmp_path / f"a.{ending}"
    with tarfile.open(file, "w:gz" if ending == "tar.gz" else "w") as tar:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    listing = list_images(Data(kind="webdataset", path=str(file)))
    held = listing.source()
    assert isinstance(held, FileImages)
    encoded = [content for name, content in samples if name.endswith("jpg")]
    assert {type(item) for item in held.items} == {Member if ending == "tar" else bytes}
    assert held.encoded(np.arange(12)) == encoded
    assert held.bytes_of(np.arange(12)) == sum(map(len, encoded))
    in_memory = replace(held, items=np.array(encoded, dtype=object))
    assert np.array_equal(held.images(), in_memory.images())
    assert held.keys() == in_memory.keys()
    assert len(pickle.dumps(held)) < len(pickle.dumps(in_memory)) or ending == "tar.gz"
    assert np.array_equal(packed(held, tmp_path / "packs").images(), held.images())
    names = {file.name for file in (tmp_path / "packs").iterdir()}
    if ending == "tar":
        with file.open("r+b") as torn:
            torn.seek(held.items[7].offset + 40)
            torn.write(bytes(200))
        with pytest.raises(BrokenImages, match=r"a\.tar#07"):
            held.images()
        os.utime(file, (0, 0))
    packed(held, tmp_path / "packs")
    assert ({file.name for file in (tmp_path / "packs").iterdir()} == names) == (ending == "tar.gz")
