"""A few small images in; the same images in every format and layout that the readers know out."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ray_synth.catalog import CATALOG
from ray_synth.config import Data

FRUITS = ("apple", "banana", "cherry")
SYNSETS = tuple(sorted(CATALOG["imagenette"].names))[:3]


@dataclass(frozen=True)
class Sample:
    """One image, as pixels and as the bytes that a file of it holds."""

    pixels: np.ndarray
    encoded: bytes
    label: int
    part: str
    number: int


@dataclass(frozen=True)
class Source:
    """What a format keeps of the samples: names of the three classes, and the official part of each image."""

    write: Callable[[Path, list[Sample]], Data]
    class_names: tuple[str, ...] = FRUITS
    parts: dict[str, str] | None = None  # None: the format keeps no parts
    encoded: bool = True


ALL_PARTS = {"train": "train", "val": "val", "test": "test"}
NO_VAL = {"train": "train", "val": "train", "test": "test"}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def samples(digits: np.ndarray, *, each: tuple[int, int, int] = (4, 2, 2)) -> list[Sample]:
    """Real digits as 32x32 colour images: three classes, each with so many train, val and test images."""
    out = []
    for number in range(3 * sum(each)):
        small = Image.fromarray(digits[number]).resize((32, 32), Image.Resampling.BICUBIC)
        pixels = np.asarray(small.convert("RGB")).copy()
        pixels[0, 0] = number % 256  # all different
        part = ["train"] * each[0] + ["val"] * each[1] + ["test"] * each[2]
        out.append(Sample(pixels, png(pixels), number % 3, part[number // 3], number))
    return out


def _put(file: Path, content: bytes | str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def _lines(rows: list[str]) -> str:
    return "\n".join(rows) + "\n"


def write_folder(root: Path, images: list[Sample]) -> Data:
    for s in images:
        _put(root / FRUITS[s.label] / f"{s.number:03d}.png", s.encoded)
    return Data(kind="folder", path=str(root))


def write_npz(root: Path, images: list[Sample]) -> Data:
    root.mkdir(parents=True, exist_ok=True)
    np.savez(
        root / "images.npz",
        images=np.stack([s.pixels for s in images]),
        labels=np.asarray([s.label for s in images]),
        split=np.asarray([list(ALL_PARTS).index(s.part) for s in images], dtype=np.uint8),
        split_names=np.asarray(list(ALL_PARTS)),
        class_names=np.asarray(FRUITS),
    )
    return Data(kind="npz", path=str(root / "images.npz"))


def _planes(s: Sample) -> np.ndarray:
    return s.pixels.transpose(2, 0, 1).reshape(-1)


def _batches(images: list[Sample], train: int) -> dict[int | None, list[Sample]]:
    """The images by the number of their training batch; None for test."""
    out: dict[int | None, list[Sample]] = {number: [] for number in [*range(1, train + 1), None]}
    for i, s in enumerate(images):
        out[None if s.part == "test" else 1 + i % train].append(s)
    return out


def write_cifar10(root: Path, images: list[Sample]) -> Data:
    folder = root / "cifar-10-batches-py"
    for number, batch in _batches(images, 5).items():
        content = {
            b"data": np.asarray([_planes(s) for s in batch], dtype=np.uint8),
            b"labels": [s.label for s in batch],
        }
        _put(folder / (f"data_batch_{number}" if number else "test_batch"), pickle.dumps(content, protocol=2))
    _put(folder / "batches.meta", pickle.dumps({b"label_names": [f.encode() for f in FRUITS]}, protocol=2))
    return Data(kind="cifar10", path=str(root))


def write_cifar10_binary(root: Path, images: list[Sample]) -> Data:
    for number, batch in _batches(images, 5).items():
        content = b"".join(bytes([s.label]) + _planes(s).tobytes() for s in batch)
        _put(root / (f"data_batch_{number}.bin" if number else "test_batch.bin"), content)
    _put(root / "batches.meta.txt", _lines([*FRUITS, ""]))
    return Data(kind="cifar10", path=str(root))


def write_cifar100(root: Path, images: list[Sample]) -> Data:
    for number, batch in _batches(images, 1).items():
        content = {
            "data": np.asarray([_planes(s) for s in batch], dtype=np.uint8),
            "fine_labels": [s.label for s in batch],
        }
        _put(root / ("train" if number else "test"), pickle.dumps(content, protocol=4))
    _put(root / "meta", pickle.dumps({"fine_label_names": list(FRUITS), "coarse_label_names": ["fruit"]}, protocol=4))
    return Data(kind="cifar100", path=str(root))


def write_cifar100_binary(root: Path, images: list[Sample]) -> Data:
    for number, batch in _batches(images, 1).items():
        content = b"".join(bytes([19, s.label]) + _planes(s).tobytes() for s in batch)
        _put(root / ("train.bin" if number else "test.bin"), content)
    _put(root / "fine_label_names.txt", _lines(list(FRUITS)))
    return Data(kind="cifar100", path=str(root))


def write_parquet(root: Path, images: list[Sample]) -> Data:
    """Columns as a run's own chunks have them, over several files and row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        rows = [
            {"key": f"k{s.number}", "image": s.encoded, "label": s.label, "class_name": FRUITS[s.label],
             "split": s.part, "rejected": ""}
            for s in images[number::2]
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), root / f"{number}.parquet", row_group_size=3)
    return Data(kind="parquet", path=str(root))


