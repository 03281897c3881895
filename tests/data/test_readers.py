"""One contract over every format and layout: the same images in, the same labelled images out, or a refusal by name."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_synth.catalog import CATALOG
from ray_synth.config import FORMATS, Data, Experiment, load_experiment
from ray_synth.data import decoding
from ray_synth.data.images import ImageSet
from ray_synth.data.listing import Listing
from ray_synth.data.readers import READERS, list_images, read_images
from ray_synth.data.splits import _chosen, read_splits
from ray_synth.errors import InputError

from ..conftest import DIGITS
from . import sources
from .sources import SOURCES, Sample, Source

ENCODED = [name for name, source in SOURCES.items() if source.encoded]


@pytest.fixture(scope="session")
def images(digits: ImageSet) -> list[Sample]:
    return sources.samples(digits.images()[..., 0])


def contents(read: ImageSet) -> dict[bytes, tuple[str, str | None]]:
    parts = [None] * len(read) if read.parts is None else read.parts.tolist()
    return {
        image.tobytes(): (read.class_names[label], part)
        for image, label, part in zip(read.images(), read.labels, parts, strict=True)
    }


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_images_come_out_of_every_format(name: str, images: list[Sample], tmp_path: Path) -> None:
    source: Source = SOURCES[name]
    data = source.write(tmp_path / "source", images)
    read = read_images(data)
    assert read.class_names == source.class_names
    assert contents(read) == {
        s.pixels.tobytes(): (source.class_names[s.label], source.parts[s.part] if source.parts else None)
        for s in images
    }
    assert len(read) == len(images)
    again = read_images(data)
    assert np.array_equal(again.images(), read.images())
    assert np.array_equal(again.labels, read.labels)
    assert again.sources is not None
    assert again.sources.tolist() == read.sources.tolist()
    assert len(set(again.sources)) == len(images)


@pytest.mark.parametrize("name", ENCODED)
def test_sizes_and_modes_are_unified_and_it_is_said(name: str, images: list[Sample], tmp_path: Path) -> None:
    odd = [replace(images[0], encoded=sources.png(np.full((10, 20), 200, dtype=np.uint8))), *images[1:]]
    read = read_images(SOURCES[name].write(tmp_path / "source", odd))
    assert read.images().shape == (len(images), 32, 32, 3)
    assert "1 image(s) resized to 32x32; 2 size(s) were found" in read.notes
    assert "1 image(s) turned from grey to RGB" in read.notes


@pytest.mark.parametrize("name", ENCODED)
def test_an_image_that_cannot_be_read_is_refused_by_name(name: str, images: list[Sample], tmp_path: Path) -> None:
    torn = replace(images[5], encoded=images[5].encoded[:60])
    data = SOURCES[name].write(tmp_path / "source", [*images[:5], torn, *images[6:]])
    listing = list_images(data)
    files = [Path(item) if isinstance(item, str) else item for item in listing.items]
    held = [item if isinstance(item, bytes) else item.read_bytes() for item in files]
    broken = listing.names[held.index(torn.encoded)]
    with pytest.raises(InputError, match="image cannot be read") as error:
        listing.read()
    assert str(broken) in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_every_kind_has_a_reader_and_every_known_data_set_a_source() -> None:
    assert set(READERS) == {*FORMATS, *CATALOG}
    assert set(CATALOG) - {"celeba"} <= set(SOURCES)  # of two classes: its test is below


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "digits"])
def test_a_place_that_holds_nothing_says_what_is_expected(kind: str, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"expected|must hold|needs"):
            read_images(Data(kind=kind, path=str(place)))


def test_a_class_folder_that_is_a_file_and_a_struct_without_fields_are_refused(
    images: list[Sample], tmp_path: Path
) -> None:
    from scipy.io import savemat

    data = sources.write_imagenette(tmp_path / "i", images)
    (tmp_path / "i" / "val").rename(tmp_path / "i" / "other")
    (tmp_path / "i" / "val").write_text("not a folder")
    with pytest.raises(InputError, match=r"no folder .*val"):
        list_images(data)
    data = sources.write_caltech101(tmp_path / "c", images)
    (tmp_path / "c" / "101_ObjectCategories").rename(tmp_path / "c" / "other")
    (tmp_path / "c" / "101_ObjectCategories").write_text("not a folder")
    with pytest.raises(InputError, match="NotADirectoryError"):
        list_images(data)
    data = sources.write_cars(tmp_path / "m", images)
    savemat(tmp_path / "m" / "devkit" / "cars_train_annos.mat", {"annotations": np.arange(3)})
    with pytest.raises(InputError, match=r"cars: the files in .* cannot be read: IndexError"):
        list_images(data)


# Refusals of single formats.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": np.array([0, 1, 2, 7])},
            r"label 7 of .*#row 3 is not in the class list of 3: apple, banana, cherry",
        ),
        ({"labels": np.array([0.5, 1, 2, 0])}, "labels must be"),
        ({"split": np.array(["train", "", "val", "test"])}, r"#row 1 has no split and other images have one"),
        ({"labels": np.array([b"\xff", b"a", b"b", b"c"])}, r"the label '\\\\xff' of"),
        ({"labels": np.array([0, 1])}, r"labels must be \[4\]"),
        ({"images": np.zeros((4, 8, 8), dtype=np.float32)}, r"images must be uint8 .*float32 .*astype\('uint8'\)"),
        ({"split": np.array([0, 1, 2, 9]), "split_names": np.array(["train", "val", "test"])}, "the split 9"),
        ({"split": np.array(["train", "train", "held", "test"])}, "the split 'held' is not known"),
        ({"class_names": np.array(["apple", "apple", "cherry"])}, "'apple' stands twice"),
    ],
)
def test_an_npz_whose_arrays_do_not_fit_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "images": np.zeros((4, 8, 8), dtype=np.uint8),
        "labels": np.array([0, 1, 2, 0]),
        "class_names": np.array(["apple", "banana", "cherry"]),
    }
    np.savez(tmp_path / "a.npz", **{**arrays, **changes})
    with pytest.raises(InputError, match=message):
        read_images(Data(kind="npz", path=str(tmp_path / "a.npz")))


def test_an_npz_of_images_without_channels_and_labels_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 6), dtype=np.uint8), labels=np.array(["dog", "cat", "dog"]))
    read = read_images(Data(kind="npz", path=str(tmp_path / "a.npz")))
    assert (read.images().shape, read.class_names, read.labels.tolist()) == ((3, 8, 6, 1), ("cat", "dog"), [1, 0, 1])
    file = tmp_path / "a.npz"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"npz file .*a\.npz cannot be read"):
        read_images(Data(kind="npz", path=str(file)))
    np.savez(tmp_path / "b.npz", images=np.array([{}]), labels=np.array([0]))
    with pytest.raises(InputError, match=r"b\.npz cannot be read: .*allow_pickle"):
        read_images(Data(kind="npz", path=str(tmp_path / "b.npz")))


class Harm:
    """What a pickle from outside might do when it is loaded."""

    def __init__(self, target: Any, *words: str):
        self.target, self.words = target, words

    def __reduce__(self) -> Any:
        return self.target, self.words


@pytest.mark.parametrize("target", [os.system, eval, getattr])
def test_a_pickle_that_names_anything_else_is_refused_before_it_runs(
    target: Any, images: list[Sample], tmp_path: Path
) -> None:
    data = sources.write_cifar10(tmp_path, images)
    words = [f"touch {tmp_path}/ran"] if target is os.system else ["os", "system"][: 1 + (target is getattr)]
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(pickle.dumps({b"data": Harm(target, *words)}, protocol=2))
    with pytest.raises(InputError, match=r"data_batch_3 is refused: .*which no CIFAR file does"):
        read_images(data)
    assert not (tmp_path / "ran").exists()


def test_a_torn_cifar_file_is_refused_by_name(images: list[Sample], tmp_path: Path) -> None:
    for write, name in ((sources.write_cifar10, "cifar-10-batches-py/test_batch"),
                        (sources.write_cifar10_binary, "test_batch.bin")):  # fmt: skip
        root = tmp_path / write.__name__
        data = write(root, images)
        file = root / name
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(InputError, match="test_batch"):
            read_images(data)
    data = sources.write_cifar10_binary(tmp_path / "label", [replace(images[0], label=200), *images[1:]])
    with pytest.raises(InputError, match=r"label 200 of .* not in the class list of 3"):
        read_images(data)


@pytest.mark.parametrize("cut", [30, 2000])
def test_a_torn_parquet_file_is_refused_by_name(cut: int, images: list[Sample], tmp_path: Path) -> None:
    data = sources.write_parquet(tmp_path, images)
    file = tmp_path / "1.parquet"
    content = bytearray(file.read_bytes())
    if cut == 30:
        file.write_bytes(content[:-cut])
    else:  # the footer is whole and a page is not
        content[4:cut] = bytes(cut - 4)
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"1\.parquet"):
        read_images(data)


def test_parquet_rows_that_do_not_fit_are_refused(images: list[Sample], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def read(rows: list[dict[str, Any]]) -> ImageSet:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        return read_images(Data(kind="parquet", path=str(tmp_path / "a.parquet")))

    first = {"image": images[0].encoded, "label": 0, "class_name": "apple", "rejected": ""}
    second = {"image": images[1].encoded, "label": 1, "class_name": "banana", "rejected": ""}
    rejected = {**second, "image": None, "rejected": "blank"}
    kept = read([first, second, rejected])
    assert len(kept) == 2
    assert kept.notes[0] == "1 row(s) left out: rejected when they were generated"
    assert kept.notes[1].startswith("no official split found in")
    with pytest.raises(InputError, match=r"a\.parquet#row 1 has no class_name and other images have one"):
        read([first, {**second, "class_name": None}])
    with pytest.raises(InputError, match=r"a\.parquet#row 1 has no split and other images have one"):
        read([{**first, "split": "train"}, {**second, "split": None}])
    with pytest.raises(InputError, match="label 0 is 'apple' in some rows and 'pear' in"):
        read([first, {**second, "label": 0, "class_name": "pear"}])
    with pytest.raises(InputError, match=r"a\.parquet has no column 'label'"):
        read([{"image": b"x"}])
    with pytest.raises(InputError, match=r"#row 1 holds no encoded image, got NoneType"):
        read([first, {**second, "image": None}])


@pytest.mark.parametrize("kind", ["parquet", "huggingface"])
def test_a_column_that_ray_would_unpickle_is_refused_before_it_runs(
    kind: str, images: list[Sample], tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray  # registers the type

    harm = ArrowPythonObjectArray.from_objects([Harm(os.system, f"touch {tmp_path}/ran")])
    table = pa.table({"image": [images[0].encoded], "label": [0], "meta": harm})
    if kind == "parquet":
        file = tmp_path / "a.parquet"
        pq.write_table(table, file)
    else:
        sources.write_saved(tmp_path, images)
        file = next((tmp_path / "train").glob("*.arrow"))
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    with pytest.raises(InputError, match=rf"{file.name} is refused: .* ray\.data\.arrow_pickled_object"):
        read_images(Data(kind=kind, path=str(tmp_path)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["parquet", "save_to_disk", "webdataset"])
def test_reading_needs_no_ray(name: str, images: list[Sample], tmp_path: Path) -> None:
    data = SOURCES[name].write(tmp_path / "source", images)
    script = (
        "import sys; from ray_synth.config import Data; from ray_synth.data.readers import read_images; "
        f"print(len(read_images(Data(kind={data.kind!r}, path={data.path!r}))), 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(images)), "False"]


def test_a_shard_with_a_pickle_or_a_tear_is_refused_by_name(images: list[Sample], tmp_path: Path) -> None:
    data = sources.write_webdataset(tmp_path, images)
    shard = tmp_path / "val-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InputError, match=r"val-000000\.tar cannot be read as a tar file"):
        read_images(data)
    shard.write_bytes(whole)
    with tarfile.open(shard, "a") as tar:
        tar.addfile(tarfile.TarInfo("000099.pkl"))
    with pytest.raises(InputError, match=r"val-000000\.tar: member 000099\.pkl is refused"):
        read_images(data)


def test_a_shard_without_names_takes_the_labels_as_names(images: list[Sample], tmp_path: Path) -> None:
    import io

    def write(members: dict[str, bytes]) -> Data:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return Data(kind="webdataset", path=str(tmp_path / "a.tar"))

    png = images[0].encoded
    read = read_images(write({"x/b.png": png, "x/b.cls": b"10", "x/a.png": images[1].encoded, "x/a.cls": b"2"}))
    assert (read.class_names, read.labels.tolist(), read.parts) == (("2", "10"), [0, 1], None)
    apart = write({"a.png": png, "b.png": images[1].encoded, "a.cls": b"1", "b.CLS": b"2"})
    assert list_images(apart).class_names == ("1", "2")
    with pytest.raises(InputError, match=r"a\.tar has two members a\.PNG, whatever their case"):
        read_images(write({"a.png": png, "a.PNG": png}))
    with pytest.raises(InputError, match=r"a\.tar#b has 0 images"):
        read_images(write({"b.cls": b"1"}))
    with pytest.raises(InputError, match=r"a\.tar#b: the label must be an integer or a name, got None"):
        read_images(write({"b.png": png}))


def test_hugging_face_asks_no_network(images: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sources.write_saved(tmp_path / "saved", images)
    asked = []
    connect = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            asked.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or [])
    monkeypatch.setattr(socket.socket, "connect", noted)
    assert len(read_images(data)) == len(images)
    assert asked == []


# Known data sets.


def test_one_value_and_a_path_are_enough_for_a_known_data_set(images: list[Sample], tmp_path: Path) -> None:
    sources.write_cars(tmp_path, images)
    (tmp_path / "cars.yaml").write_text(f"name: cars\ndata: {{kind: cars, path: {tmp_path}}}\n")
    experiment = load_experiment(tmp_path / "cars.yaml")
    assert (experiment.data.image_size, experiment.data.fit) == (224, "crop")
    assert (experiment.data.generator_split, experiment.data.shots) == ("shared", 16)
    assert (experiment.classifier.weighting, experiment.classifier.real_weight) == ("fixed", 1)
    assert experiment.classifier.prompt == "a photo of a {class}, a type of car."
    assert experiment.partition.clusters_per_class == 2
    ours = load_experiment(
        DIGITS, {"data": {"kind": "imagenet", "path": "x", "image_size": 64}, "classifier.real_weight": 3}
    )
    assert (ours.data.image_size, ours.classifier.real_weight, ours.partition.clusters_per_class) == (64, 3, 0.5)
    assert (load_experiment(DIGITS).classifier.real_weight, load_experiment(DIGITS).classifier.weighting) == (
        4,
        "uniform",
    )
    for known in CATALOG.values():
        assert "{class}" in known.prompt


# Training, validation and test images of the smallest class of each release; 0: no official set.
SMALLEST = {
    "imagenet": (732, 0, 50), "imagenet100": (732, 0, 50), "imagenette": (858, 0, 357), "caltech101": (31, 0, 0),
    "dtd": (40, 40, 40), "eurosat": (2000, 0, 0), "aircraft": (33, 33, 33), "pets": (93, 0, 88), "cars": (24, 0, 24),
    "sun397": (50, 0, 50), "food101": (750, 0, 250), "flowers102": (10, 10, 20), "cub200": (29, 0, 11),
    "celeba": (16, 16, 16),
}  # fmt: skip


@pytest.mark.parametrize("kind", CATALOG)
def test_the_settings_of_a_known_data_set_fit_its_smallest_class(kind: str) -> None:
    data = Experiment.model_validate({"name": "x", "data": {"kind": kind, "path": "x"}}).data
    counts = dict(zip(("train", "val", "test"), SMALLEST[kind], strict=True))
    parts = np.asarray([part for _ in range(2) for part in counts for _ in range(counts[part])])
    labels = np.repeat([0, 1], sum(counts.values()))
    official = parts if counts["test"] else None
    listing = Listing(items=[], names=parts, labels=labels, class_names=("a", "b"), parts=official)
    keys = np.asarray([str(row) for row in range(len(labels))])
    assert len(_chosen(listing, keys, ("a", "b"), data, 0)["train"]) == 2 * CATALOG[kind].shots


def test_a_class_without_an_official_test_image_is_refused(images: list[Sample], tmp_path: Path) -> None:
    data = sources.write_npz(tmp_path, [s for s in images if s.part != "test" or s.label != 1])
    with pytest.raises(InputError, match="class 'banana' has no image in the official test set"):
        read_splits(data.model_copy(update={"shots": 1}), 0)


def test_other_words_for_a_class_move_no_image(images: list[Sample], tmp_path: Path) -> None:
    data = sources.write_flowers102(tmp_path, images).model_copy(update={"shots": 1, "generator_split": "shared"})
    before = read_splits(data, 0)
    (tmp_path / "cat_to_name.json").write_text('{"1": "rose", "2": "tulip", "3": "lily"}')
    after = read_splits(data, 0)
    assert after.train.class_names == ("rose", "tulip", "lily")
    for name in before.named():
        assert np.array_equal(before.named()[name].sources, after.named()[name].sources)


def test_one_image_under_two_labels_among_the_shots_is_refused(images: list[Sample], tmp_path: Path) -> None:
    train = [s for s in images if s.part == "train"]
    other = next(s for s in train if s.label != train[0].label)
    doubled = [replace(s, encoded=train[0].encoded) if s is other else s for s in images]
    data = sources.write_flowers102(tmp_path, doubled).model_copy(update={"generator_split": "shared", "shots": None})
    with pytest.raises(InputError, match="have identical pixels; remove the wrong one"):
        read_splits(data, 0)
    assert len(read_splits(data.model_copy(update={"on_leak": "drop"}), 0).train) == len(train) - 2


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"data.kind: must be one of digits, .*got 'flower102'; did you mean flowers102"
    ):
        load_experiment(DIGITS, {"data.kind": "flower102"})
    with pytest.raises(InputError, match=r"data.class_list must be empty for kind: dtd"):
        load_experiment(DIGITS, {"data": {"kind": "dtd", "path": "x", "class_list": "y"}})


def test_only_chosen_images_are_decoded(digits: ImageSet, tmp_path: Path) -> None:
    """Of a known data set: with few shots and caps, torn files among the others do no harm, and shots are nested."""
    many = sources.samples(digits.images()[..., 0], each=(12, 4, 4))
    data = sources.write_flowers102(tmp_path, many)

    def taken(**settings: Any) -> dict[str, set[str]]:
        chosen = read_splits(data.model_copy(update={"generator_split": "shared", "max_test": 2, **settings}), 0)
        return {name: set(images.sources) for name, images in chosen.named().items()}

    two, four = taken(shots=2), taken(shots=4)
    assert two["train"] < four["train"]
    assert two["test"] == four["test"]
    assert {name: len(files) for name, files in two.items()} == {
        "generator": 6,
        "train": 6,
        "validation": 12,
        "test": 6,
    }
    for file in (tmp_path / "jpg").iterdir():
        if str(file) not in set().union(*two.values()):
            file.write_bytes(b"torn")
    assert taken(shots=2) == two
    with pytest.raises(InputError, match=r"6 images cannot be read: .*; repair or remove them"):
        taken(shots=4)
    (tmp_path / "moved").mkdir()
    (tmp_path / "jpg").rename(tmp_path / "moved" / "jpg")
    for name in ("setid.mat", "imagelabels.mat"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = read_splits(
        data.model_copy(update={"generator_split": "shared", "max_test": 2, "shots": 2,
                                "path": str(tmp_path / "moved")}), 0)  # fmt: skip
    assert {Path(file).name for file in moved.train.sources} == {Path(file).name for file in two["train"]}


def test_a_leak_among_the_chosen_images_is_refused_or_dropped(images: list[Sample], tmp_path: Path) -> None:
    """Here images are only compared once they are decoded, with what the four sets hold."""
    leaky = [replace(images[-3], encoded=images[0].encoded), *images[:-3], *images[-2:]]
    data = sources.write_flowers102(tmp_path, leaky).model_copy(update={"generator_split": "shared", "shots": None})
    with pytest.raises(InputError, match=r"train .*image_00001\.jpg = test .*image_00022\.jpg"):
        read_splits(data, 0)
    dropped = read_splits(data.model_copy(update={"on_leak": "drop"}), 0)
    assert (len(dropped.train), len(dropped.validation), len(dropped.test)) == (11, 6, 6)
    assert dropped.notes[0].startswith("taken away: 1 from train; 1 image(s) stand in two sets")
    assert dropped.notes[1].startswith("official set(s): validation and test; the others")


def test_one_saved_split_and_labels_without_names(images: list[Sample], tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    columns = {"image": [s.encoded for s in images], "label": [s.label for s in images]}
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "one"))
    read = read_images(Data(kind="huggingface", path=str(tmp_path / "one")))
    assert (read.class_names, read.parts, len(read)) == (("0", "1", "2"), None, len(images))
    datasets.Dataset.from_dict({"picture": [1], "label": [0]}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(InputError, match="has no column 'image', it has"):
        read_images(Data(kind="huggingface", path=str(tmp_path / "other")))
    (next((tmp_path / "one").glob("*.arrow"))).write_bytes(b"torn")
    with pytest.raises(InputError, match=r"the data set in .*one cannot be read"):
        read_images(Data(kind="huggingface", path=str(tmp_path / "one")))


def test_a_known_data_set_that_is_not_whole_is_refused(images: list[Sample], tmp_path: Path) -> None:
    cases = [
        (sources.write_dtd, "labels/val1.txt", None, r"dtd: labels/val1.txt or .* not found in"),
        (sources.write_flowers102, "setid.mat", None, "flowers102: setid.mat not found"),
        (sources.write_flowers102, "imagelabels.mat", b"torn", r"imagelabels.mat cannot be read as a MATLAB file"),
        (sources.write_cars, "cars_test_annos_withlabels.mat", None, "the labels of the test images"),
        (sources.write_imagenet, "LOC_val_solution.csv", None, "the labels of the images in"),
        (sources.write_imagenet100, "imagenet100.txt", None, r"--set data.class_list=FILE"),
        (sources.write_imagenet100, "imagenet100.txt", b"n01440764\nn00000001\n", "no folder .*n00000001"),
        (
            sources.write_aircraft,
            "data/variants.txt",
            b"707-320\n",
            r"label 'DHC-8-100' of .* class list of 1: 707-320",
        ),
        (sources.write_pets, "annotations/test.txt", b"just words\n", r"test.txt, line 1 is not of the form"),
        (
            sources.write_common_split,
            "split_zhou_Caltech101.json",
            b"{}x",
            r"split_zhou_Caltech101.json cannot be read",
        ),
        (
            sources.write_cub200,
            "CUB_200_2011/train_test_split.txt",
            b"1 1\n",
            "image 2 stands in one .* no row in the other",
        ),
        (sources.write_cub200, "CUB_200_2011/train_test_split.txt", b"1 1\n1 0\n", "has two rows of 1"),
        (sources.write_celeba, "list_eval_partition.txt", None, "the official split"),
        (sources.write_celeba, "list_eval_partition.txt", b"000001.jpg 0\n", "image 000002.jpg has attributes and no"),
        (sources.write_celeba, "list_eval_partition.txt", b"000001.jpg 7\n", "must hold lines such as"),
        (sources.write_celeba, "list_attr_celeba.txt", b"1\nSmiling\n000001.jpg yes\n", "a line that is not of the"),
        (sources.write_celeba, "list_attr_celeba.txt", b"", "no attribute 'Smiling'"),
        (sources.write_imagenet100, "imagenet100.txt", b"\n", r"imagenet100.txt names no synset"),
        (sources.write_imagenet, "LOC_val_solution.csv", b"ILSVRC2012_val_1,n01440764 1 2", "no column ImageId"),
        (sources.write_imagenet, "LOC_val_solution.csv", b"ImageId,\xff", "cannot be read as UTF-8"),
        (sources.write_imagenet, "LOC_val_solution.csv", b'ImageId,PredictionString\n"' + b"a" * 200_000, "Error: "),
        (
            sources.write_imagenet,
            "LOC_synset_mapping.txt",
            b"n01440764 tench\n",
            "mapping.txt has no name for n02102040",
        ),
        (
            sources.write_dtd,
            "labels/test1.txt",
            b"apple/../../../secret.jpg\n",
            r"test1.txt names 'apple/\.\./.* outside",
        ),
        (
            sources.write_dtd,
            "labels/test1.txt",
            b"apple/a.jpg\napple/a.jpg\n",
            "a.jpg is listed twice, as 'apple' test",
        ),
        (
            sources.write_common_split,
            "split_zhou_Caltech101.json",
            b'{"test": [["/etc/a.jpg", 0, "a"]]}',
            "names '/etc",
        ),
        (sources.write_common_split, "split_zhou_Caltech101.json", b"[" * 100_000, "Caltech101.json cannot be read"),
        (sources.write_common_split, "split_zhou_other.json", b"{}", "split_zhou_Caltech101.json and split_zhou_other"),
        (sources.write_flowers102, "cat_to_name.json", b"[" * 100_000, "cat_to_name.json cannot be read"),
    ]
    for number, (write, name, content, message) in enumerate(cases):
        root = tmp_path / str(number)
        data = write(root, images)
        if content is None:
            (root / name).unlink()
        else:
            (root / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            list_images(data)


def test_a_data_set_without_official_split_says_so(images: list[Sample], tmp_path: Path) -> None:
    notes = list_images(sources.write_eurosat(tmp_path, images)).notes
    assert notes[0].startswith("eurosat has no official split: a seeded one is drawn")
    (tmp_path / "2750").rename(tmp_path / "EuroSAT_RGB")
    (tmp_path / "EuroSAT_RGB" / "__MACOSX").mkdir()
    (tmp_path / "EuroSAT_RGB" / "Forest" / "Thumbs.db").touch()
    listing = list_images(Data(kind="eurosat", path=str(tmp_path)))
    assert listing.notes[0].endswith("'__MACOSX' is no class of eurosat")
    assert listing.notes[1] == "1 file(s) skipped, not an image: .db"
    assert list_images(Data(kind="eurosat", path=str(tmp_path / "EuroSAT_RGB"))).class_names == listing.class_names
    crane = sources._write_imagenet
    crane(tmp_path / "i", images, kaggle=False)
    names = "\n".join(f"{synset} crane" for synset in sources.SYNSETS)
    (tmp_path / "i" / "LOC_synset_mapping.txt").write_text(names)
    read = list_images(Data(kind="imagenet", path=str(tmp_path / "i")))
    assert read.class_names == tuple(f"crane ({synset})" for synset in sources.SYNSETS)


def test_synsets_take_the_words_that_tell_them_apart(images: list[Sample], tmp_path: Path) -> None:
    data = sources.write_imagenet(tmp_path, images)
    cranes = ("n02012849", "n02113186", "n02963159")
    base = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "train"
    solution = (tmp_path / "LOC_val_solution.csv").read_text()
    for synset, wanted in zip(sources.SYNSETS, cranes, strict=True):
        (base / synset).rename(base / wanted)
        solution = solution.replace(synset, wanted)
    (tmp_path / "LOC_val_solution.csv").write_text(solution)
    (tmp_path / "LOC_synset_mapping.txt").write_text(
        "n02012849 crane\nn02113186 Cardigan, Cardigan Welsh corgi\nn02963159 cardigan\n"
    )
    assert list_images(data).class_names == ("crane bird", "Cardigan Welsh Corgi", "cardigan")
    (tmp_path / "classnames.txt").write_text("n02012849 crane\nn02113186 Corgi\nn02963159 corgi\n")
    assert list_images(data).class_names == ("crane", "Corgi (n02113186)", "corgi (n02963159)")


@pytest.mark.parametrize("ending", ["txt", "csv"])
def test_one_attribute_of_celeba_makes_two_classes(ending: str, images: list[Sample], tmp_path: Path) -> None:
    data = sources.write_celeba(tmp_path, images, ending=ending)
    listing = list_images(data)
    assert listing.class_names == ("not smiling", "smiling")
    by_name = {f"{s.number + 1:06d}.jpg": s for s in images}
    for name, label, part in zip(listing.names, listing.labels, listing.parts, strict=True):
        sample = by_name[Path(name).name]
        assert (label, part) == (int(sample.label == 2), sample.part)
    heavy = list_images(data.model_copy(update={"attribute": "Heavy_Makeup"}))
    assert heavy.class_names == ("not heavy makeup", "heavy makeup")
    assert [by_name[Path(name).name].number % 2 for name in heavy.names] == heavy.labels.tolist()
    with pytest.raises(InputError, match=r"no attribute 'smiling' in .*; did you mean Smiling\?; type --set data.attr"):
        list_images(data.model_copy(update={"attribute": "smiling"}))
    with pytest.raises(ValueError, match="attribute must be empty for kind: pets"):
        Data(kind="pets", path="x", attribute="Smiling")


def test_cars_have_one_name_in_both_splits(images: list[Sample], tmp_path: Path) -> None:
    data = sources.write_cars(tmp_path, images)
    rows = [[f"cars_train/{s.number:05d}.jpg", s.label, sources.CARS_IN_WORDS[s.label]] for s in images]
    (tmp_path / "split_zhou_StanfordCars.json").write_text(json.dumps({"train": rows}))
    assert list_images(data).class_names == sources.CARS_IN_WORDS


def test_files_that_disagree_on_their_classes_are_refused(images: list[Sample], tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet as pq

    data = sources.write_hub_parquet(tmp_path / "hub", images)
    file = tmp_path / "hub" / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(file)
    features = {"label": {"names": ["banana", "apple", "cherry"]}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(InputError, match=r"test-0.*parquet and .*train-0.*different class lists, such as 'banana'"):
        list_images(data)
    for part, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        kinds = datasets.Features({"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=names)})
        columns = {"image": [images[0].encoded, images[1].encoded], "label": [0, 1]}
        datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(str(tmp_path / "saved" / part))
    with pytest.raises(InputError, match=r"saved/test and .*saved/train have different class lists"):
        list_images(Data(kind="huggingface", path=str(tmp_path / "saved")))


@pytest.mark.parametrize("form", ["{part}/00000.tar", "fruits1k-{part}-0000.tar", "data/fruits.{part}.tar"])
def test_a_shard_says_its_split_in_any_word_of_its_place(form: str, images: list[Sample], tmp_path: Path) -> None:
    data = sources.write_webdataset(tmp_path, images)
    for part in sources.ALL_PARTS:
        place = tmp_path / form.format(part=part)
        place.parent.mkdir(exist_ok=True)
        (tmp_path / f"{part}-000000.tar").rename(place)
    parts = list_images(data).parts
    assert parts is not None
    assert Counter(parts.tolist()) == Counter(s.part for s in images)


def test_more_images_than_memory_are_refused_before_they_are_decoded(
    images: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sources.write_folder(tmp_path, images).model_copy(update={"image_size": 64})
    monkeypatch.setattr(decoding, "machine_memory", lambda: len(images) * 64 * 64 * 3 - 1)
    with pytest.raises(InputError, match=r"24 images of 64x64 take 0\.0 GiB, .*--set data.image_size=32"):
        read_images(data)
    monkeypatch.setattr(decoding, "machine_memory", lambda: len(images) * 64 * 64 * 3)
    assert read_images(data).images().shape == (len(images), 64, 64, 3)


def test_grey_images_of_a_given_size_stay_grey(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 7).save(tmp_path / name / "x.png")
    read = read_images(Data(kind="folder", path=str(tmp_path), image_size=4))
    assert read.images().shape == (2, 4, 4, 1)
    assert read.notes == ("2 image(s) resized to 4x4; 1 size(s) were found",)


def test_an_image_is_stretched_or_cropped_to_its_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 255
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(wide).save(tmp_path / name / "x.png")
    stretched, cropped = (
        read_images(Data(kind="folder", path=str(tmp_path), image_size=8, fit=fit)) for fit in ("stretch", "crop")
    )
    assert (cropped.images() == 255).all()
    assert cropped.notes == ("2 image(s) cropped and resized to 8x8; 1 size(s) were found",)
    assert stretched.images()[0, :, 0].max() < 10


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    for name, mode, colour in (("a", "RGBA", (255, 0, 0, 0)), ("b", "LA", (0, 255))):
        (tmp_path / name).mkdir()
        Image.new(mode, (4, 4), colour).save(tmp_path / name / "x.png")
    read = read_images(Data(kind="folder", path=str(tmp_path)))
    assert [image.mean() for image in read.images()] == [255, 0]
    assert "1 image(s) of mode RGBA turned to RGB, transparent parts white" in read.notes


def test_image_files_may_be_of_any_format(tmp_path: Path) -> None:
    """What a file is called does not matter to Pillow; what it holds does."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "x.jpg", "WEBP")
    assert read_images(Data(kind="folder", path=str(tmp_path))).images().shape == (2, 8, 8, 3)


