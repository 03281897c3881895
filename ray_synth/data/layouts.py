"""A known data set as it was released in, a `Listing` with its official split out; nothing is decoded here.

One function per way of lying on a disk; the rows of `ray_synth.catalog` name them and the files that they look at.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.catalog import CATALOG, Known
from ray_synth.config import Data
from ray_synth.data.class_folders import SYSTEM, check_links
from ray_synth.data.decoding import EXTENSIONS
from ray_synth.data.listing import Listing, labels_of, names_by_label, names_of, parts_of, readable, skipped_notes
from ray_synth.errors import InputError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Release:
    """One known data set at one place."""

    kind: str
    root: Path
    known: Known
    class_list: Path | None = None
    attribute: str = ""

    def find(self, *places: str, needed_for: str = "") -> Path:
        """The first of these files or folders that exists."""
        for place in places:
            if (self.root / place).exists():
                return self.root / place
        reason = f" ({needed_for})" if needed_for else ""
        raise InputError(
            f"{self.kind}: {' or '.join(place or '.' for place in places)} not found in {self.root}{reason}; "
            f"data.path must hold {self.known.expects}"
        )

    @cached_property
    def images(self) -> Path:
        return self.find(*self.known.images)


@dataclass(kw_only=True)
class Found:
    """What a layout found: [N] files, class keys and parts; the keys in the order of the labels; words for keys.

    others: names of what lies among the images and is none.
    """

    files: list[Path] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    classes: list[str] | None = None
    names: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, file: Path, key: str, part: str = "") -> None:
        self.files.append(file)
        self.keys.append(key)
        self.parts.append(part)


def list_known(data: Data) -> Listing:
    """The images of a known data set, in the order of their names below `data.path`.

    A file `split_zhou_*.json` in `data.path` (the split of CoOp, which few-shot papers use) wins over the release's
    own split; where there is neither, splits are drawn with the seed.

    Raises:
        InputError: a file of the release that is missing or broken, a label outside the class list, an image that is
            listed twice.
    """
    class_list = Path(data.class_list) if data.class_list is not None else None
    known = CATALOG[data.kind]
    attribute = data.attribute or known.attribute
    release = Release(kind=data.kind, root=data.root, known=known, class_list=class_list, attribute=attribute)
    found = _found(release)
    order = sorted(range(len(found.files)), key=lambda row: str(found.files[row]))
    files = [found.files[row] for row in order]
    keys = [found.keys[row] for row in order]
    parts = [found.parts[row] for row in order]
    names = names_of(files)
    _check_once(release, names, keys, parts)
    classes = found.classes if found.classes is not None else sorted(set(keys))
    labels, _ = labels_of(list(keys), classes, names, data.kind)
    words = [_words(release.known, found.names.get(key, key), key) for key in classes]
    return Listing(
        items=names.tolist(),
        names=names,
        labels=labels,
        class_names=readable(words, classes),
        parts=parts_of(parts, names, data.kind),
        by_name=True,
        class_keys=tuple(classes),
        notes=(*found.notes, *skipped_notes(found.others), *([] if any(parts) else [_no_split(release)])),
    )


def _found(release: Release) -> Found:
    """What the release lists, by the common split where it lies there."""
    try:
        if not release.root.is_dir():
            raise InputError(f"data.path={release.root} is not a folder; {release.kind} needs {release.known.expects}")
        splits = sorted(release.root.glob("split_zhou_*.json"))
        if len(splits) > 1:
            names = " and ".join(split.name for split in splits)
            raise InputError(f"{release.kind}: {names} lie in {release.root}; leave one of them")
        found = _common_split(release, splits[0]) if splits else LAYOUTS[release.known.layout](release)
    except InputError:
        raise
    except Exception as error:  # what files that are folders, damaged, of other types or out of reach make Python raise
        raise InputError(
            f"{release.kind}: the files in {release.root} cannot be read: {type(error).__name__}: {error}; "
            f"data.path must hold {release.known.expects}"
        ) from None
    if not found.files:
        raise InputError(
            f"{release.kind}: no image is listed in {release.root}; data.path must hold {release.known.expects}"
        )
    return found


def _check_once(release: Release, names: np.ndarray, keys: Sequence[str], parts: Sequence[str]) -> None:
    """Raise InputError where an image is listed twice. names: sorted."""
    for row in range(1, len(names)):
        if names[row] == names[row - 1]:
            places = " and ".join(f"{keys[i]!r} {parts[i]}".strip() for i in (row - 1, row))
            raise InputError(
                f"{release.kind}: {names[row]} is listed twice, as {places}; take the lists of one release, or remove "
                "one of the lines"
            )


def _listed(folder: Path, name: str, file: Path) -> Path:
    """An image that a list file names, below the folder of the images; a list from elsewhere may point out of it."""
    if os.path.isabs(name) or ".." in re.split(r"[/\\]", name):
        raise InputError(f"{file} names {name!r}, which may lie outside of {folder}; take the file of the release")
    return folder / name


def _no_split(release: Release) -> str:
    return (
        f"{release.kind} has no official split: a seeded one is drawn; for the usual one lay "
        f"split_zhou_*.json into {release.root}"
    )


def _words(known: Known, name: str, key: str) -> str:
    """The name of a class, which may be its key, as words for a prompt."""
    if known.words == "year last":  # Audi TT RS Coupe 2012: the common split has the year in front
        return re.sub(r"(.+) (\d{4})", r"\2 \1", name)
    if name != key or known.words == "as they are":
        return name
    if key in known.names:
        return known.names[key]
    if known.words == "numbered":  # 001.Black_footed_Albatross
        return key.partition(".")[2].replace("_", " ") or key
    if known.words == "path":  # a/apartment_building/outdoor: what follows qualifies what stands before
        places = key.split("/")
        return " ".join(reversed(places[1:] or places)).replace("_", " ")
    return key.replace("_", " ")


def _common_split(release: Release, file: Path) -> Found:
    """{"train" | "val" | "test": [[path, label, class name], ...]}; paths are below the folder of the images."""
    found = Found(notes=[f"the split is that of {file.name}"])
    bases = [release.root / place for place in release.known.images if (release.root / place).is_dir()]
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        rows = [(part, str(path), int(label), str(name)) for part in content for path, label, name in content[part]]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file} cannot be read: {error}; it must hold train, val and test, each a list of [path, label, class]"
        ) from None
    for part, path, label, _ in rows:
        places = [_listed(base, path, file) for base in [*bases, release.root]]
        found.add(next((place for place in places if place.exists()), places[0]), str(label), part)
    names = names_by_label(((label, name, path) for _, path, label, name in rows), str(file))
    found.classes = [str(label) for label in names]
    found.names = {str(label): name.replace("_", " ") for label, name in names.items()}
    return found


def class_folders(release: Release) -> Found:
    """images/CLASS/*: no official split."""
    known, found = release.known, Found()
    for folder in _folders(release.images):
        if folder.name in known.skip:
            continue
        if folder.name.lower() in SYSTEM or (known.listed_classes and folder.name not in known.names):
            found.notes.append(f"{folder} skipped: {folder.name!r} is no class of {release.kind}")
            continue
        for file in _images(folder, found.others):
            found.add(file, folder.name)
    return found


def split_lists(release: Release) -> Found:
    """One list file per part; a regular expression says what a line means."""
    known = release.known
    found = Found(classes=_class_file(release) if known.classes else None)
    for part, places in known.lists.items():
        file = release.find(*places)
        for match in _matches(file, known.line):
            found.add(_listed(release.images, known.file.format(file=match["file"]), file), match["key"], part)
    return found


def id_tables(release: Release) -> Found:
    """CUB: tables of (image id, file), (image id, class id), (image id, is in train) and (class id, class)."""
    root = release.images
    names = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    tables = {name: _table(release, name) for name in names}
    files, labels, trains, classes = tables.values()
    for name in names[1:3]:
        unpaired = sorted(files.keys() ^ tables[name].keys(), key=int)
        if unpaired:
            raise InputError(
                f"{release.kind}: image {unpaired[0]} stands in one of images.txt and {name} and has no row in the "
                "other; take the files of one release"
            )
    found = Found(classes=[classes[number] for number in sorted(classes, key=int)])
    for number, file in files.items():
        key = classes.get(labels[number], f"class {labels[number]}")
        place = _listed(root / "images", file, root / "images.txt")
        found.add(place, key, "train" if trains[number].strip() == "1" else "test")
    return found


def _table(release: Release, name: str) -> dict[str, str]:
    """A file of lines `ID VALUE`."""
    file = release.find(*(f"{base}/{name}".lstrip("/") for base in release.known.images))
    table: dict[str, str] = {}
    for match in _matches(file, r"(\d+) (.+)"):
        if match[1] in table:
            raise InputError(f"{file} has two rows of {match[1]}; take the file of the release")
        table[match[1]] = match[2]
    return table


def attribute_table(release: Release) -> Found:
    """CelebA: tables of (image, 1 or -1 for each attribute) and (image, part), of spaces or commas; two classes."""
    file = release.find(*_tables_of("list_attr_celeba"), needed_for="the attributes")
    lines = _text(file).splitlines()
    lines = lines[1:] if lines and lines[0].strip().isdecimal() else lines  # how many follow
    names = [name for name in re.split(r"[,\s]+", lines[0].strip()) if name not in ("", "image_id")] if lines else []
    if release.attribute not in names:
        raise InputError(
            f"{release.kind}: no attribute {release.attribute!r} in {file}; {did_you_mean(release.attribute, names)}; "
            "type --set data.attribute=NAME"
        )
    column = 1 + names.index(release.attribute)
    parts = _parts_of_celeba(release)
    words = release.attribute.replace("_", " ").lower()
    found = Found(classes=["-1", "1"], names={"-1": f"not {words}", "1": words})
    for line in filter(str.strip, lines[1:]):
        values = re.split(r"[,\s]+", line.strip())
        if len(values) != 1 + len(names) or values[column] not in ("-1", "1"):
            raise InputError(f"{file} has a line that is not of the form that the release has: {line.strip()[:80]!r}")
        if values[0] not in parts:
            raise InputError(
                f"{release.kind}: image {values[0]} has attributes and no part; take the files of one release"
            )
        found.add(_listed(release.images, values[0], file), values[column], parts[values[0]])
    return found


def _parts_of_celeba(release: Release) -> dict[str, str]:
    file = release.find(*_tables_of("list_eval_partition"), needed_for="the official split")
    names = {"0": "train", "1": "val", "2": "test"}
    rows = [re.split(r"[,\s]+", line.strip()) for line in _text(file).splitlines() if line.strip()]
    rows = rows[1:] if rows and rows[0][0] == "image_id" else rows
    wrong = next((row for row in rows if len(row) != 2 or row[1] not in names), None)
    if wrong is not None:
        raise InputError(f"{file} must hold lines such as '000001.jpg 0' (0 train, 1 val, 2 test), got {wrong!r}")
    return {name: names[part] for name, part in rows}


def _tables_of(name: str) -> list[str]:
    return [f"{folder}{name}.{ending}" for folder in ("", "Anno/", "Eval/") for ending in ("txt", "csv")]


def cars_devkit(release: Release) -> Found:
    """Stanford Cars: MATLAB structs of file names and classes, which count from 1."""
    meta = _mat(release.find("devkit/cars_meta.mat", "cars_meta.mat"), "class_names")
    classes = [str(name) for name in meta]
    found = Found(classes=classes)
    places = {
        "train": ("devkit/cars_train_annos.mat", "cars_train_annos.mat"),
        "test": (
            "cars_test_annos_withlabels.mat",
            "devkit/cars_test_annos_withlabels.mat",
            "cars_test_annos_withlabels (1).mat",
        ),
    }
    for part, files in places.items():
        file = release.find(*files, needed_for="the labels of the test images" if part == "test" else "")
        folder = release.find(f"cars_{part}/cars_{part}", f"cars_{part}")
        for row in _mat(file, "annotations"):
            number = int(row["class"])
            key = classes[number - 1] if 1 <= number <= len(classes) else f"class {number}"
            found.add(_listed(folder, str(row["fname"]), file), key, part)
    return found


def flowers_mat(release: Release) -> Found:
    """Flowers102: labels by image number, and the numbers of each part (trnid, valid, tstid); all count from 1."""
    labels = _mat(release.find("imagelabels.mat"), "labels")
    setid = release.find("setid.mat")
    found = Found(classes=sorted({str(int(label)) for label in labels}, key=int))
    words = release.root / "cat_to_name.json"
    if words.is_file():
        found.names = {str(key): str(name) for key, name in _json_object(words).items()}
    for part, name in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        for number in _mat(setid, name):
            if not 1 <= int(number) <= len(labels):
                raise InputError(f"{setid}: {name} holds image {int(number)}, imagelabels.mat has {len(labels)} labels")
            found.add(release.images / f"image_{int(number):05d}.jpg", str(int(labels[int(number) - 1])), part)
    return found


def synsets(release: Release) -> Found:
    """ImageNet and its parts: train/SYNSET/*; val/SYNSET/* or val/* with LOC_val_solution.csv. val is the test set."""
    base = next((p for p in map(release.root.joinpath, release.known.images) if (p / "train").is_dir()), release.root)
    folders = {each.name: each for each in _folders(base / "train")} if (base / "train").is_dir() else {}
    folders = {name: folder for name, folder in folders.items() if name.lower() not in SYSTEM}
    if not folders:
        raise InputError(f"{release.kind}: no train/SYNSET in {base}; data.path must hold {release.known.expects}")
    wanted = _wanted_synsets(release)
    classes = sorted(folders) if wanted is None else wanted
    lacking = [synset for synset in classes if synset not in folders]
    if lacking:
        raise InputError(f"{release.kind}: no folder {base}/train/{lacking[0]}, which the class list names")
    found = Found(classes=classes, names=_synset_names(release, classes))
    for synset in classes:
        for file in _images(folders[synset], found.others):
            found.add(file, synset, "train")
    kept = None if wanted is None else set(wanted)
    for file, synset in _validation(release, base / "val", found.others):
        if kept is None or synset in kept:
            found.add(file, synset, "test")
    return found


def _wanted_synsets(release: Release) -> list[str] | None:
    """The synsets to keep, sorted; None for all. The list may hold more words behind each."""
    file = release.class_list
    if file is None and release.known.listed_classes:
        file = release.find(*release.known.classes, needed_for="its synsets, one a line; or type "
                            "--set data.class_list=FILE")  # fmt: skip
    if file is None:
        return None
    wanted = sorted({match[1] for match in _matches(file, r"(n\d{8})\b.*")})
    if not wanted:
        raise InputError(f"{file} names no synset; it must hold one a line, such as n01440764, or be left out")
    return wanted


def _synset_names(release: Release, synsets: Sequence[str]) -> dict[str, str]:
    """Words for synsets: `n01440764 tench` of classnames.txt, else our own, else the mapping's first name."""
    own = release.root / "classnames.txt"
    if own.is_file():
        source, names = own, _names_in(own, r"(\S+)\s+(.+)")
    else:
        source, names = release.root / "LOC_synset_mapping.txt", dict(release.known.names)
        if not all(synset in names for synset in synsets):
            source = release.find(source.name, needed_for="the names of the classes")
            names = {**_names_in(source, r"(\S+)\s+([^,]+).*"), **names}
    lacking = [synset for synset in synsets if synset not in names]
    if lacking:
        raise InputError(f"{source} has no name for {lacking[0]}; add the line '{lacking[0]} NAME'")
    return names


def _names_in(file: Path, pattern: str) -> dict[str, str]:
    return {match[1]: match[2].strip() for match in _matches(file, pattern)}


def _validation(release: Release, folder: Path, others: list[str]) -> Iterator[tuple[Path, str]]:
    if not folder.is_dir():
        raise InputError(f"{release.kind}: no folder {folder}; data.path must hold {release.known.expects}")
    folders = [each for each in _folders(folder) if each.name.lower() not in SYSTEM]
    if folders:
        for each in folders:
            yield from ((file, each.name) for file in _images(each, others))
        return
    solution = release.find("LOC_val_solution.csv", needed_for=f"the labels of the images in {folder}")
    rows = csv.DictReader(_text(solution).splitlines())
    lacking = {"ImageId", "PredictionString"} - set(rows.fieldnames or ())
    if lacking:
        raise InputError(
            f"{solution} has no column {min(lacking)}; its first line must be ImageId,PredictionString, as in the "
            "release"
        )
    for row in rows:
        synset = (row["PredictionString"] or "").split(" ")[0]
        yield _listed(folder, f"{row['ImageId']}.JPEG", solution), synset


def _class_file(release: Release) -> list[str]:
    matches = _matches(release.find(*release.known.classes), release.known.class_line)
    classes = [match["key"].strip() for match in matches]
    repeated = [key for key, count in Counter(classes).items() if count > 1]
    if repeated:
        raise InputError(
            f"{release.kind}: class {repeated[0]!r} stands twice in its class list; take the release's own"
        )
    return classes


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text: {error}") from None


def _matches(file: Path, pattern: str) -> Iterator[re.Match[str]]:
    """The lines of a text file that are not empty and no comment, each as a match; one that does not fit is refused."""
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(pattern, line.strip())
        if match is None:
            raise InputError(f"{file}, line {number} is not of the form that the release has: {line.strip()[:80]!r}")
        yield match


def _mat(file: Path, name: str) -> Any:
    """A variable of a MATLAB file as one flat sequence."""
    from scipy.io import loadmat

    try:
        content = loadmat(file, squeeze_me=True)[name]
    except KeyError:
        raise InputError(f"{file} has no variable {name!r}; take the file of the release") from None
    except Exception as error:  # SciPy raises what the damaged bytes lead it to
        raise InputError(f"{file} cannot be read as a MATLAB file: {type(error).__name__}: {error}") from None
    return np.atleast_1d(content)


def _json_object(file: Path) -> dict[str, Any]:
    text = _text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold an object, got {type(content).__name__}")
    return content


def _folders(root: Path) -> Sequence[Path]:
    visible = sorted(p for p in root.iterdir() if not p.name.startswith("."))
    check_links(root, [p for p in visible if p.is_symlink() and not p.exists()])
    return [p for p in visible if p.is_dir()]


def _images(folder: Path, others: list[str]) -> Sequence[Path]:
    """The images of a folder; names of what else lies there are added to `others`, of folders with a slash."""
    endings = tuple(EXTENSIONS)  # plain strings: ImageNet has 1.3 million of them
    visible = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    rest = [name for name in visible if not name.lower().endswith(endings)]
    others += [name + "/" if os.path.isdir(folder / name) else name for name in rest]
    return [folder / name for name in visible if name.lower().endswith(endings)]


LAYOUTS = {
    layout.__name__: layout
    for layout in (class_folders, split_lists, id_tables, attribute_table, cars_devkit, flowers_mat, synsets)
}