def write_hub_parquet(root: Path, images: list[Sample]) -> Data:
    """As in a repository of Hugging Face: bytes and path, class names in the schema, splits in the file names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"image": {"_type": "Image"}, "label": {"names": list(FRUITS), "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    (root / "data").mkdir(parents=True)
    for part, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = [
            {"image": {"bytes": s.encoded, "path": f"{s.number}.png"}, "label": s.label}
            for s in images
            if s.part == part
        ]
        table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
        pq.write_table(table, root / "data" / f"{name}-00000-of-00001.parquet")
    return Data(kind="huggingface", path=str(root))


def write_saved(root: Path, images: list[Sample]) -> Data:
    """As `DatasetDict.save_to_disk` writes it."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(FRUITS))})
    parts = {}
    for part in ALL_PARTS:
        chosen = [s for s in images if s.part == part]
        columns = {
            "image": [{"bytes": s.encoded, "path": None} for s in chosen],
            "label": [s.label for s in chosen],
        }
        parts[part] = datasets.Dataset.from_dict(columns, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(parts).save_to_disk(str(root))
    return Data(kind="huggingface", path=str(root))


def write_webdataset(root: Path, images: list[Sample]) -> Data:
    """Shards named by split; half of the samples say their label in .cls, all of them their class in .json."""
    root.mkdir(parents=True, exist_ok=True)
    for part in ALL_PARTS:
        with tarfile.open(root / f"{part}-000000.tar", "w") as tar:
            for s in [s for s in images if s.part == part]:
                described = {"label": s.label, "class_name": FRUITS[s.label]}
                members = {"png": s.encoded, "json": json.dumps(described).encode()}
                if s.number % 2:
                    members["cls"] = str(s.label).encode()
                for extension, content in members.items():
                    entry = tarfile.TarInfo(f"{s.number:06d}.{extension}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return Data(kind="webdataset", path=str(root))


def _write_imagenet(root: Path, images: list[Sample], *, kaggle: bool, base: str = "") -> None:
    solution = [["ImageId", "PredictionString"]]
    for s in images:
        if s.part != "test":
            _put(root / base / "train" / SYNSETS[s.label] / f"{SYNSETS[s.label]}_{s.number}.JPEG", s.encoded)
            continue
        name = f"ILSVRC2012_val_{s.number:08d}"
        _put(root / base / "val" / ("" if kaggle else SYNSETS[s.label]) / f"{name}.JPEG", s.encoded)
        solution.append([name, f"{SYNSETS[s.label]} 1 2 3 4"])
    if kaggle:
        with open(root / "LOC_val_solution.csv", "w", newline="") as file:
            csv.writer(file).writerows(solution)
    names = [f"{synset} {fruit}, Latin of {fruit}" for synset, fruit in zip(SYNSETS, FRUITS, strict=True)]
    _put(root / "LOC_synset_mapping.txt", _lines(names))


def write_imagenet(root: Path, images: list[Sample]) -> Data:
    _write_imagenet(root, images, kaggle=True, base="ILSVRC/Data/CLS-LOC")
    return Data(kind="imagenet", path=str(root))


def write_imagenet100(root: Path, images: list[Sample]) -> Data:
    more = [replace(s, label=s.label) for s in images]
    _write_imagenet(root, more, kaggle=False)
    _put(root / "train" / "n09999999" / "other.JPEG", images[0].encoded)
    _put(root / "val" / "n09999999" / "other.JPEG", images[0].encoded)
    _put(root / "imagenet100.txt", _lines(list(SYNSETS)))
    return Data(kind="imagenet100", path=str(root))


def write_imagenette(root: Path, images: list[Sample]) -> Data:
    _write_imagenet(root, images, kaggle=False)
    (root / "LOC_synset_mapping.txt").unlink()
    return Data(kind="imagenette", path=str(root))


def write_caltech101(root: Path, images: list[Sample]) -> Data:
    for s in images:
        _put(root / "101_ObjectCategories" / FRUITS[s.label] / f"image_{s.number:04d}.jpg", s.encoded)
    _put(root / "101_ObjectCategories" / "BACKGROUND_Google" / "image_0001.jpg", images[0].encoded)
    return Data(kind="caltech101", path=str(root))


def write_common_split(root: Path, images: list[Sample]) -> Data:
    data = write_caltech101(root, images)
    rows: dict[str, list[Any]] = {part: [] for part in ALL_PARTS}
    for s in images:
        rows[s.part].append([f"{FRUITS[s.label]}/image_{s.number:04d}.jpg", s.label, FRUITS[s.label]])
    _put(root / "split_zhou_Caltech101.json", json.dumps(rows))
    return data


def write_eurosat(root: Path, images: list[Sample]) -> Data:
    for s in images:
        name = ("AnnualCrop", "Forest", "SeaLake")[s.label]
        _put(root / "2750" / name / f"{name}_{s.number}.jpg", s.encoded)
    return Data(kind="eurosat", path=str(root))


def write_dtd(root: Path, images: list[Sample]) -> Data:
    rows: dict[str, list[str]] = {part: [] for part in ALL_PARTS}
    for s in images:
        name = f"{FRUITS[s.label]}/{FRUITS[s.label]}_{s.number:04d}.jpg"
        _put(root / "images" / name, s.encoded)
        rows[s.part].append(name)
    for part in rows:
        _put(root / "labels" / f"{part}1.txt", _lines(rows[part]))
    return Data(kind="dtd", path=str(root))


def write_aircraft(root: Path, images: list[Sample]) -> Data:
    rows: dict[str, list[str]] = {part: [] for part in ALL_PARTS}
    for s in images:
        _put(root / "data" / "images" / f"{s.number:07d}.jpg", s.encoded)
        rows[s.part].append(f"{s.number:07d} {AIRCRAFT[s.label]}")
    for part in rows:
        _put(root / "data" / f"images_variant_{part}.txt", _lines(rows[part]))
    _put(root / "data" / "variants.txt", _lines(list(AIRCRAFT)))
    return Data(kind="aircraft", path=str(root))


AIRCRAFT = ("707-320", "DHC-8-100", "Boeing 717")  # not sorted: the order is that of variants.txt


def write_pets(root: Path, images: list[Sample]) -> Data:
    rows: dict[str, list[str]] = {"trainval": [], "test": []}
    for s in images:
        name = f"{PETS[s.label]}_{s.number}"
        _put(root / "images" / f"{name}.jpg", s.encoded)
        rows["test" if s.part == "test" else "trainval"].append(f"{name} {s.label + 1} 1 1")
    for part in rows:
        _put(root / "annotations" / f"{part}.txt", _lines(rows[part]))
    return Data(kind="pets", path=str(root))


PETS = ("Abyssinian", "english_cocker_spaniel", "shiba_inu")


def write_cars(root: Path, images: list[Sample]) -> Data:
    from scipy.io import savemat

    (root / "devkit").mkdir(parents=True)
    rows: dict[str, list[tuple[int, str]]] = {"train": [], "test": []}
    for s in images:
        part = NO_VAL[s.part]
        _put(root / f"cars_{part}" / f"{s.number:05d}.jpg", s.encoded)
        rows[part].append((s.label + 1, f"{s.number:05d}.jpg"))
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    for part, name in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        found = np.array([[(np.array([[1]]), np.array([[label]]), file) for label, file in rows[part]]], dtype=kind)
        savemat(root / name, {"annotations": found})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([CARS], dtype=object)})
    return Data(kind="cars", path=str(root))