def write_sizes(root: Path, *sizes: tuple[int, int]) -> Path:
    """Two classes, an image of each height and width in both."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            Image.new("L", (width, height), number).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([(300, 400), (300, 401), (1, 1), (310, 400)], (256, 256)),  # ties went to the smallest
        ([(50, 70), (60, 41), (1, 1)], (41, 41)),
        ([(1, 1), (200, 100)], (100, 100)),
        ([(3000, 4000), (2000, 3001)], (256, 256)),
        ([(30, 40), (30, 40), (30, 40), (1, 1), (900, 901)], (30, 40)),  # the size of most
        ([(30, 40), (30, 40), (20, 21), (22, 23)], (30, 30)),  # half of them is not most
    ],
)
def test_images_of_many_sizes_take_that_of_most_or_the_median(
    sizes: list[tuple[int, int]], shape: tuple[int, int], tmp_path: Path
) -> None:
    source = list_images(Data(kind="folder", path=str(write_sizes(tmp_path, *sizes)))).source()
    assert source.shape[:2] == shape
    said = [note for note in source.notes if note.startswith("no size is that of most images: all become ")]
    assert len(said) == (shape != (30, 40))
    given = list_images(Data(kind="folder", path=str(tmp_path))).source((7, 9))
    assert given.shape[:2] == (7, 9)
    assert not any("no size" in note for note in given.notes)
