"""Parquet files, WebDataset shards or a saved Hugging Face data set in, a `Listing` of encoded images out.

Rows stand in the order of their files and of their place in these, samples of a shard in that of their names.
"""

from __future__ import annotations

import itertools
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.data.decoding import EXTENSIONS
from ray_synth.data.listing import PARTS, Listing, labels_of, names_by_label, names_of, parts_of
from ray_synth.errors import InputError

Row = dict[str, Any]
KNOWN = ("image", "label", "class_name", "split", "rejected")  # columns
COLUMNS = (
    "image (encoded bytes, or bytes and path as Hugging Face writes them) and label (an integer or a name); "
    "and, where known, class_name and split"
)
MEMBERS = "KEY.png|jpg|jpeg|webp beside KEY.cls (the label) or KEY.json (label, and class_name or split where known)"
ALLOWED = {extension[1:] for extension in EXTENSIONS} | {"cls", "json", "txt", "text"}  # captions are not read


def list_parquet(root: Path) -> Listing:
    """One parquet file, or every *.parquet below a folder; columns as COLUMNS says. Chunks of a run read too.

    Raises:
        InputError: no file, a broken one (by name), a missing column, a row without an image, a label that is not in
            the class list.
    """
    files = _files(root, "parquet", f"it must hold *.parquet with columns {COLUMNS}")
    columns, class_names = _parquet_schema(files)
    return _listing([row for file in files for row in _parquet_rows(file, columns, root)], class_names, str(root))


def list_webdataset(root: Path) -> Listing:
    """One tar shard, or every *.tar below a folder; members as MEMBERS says. A member that runs code is refused.

    Raises:
        InputError: no shard, a broken one, a member of another kind (by shard and name), a sample without image or
            label.
    """
    files = _files(root, "tar", f"it must hold *.tar with {MEMBERS}")
    samples = [
        _sample(f"{file}#{key}", fields, _part_in(file, root))
        for file in files
        for key, fields in sorted(_shard_samples(file).items())
    ]
    return _listing(samples, None, str(root))


def list_huggingface(root: Path) -> Listing:
    """A folder of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, or a local copy of a parquet repository.

    Raises:
        InputError: neither of them, or the package `datasets` is missing.
    """
    saved = [folder for folder in (root, *sorted(root.glob("*/"))) if (folder / "state.json").is_file()]
    if not saved:
        if root.is_dir() and any(root.rglob("*.parquet")):
            return list_parquet(root)
        raise InputError(
            f"no Hugging Face data set in {root}; expected what save_to_disk wrote, or a repository's *.parquet"
        )
    rows, named = list[Row](), list[tuple[Path, list[str] | None]]()
    for folder in saved:
        found, names = _saved_rows(folder)
        named.append((folder, names))
        part = folder.name if folder != root else ""
        rows += [
            {**row, "split": row.get("split") or part, "name": f"{folder}#row {number}"}
            for number, row in enumerate(found)
        ]
    return _listing(rows, _agreed(named), str(root))


def _agreed(named: Iterable[tuple[Path, list[str] | None]]) -> list[str] | None:
    """The class names of several files, None where none has any. Labels index them, so they must be the same."""
    having = [(file, names) for file, names in named if names is not None]
    for file, names in having[1:]:
        first, expected = having[0]
        if names != expected:
            differing = [pair for pair in itertools.zip_longest(expected, names) if pair[0] != pair[1]]
            raise InputError(
                f"{first} and {file} have different class lists, such as {differing[0][0]!r} in place of "
                f"{differing[0][1]!r}; write them with one list of classes"
            )
    return having[0][1] if having else None