def write_nested_cars(root: Path, images: list[Sample]) -> Data:
    """As Kaggle's mirror has it: cars_train/cars_train/*.jpg."""
    data = write_cars(root, images)
    for part in ("train", "test"):
        (root / f"cars_{part}").rename(root / "moved")
        (root / f"cars_{part}").mkdir()
        (root / "moved").rename(root / f"cars_{part}" / f"cars_{part}")
    return data


CARS = ("Audi TT RS Coupe 2012", "BMW M3 Coupe 2012", "AM General Hummer SUV 2000")
CARS_IN_WORDS = ("2012 Audi TT RS Coupe", "2012 BMW M3 Coupe", "2000 AM General Hummer SUV")


def write_sun397(root: Path, images: list[Sample]) -> Data:
    rows: dict[str, list[str]] = {"Training_01": [], "Testing_01": []}
    for s in images:
        name = f"{SUN[s.label]}/sun_{s.number:05d}.jpg"
        _put(root / "SUN397" / name[1:], s.encoded)
        rows["Testing_01" if s.part == "test" else "Training_01"].append(name)
    for part in rows:
        _put(root / f"{part}.txt", _lines(rows[part]))
    _put(root / "ClassName.txt", _lines(list(SUN)))
    return Data(kind="sun397", path=str(root))


SUN = ("/a/abbey", "/a/apartment_building/outdoor", "/b/badlands")


def write_food101(root: Path, images: list[Sample]) -> Data:
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for s in images:
        name = f"{FOOD[s.label]}/{1000 + s.number}"
        _put(root / "images" / f"{name}.jpg", s.encoded)
        rows[NO_VAL[s.part]].append(name)
    for part in rows:
        _put(root / "meta" / f"{part}.txt", _lines(rows[part]))
    _put(root / "meta" / "classes.txt", _lines(list(FOOD)))
    return Data(kind="food101", path=str(root))


FOOD = ("apple_pie", "baby_back_ribs", "waffles")


def write_flowers102(root: Path, images: list[Sample]) -> Data:
    from scipy.io import savemat

    for s in images:
        _put(root / "jpg" / f"image_{s.number + 1:05d}.jpg", s.encoded)
    ids = {part: np.asarray([[s.number + 1 for s in images if s.part == part]]) for part in ALL_PARTS}
    savemat(root / "imagelabels.mat", {"labels": np.asarray([[s.label + 1 for s in images]], dtype=np.uint8)})
    savemat(root / "setid.mat", {"trnid": ids["train"], "valid": ids["val"], "tstid": ids["test"]})
    return Data(kind="flowers102", path=str(root))