def _saved_rows(folder: Path) -> tuple[list[Row], list[str] | None]:
    """Rows of one saved data set, images still encoded, and its class names."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            "data.kind: huggingface needs the package datasets; type pip install 'ray_synth[huggingface]'"
        ) from None
    import pyarrow as pa

    from ray_synth.data.parquet import extension_type

    try:
        for file in folder.glob("*.arrow"):
            with pa.OSFile(str(file)) as stream:
                message = pa.ipc.MessageReader.open_stream(stream).read_next_message()
                _refuse_code(file, extension_type(message.metadata.to_pybytes()))
        loaded = datasets.load_from_disk(str(folder))
    except InputError:
        raise
    except Exception as error:  # whatever a damaged Arrow file or its JSON makes datasets and pyarrow raise
        raise InputError(f"the data set in {folder} cannot be read: {type(error).__name__}: {error}") from None
    missing = [name for name in ("image", "label") if name not in loaded.column_names]
    if missing:
        raise InputError(f"{folder} has no column {missing[0]!r}, it has {loaded.column_names}; it needs {COLUMNS}")
    names = getattr(loaded.features["label"], "names", None)
    if isinstance(loaded.features["image"], datasets.Image):
        loaded = loaded.cast_column("image", datasets.Image(decode=False))
    known = [name for name in KNOWN if name in loaded.column_names]
    return loaded.select_columns(known).with_format("arrow")[:].to_pylist(), names


def _files(root: Path, extension: str, holds: str) -> list[Path]:
    if root.is_file():
        return [root]
    found = (p for p in root.rglob(f"*.{extension}") if p.is_file() and not p.name.startswith((".", "_")))
    files = sorted(found, key=str)
    if not files:
        reason = f"holds no *.{extension} file" if root.is_dir() else "is not there"
        raise InputError(f"{root} {reason}; {holds}")
    return files


def _parquet_schema(files: Sequence[Path]) -> tuple[list[str], list[str] | None]:
    """The columns to read, and the class names that Hugging Face keeps beside them. Every footer is looked at."""
    import pyarrow.parquet as pq

    from ray_synth.data.parquet import extension_in

    shared, named = list[str](), list[tuple[Path, list[str] | None]]()
    for file in files:
        try:
            with file.open("rb") as stream:
                _refuse_code(file, extension_in(stream))
            schema = pq.read_metadata(file).schema.to_arrow_schema()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{file} cannot be read: {error}; copy it again or remove it") from None
        for name in ("image", "label"):
            if name not in schema.names:
                raise InputError(f"{file} has no column {name!r}, it has {schema.names}; it needs {COLUMNS}")
        found = [name for name in KNOWN if name in schema.names]
        if shared and found != shared:
            raise InputError(f"{file} has the columns {found}, {files[0]} has {shared}; make them the same")
        named.append((file, _names_in(schema)))
        shared = found
    return shared, _agreed(named)


def _refuse_code(file: Path, extension: str | None) -> None:
    """Raise InputError where the schema of a file names an extension type."""
    if extension is not None:
        raise InputError(
            f"{file} is refused: it has a column of the type {extension}, which may run code when it is read; "
            f"write it without that column; it needs {COLUMNS}"
        )


def _names_in(schema: Any) -> list[str] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _parquet_rows(file: Path, columns: list[str], root: Path) -> list[Row]:
    """Rows of one file, each with its name; the split is that of the file where the row has none."""
    import pyarrow.parquet as pq

    rows = list[Row]()
    try:
        for batch in pq.ParquetFile(file).iter_batches(columns=columns):
            rows += batch.to_pylist()
    except Exception as error:
        raise InputError(f"{file} cannot be read: {error}; copy it again or remove it") from None
    part = _part_in(file, root)
    return [
        {**row, "split": row.get("split") or part, "name": f"{file}#row {number}"} for number, row in enumerate(rows)
    ]


def _part_in(file: Path, root: Path) -> str:
    """The split that stands as a word in the name of a file (imagenet1k-train-0000.tar), or of its folders, or none."""
    place, root = file.absolute(), root.absolute()
    inside = place.relative_to(root).parts if place.is_relative_to(root) else (place.name,)
    for name in reversed(inside):
        for word in re.split(r"[-_.0-9]+", name.lower()):
            if word in PARTS:
                return word
    return ""


def _shard_samples(file: Path) -> dict[str, dict[str, bytes]]:
    """What a shard holds, by the name of a sample and then by extension, in lower case.

    Every header is read first, so that a torn shard is found, and what is no image or label is refused.
    """
    samples = dict[str, dict[str, bytes]]()
    try:
        size = file.stat().st_size
        with tarfile.open(file, mode="r:*") as tar:
            members = [member for member in tar if member.isreg()]
            ends = [member.offset_data + member.size for member in members]
            if file.suffix == ".tar" and ends and max(ends) > size:
                raise tarfile.ReadError(f"member {members[int(np.argmax(ends))].name} is cut off")
            for member in members:
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if suffix.lower() not in ALLOWED or not stem:
                    raise InputError(f"{file}: member {member.name} is refused; a shard may hold {MEMBERS}")
                fields = samples.setdefault(folder + slash + stem, {})
                if suffix.lower() in fields:
                    raise InputError(f"{file} has two members {member.name}, whatever their case; remove one of them")
                content = tar.extractfile(member)
                fields[suffix.lower()] = content.read() if content else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{file} cannot be read as a tar file: {error}; copy it again or remove it") from None
    if not samples:
        raise InputError(f"{file} holds no member; it must hold {MEMBERS}")
    return samples


def _sample(name: str, fields: Mapping[str, bytes], part: str) -> Row:
    """One WebDataset sample as a row: image, label, class_name, split; that of its shard where it has none."""
    images = [fields[extension[1:]] for extension in sorted(EXTENSIONS) if extension[1:] in fields]
    if len(images) != 1:
        raise InputError(f"{name} has {len(images)} images; a sample is {MEMBERS}")
    described: Any = {}
    if "json" in fields:
        try:
            described = json.loads(fields["json"])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}.json cannot be read: {error}; repair or remove it") from None
    if not isinstance(described, dict):
        raise InputError(f"{name}.json must hold an object, got {type(described).__name__}")
    text = fields["cls"].decode("utf-8", "replace").strip() if "cls" in fields else None
    label = (int(text) if re.fullmatch(r"-?\d+", text) else text) if text is not None else described.get("label")
    return {
        "image": images[0],
        "label": described.get("class_name") if label is None else label,
        "class_name": described.get("class_name"),
        "split": described.get("split") or part,
        "name": name,
    }


def _listing(rows: Sequence[Row], class_names: Sequence[str] | None, where: str) -> Listing:
    """Rows with image, label, name and perhaps class_name, split and rejected, as a listing."""
    kept = [row for row in rows if not row.get("rejected")]
    if not kept:
        raise InputError(f"{where} holds no image")
    names = names_of(row["name"] for row in kept)
    items = [_encoded(row["image"], row["name"]) for row in kept]
    labels = [_label(row["label"], row["name"]) for row in kept]
    if class_names is None and _all_named(kept, where):
        named = ((label, str(row["class_name"]), row["name"]) for label, row in zip(labels, kept, strict=True))
        class_names = list(names_by_label(named, where).values())
        labels = [str(row["class_name"]) for row in kept]
    indices, known = labels_of(labels, class_names, names, where)
    parts = parts_of([str(row.get("split") or "") for row in kept], names, where)
    rejected = len(rows) - len(kept)
    notes = [f"{rejected} row(s) left out: rejected when they were generated"] if rejected else []
    if parts is None:
        notes.append(f"no official split found in {where}: a seeded one is drawn")
    return Listing(items=items, names=names, labels=indices, class_names=known, parts=parts, notes=tuple(notes))


def _all_named(rows: Sequence[Row], where: str) -> bool:
    """Whether rows have a class_name; some with and some without would leave classes without one."""
    lacking = [row for row in rows if not row.get("class_name")]
    if lacking and len(lacking) < len(rows):
        raise InputError(
            f"{where}: {lacking[0]['name']} has no class_name and other images have one; name one for each image, or "
            "none at all"
        )
    return not lacking


def _encoded(image: Any, name: str) -> bytes:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes) or not content:
        where = f"; it points to the file {image['path']}" if isinstance(image, dict) and image.get("path") else ""
        raise InputError(
            f"{name} holds no encoded image, got {type(image).__name__}{where}; write the bytes themselves"
        )
    return content


def _label(label: Any, name: str) -> int | str:
    if isinstance(label, bool) or not isinstance(label, int | np.integer | str):
        raise InputError(f"{name}: the label must be an integer or a name, got {label!r}")
    return label if isinstance(label, str) else int(label)