def write_cub200(root: Path, images: list[Sample]) -> Data:
    base = root / "CUB_200_2011"
    files, labels, trains = [], [], []
    for s in images:
        name = f"{BIRDS[s.label]}/bird_{s.number:04d}.jpg"
        _put(base / "images" / name, s.encoded)
        files.append(f"{s.number + 1} {name}")
        labels.append(f"{s.number + 1} {s.label + 1}")
        trains.append(f"{s.number + 1} {int(s.part != 'test')}")
    _put(base / "images.txt", _lines(files))
    _put(base / "image_class_labels.txt", _lines(labels))
    _put(base / "train_test_split.txt", _lines(trains))
    _put(base / "classes.txt", _lines([f"{number} {name}" for number, name in enumerate(BIRDS, start=1)]))
    return Data(kind="cub200", path=str(root))


def write_celeba(root: Path, images: list[Sample], *, ending: str = "txt") -> Data:
    """Class 2 smiles; every second image is of a person with heavy makeup. ending: csv as Kaggle has it."""
    parts = {"train": 0, "val": 1, "test": 2}
    names = ["5_o_Clock_Shadow", "Heavy_Makeup", "Smiling"]
    rows, splits = [], []
    between = "," if ending == "csv" else "  "
    for s in images:
        name = f"{s.number + 1:06d}.jpg"
        _put(root / "img_align_celeba" / name, s.encoded)
        values = ["-1", "1" if s.number % 2 else "-1", "1" if s.label == 2 else "-1"]
        rows.append(between.join([name, *values]))
        splits.append(f"{name}{between[0]}{parts[s.part]}")
    if ending == "csv":
        head, splits = [",".join(["image_id", *names])], ["image_id,partition", *splits]
    else:
        head = [str(len(rows)), " ".join(names) + " "]
    _put(root / f"list_attr_celeba.{ending}", _lines([*head, *rows]))
    _put(root / f"list_eval_partition.{ending}", _lines(splits))
    return Data(kind="celeba", path=str(root))


FLOWERS = ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")
BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")

SOURCES: dict[str, Source] = {
    "folder": Source(write_folder),
    "npz": Source(write_npz, parts=ALL_PARTS, encoded=False),
    "cifar10": Source(write_cifar10, parts=NO_VAL, encoded=False),
    "cifar10 binary": Source(write_cifar10_binary, parts=NO_VAL, encoded=False),
    "cifar100": Source(write_cifar100, parts=NO_VAL, encoded=False),
    "cifar100 binary": Source(write_cifar100_binary, parts=NO_VAL, encoded=False),
    "parquet": Source(write_parquet, parts=ALL_PARTS),
    "hub parquet": Source(write_hub_parquet, parts=ALL_PARTS),
    "save_to_disk": Source(write_saved, parts=ALL_PARTS),
    "webdataset": Source(write_webdataset, parts=ALL_PARTS),
    "imagenet": Source(write_imagenet, parts=NO_VAL),
    "imagenet100": Source(write_imagenet100, parts=NO_VAL),
    "imagenette": Source(write_imagenette, tuple(CATALOG["imagenette"].names[synset] for synset in SYNSETS), NO_VAL),
    "caltech101": Source(write_caltech101),
    "split_zhou": Source(write_common_split, parts=ALL_PARTS),
    "eurosat": Source(write_eurosat, ("Annual Crop Land", "Forest", "Sea or Lake")),
    "dtd": Source(write_dtd, parts=ALL_PARTS),
    "aircraft": Source(write_aircraft, AIRCRAFT, ALL_PARTS),
    "pets": Source(write_pets, ("Abyssinian", "english cocker spaniel", "shiba inu"), NO_VAL),
    "cars": Source(write_cars, CARS_IN_WORDS, NO_VAL),
    "nested cars": Source(write_nested_cars, CARS_IN_WORDS, NO_VAL),
    "sun397": Source(write_sun397, ("abbey", "outdoor apartment building", "badlands"), NO_VAL),
    "food101": Source(write_food101, ("apple pie", "baby back ribs", "waffles"), NO_VAL),
    "flowers102": Source(write_flowers102, FLOWERS, ALL_PARTS),
    "cub200": Source(write_cub200, ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross"), NO_VAL),
}  # fmt: skip
