"""Parquet files, WebDataset shards or a saved Hugging Face data set in, a `Listing` of encoded images out.

Rows stand in the order of their files and of their place in these, samples of a shard in that of their names.
"""

from __future__ import annotations

import io
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

from ray_synth.config import Columns
from ray_synth.data.columns import columns_note, columns_of
from ray_synth.data.decoding import EXTENSIONS
from ray_synth.data.listing import PARTS, Listing, labels_of, names_by_label, names_of, parts_of
from ray_synth.data.opening import Member
from ray_synth.errors import InputError

Row = dict[str, Any]
ANY = Columns()
ENDINGS = {"parquet": (".parquet", ".pq", ".parq"), "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")}
COLUMNS = (
    "image (encoded bytes, or bytes and path as Hugging Face writes them) and label (an integer or a name); "
    "and, where known, class_name and split"
)
MEMBERS = "KEY.png|jpg|jpeg|webp beside KEY.cls (the label) or KEY.json (label, and class_name or split where known)"
ALLOWED = {extension[1:] for extension in EXTENSIONS} | {"cls", "json", "txt", "text"}  # captions are not read


def list_parquet(root: Path, asked: Columns = ANY) -> Listing:
    """One parquet file, or every *.parquet or *.pq below a folder; columns as COLUMNS says. Chunks of a run read too.

    asked: what columns are called, where they have other names.

    Raises:
        InputError: no file, a broken one (by name), a missing column, a row without an image, a label that is not in
            the class list.
    """
    files = _files(root, "parquet", f"it must hold *.parquet with columns {COLUMNS}")
    columns, class_names, notes = _parquet_schema(files, asked)
    parts = _parts_in(files, root)
    rows = [row for file in files for row in _parquet_rows(file, columns, parts[file])]
    return _listing(rows, class_names, str(root), [*notes, *_parts_notes(parts, root, rows)])


def list_webdataset(root: Path, asked: Columns = ANY) -> Listing:
    """One tar shard, or every *.tar below a folder; members as MEMBERS says. A member that runs code is refused.

    Raises:
        InputError: no shard, a broken one, a member of another kind (by shard and name), a sample without image or
            label.
    """
    files = _files(root, "tar", f"it must hold *.tar with {MEMBERS}")
    parts, samples = _parts_in(files, root), list[Row]()
    for file in files:
        found = sorted(_shard_samples(file).items())
        _check_whole(file, found)
        samples += [_sample(f"{file}#{key}", fields, parts[file], asked) for key, fields in found]
    return _listing(samples, None, str(root), _parts_notes(parts, root, samples))


def list_huggingface(root: Path, asked: Columns = ANY) -> Listing:
    """A folder of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, or a local copy of a parquet repository.

    Raises:
        InputError: neither of them, or the package `datasets` is missing.
    """
    saved = [folder for folder in (root, *sorted(root.glob("*/"))) if (folder / "state.json").is_file()]
    if not saved:
        if _shards(root, "parquet"):
            return list_parquet(root, asked)
        raise InputError(
            f"no Hugging Face data set in {root}; expected what save_to_disk wrote, or a repository's *.parquet"
        )
    rows, named, notes = list[Row](), list[tuple[Path, list[str] | None]](), list[str]()
    for folder in saved:
        found, names, notes = _saved_rows(folder, asked)
        named.append((folder, names))
        part = folder.name if folder != root else ""
        rows += [
            {**row, "split": row.get("split") or part, "name": f"{folder}#row {number}"}
            for number, row in enumerate(found)
        ]
    return _listing(rows, _agreed(named), str(root), notes)


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


def _saved_rows(folder: Path, asked: Columns) -> tuple[list[Row], list[str] | None, list[str]]:
    """Rows of one saved data set, images still encoded, its class names, and what its columns were taken for."""
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
    typed = _typed({name: type(feature).__name__ for name, feature in loaded.features.items()})
    columns = columns_of(loaded.column_names, asked, str(folder), COLUMNS, typed=typed)
    names = getattr(loaded.features[columns["label"]], "names", None)
    if isinstance(loaded.features[columns["image"]], datasets.Image):
        loaded = loaded.cast_column(columns["image"], datasets.Image(decode=False))
    notes = columns_note(columns, loaded.column_names)
    columns |= {"rejected": "rejected"} if "rejected" in loaded.column_names else {}
    table = loaded.select_columns(list(dict.fromkeys(columns.values()))).with_format("arrow")[:]
    return _renamed(table.to_pylist(), columns), names, notes


def _typed(types: Mapping[str, str]) -> dict[str, str]:
    """Role -> column, of the only one that Hugging Face's features call an image, or a class."""
    roles = {"Image": "image", "ClassLabel": "label"}
    of_kind = {role: [name for name, kind in types.items() if roles.get(kind) == role] for role in roles.values()}
    return {role: names[0] for role, names in of_kind.items() if len(names) == 1}


def _renamed(rows: list[Row], columns: Mapping[str, str]) -> list[Row]:
    return [{role: row[name] for role, name in columns.items()} for row in rows]


def _files(root: Path, extension: str, holds: str) -> list[Path]:
    if root.is_file():
        return [root]
    files = _shards(root, extension)
    if not files:
        reason = f"holds no *.{extension} file" if root.is_dir() else "is not there"
        raise InputError(f"{root} {reason}; {holds}")
    return files


def _shards(root: Path, extension: str) -> list[Path]:
    found = (p for p in (root, *root.rglob("*")) if p.name.lower().endswith(ENDINGS[extension]))
    return sorted((p for p in found if p.is_file() and not p.name.startswith((".", "_"))), key=str)


def _parquet_schema(files: Sequence[Path], asked: Columns) -> tuple[dict[str, str], list[str] | None, list[str]]:
    """The columns to read by their roles, the class names that Hugging Face keeps beside them, and notes. Every footer
    is looked at."""
    import pyarrow.parquet as pq

    from ray_synth.data.parquet import extension_in

    shared, named, notes = dict[str, str](), list[tuple[Path, list[str] | None]](), list[str]()
    for file in files:
        try:
            with file.open("rb") as opened:  # a name is read as a pattern or an address where it looks like one
                _refuse_code(file, extension_in(opened))
                schema = pq.read_metadata(opened).schema.to_arrow_schema()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{file} cannot be read: {error}; copy it again or remove it") from None
        features = _features_in(schema)
        types = {name: str(feature.get("_type")) for name, feature in features.items() if isinstance(feature, dict)}
        found = columns_of(schema.names, asked, str(file), COLUMNS, typed=_typed(types))
        notes = columns_note(found, schema.names)
        found |= {"rejected": "rejected"} if "rejected" in schema.names else {}
        if shared and found != shared:
            raise InputError(
                f"{file} has the columns {list(found.values())}, {files[0]} has {list(shared.values())}; make them "
                "the same"
            )
        named.append((file, _names_in(features.get(found["label"]))))
        shared = found
    return shared, _agreed(named), notes


def _refuse_code(file: Path, extension: str | None) -> None:
    """Raise InputError where the schema of a file names an extension type."""
    if extension is not None:
        raise InputError(
            f"{file} is refused: it has a column of the type {extension}, which may run code when it is read; "
            f"write it without that column; it needs {COLUMNS}"
        )


def _features_in(schema: Any) -> dict[str, Any]:
    """What Hugging Face says of the columns, by name."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _names_in(feature: Any) -> list[str] | None:
    try:
        return [str(name) for name in feature["names"]]
    except (KeyError, TypeError):
        return None


def _parquet_rows(file: Path, columns: Mapping[str, str], part: str) -> list[Row]:
    """Rows of one file, each with its name; the split is that of the file where the row has none."""
    import pyarrow.parquet as pq

    rows = list[Row]()
    try:
        with file.open("rb") as opened:
            for batch in pq.ParquetFile(opened).iter_batches(columns=list(dict.fromkeys(columns.values()))):
                rows += _renamed(batch.to_pylist(), columns)
    except Exception as error:
        raise InputError(f"{file} cannot be read: {error}; copy it again or remove it") from None
    return [
        {**row, "split": row.get("split") or part, "name": f"{file}#row {number}"} for number, row in enumerate(rows)
    ]


def _parts_in(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """The split that stands as a word in the name of each file (imagenet1k-train-0000.tar), or of its folders, or none.

    Without a file of training images such words are other words: flowers-dev-kit.parquet is no validation set.
    """
    words = {file: _word_in(file, root) for file in files}
    return words if any(PARTS.get(word) == "train" for word in words.values()) else dict.fromkeys(files, "")


def _word_in(file: Path, root: Path) -> str:
    """The first or last word of a name counts before those in its middle; the name of the file before its folders'."""
    place, root = file.absolute(), root.absolute()
    inside = place.relative_to(root).parts if place.is_relative_to(root) else (place.name,)
    for name in reversed(inside):
        letters = (
            name.lower().partition(".tar")[0] if name.lower().endswith(ENDINGS["tar"]) else Path(name.lower()).stem
        )
        words = [word for word in re.split(r"[\W\d_]+", letters) if word]
        for word in (*words[-1:], *words[:1], *reversed(words)):
            if word in PARTS:
                return word
    return ""


def _parts_notes(parts: Mapping[Path, str], root: Path, rows: Sequence[Row]) -> list[str]:
    """Which word in a name made a file what, or would have; nothing where each row says its split itself."""
    seen = {word: [file for file in parts if _word_in(file, root) == word] for word in PARTS}
    seen = {word: files for word, files in seen.items() if files}
    used = any(parts.values())
    if not seen or (used and not any(row.get("split") in PARTS for row in rows)):
        return []
    said = ", ".join(
        f"{word!r} in {files[0].relative_to(root)}" + (f" and {len(files) - 1} more" if files[1:] else "")
        for word, files in seen.items()
    )
    if used:
        return [f"splits by words in names of files: {said}"]
    return [f"no split by words in names of files: {said}, and no file of training images beside it"]


def _shard_samples(file: Path) -> dict[str, dict[str, bytes | Member]]:
    """What a shard holds, by the name of a sample and then by extension, in lower case. Images of a shard that is not
    compressed stay where they are.

    Every header is read first, so that a torn shard is found, and what is no image or label is refused.
    """
    samples = dict[str, dict[str, bytes | Member]]()
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
                fields[suffix.lower()] = _content(file, tar, member, is_image=f".{suffix.lower()}" in EXTENSIONS)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{file} cannot be read as a tar file: {reason}; copy it again or remove it") from None
    if not samples:
        raise InputError(f"{file} holds no member; it must hold {MEMBERS}")
    return samples


def _content(file: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, *, is_image: bool) -> bytes | Member:
    if is_image and isinstance(tar.fileobj, io.BufferedReader) and member.size and not member.issparse():
        return Member(str(file.absolute()), member.offset_data, member.size)
    content = tar.extractfile(member)
    return content.read() if content else b""


def _check_whole(file: Path, samples: Sequence[tuple[str, Mapping[str, bytes | Member]]]) -> None:
    """Raise InputError for images without a label and labels without an image, all of them in one sentence."""
    images = {extension[1:] for extension in EXTENSIONS}
    bare = [key for key, fields in samples if not {"cls", "json"} & set(fields)]
    lost = [key for key, fields in samples if not images & set(fields)]
    if len(bare) + len(lost) > 1:
        said = [f"{len(bare)} without a label, such as {bare[0]}"] if bare else []
        said += [f"{len(lost)} without an image, such as {lost[0]}"] if lost else []
        raise InputError(
            f"{file}: of {len(samples)} samples {' and '.join(said)}; the members of a sample have one name and lie in "
            f"one folder: {MEMBERS}"
        )


def _sample(name: str, fields: Mapping[str, Any], part: str, asked: Columns) -> Row:
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
    text = None if asked.label is not None else text
    label = (
        (int(text) if re.fullmatch(r"-?\d+", text) else text)
        if text is not None
        else described.get(asked.label or "label")
    )
    class_name = described.get(asked.class_name or "class_name")
    return {
        "image": images[0],
        "label": class_name if label is None else label,
        "class_name": class_name,
        "split": described.get(asked.split or "split") or part,
        "name": name,
    }


def _listing(rows: Sequence[Row], class_names: Sequence[str] | None, where: str, said: Sequence[str] = ()) -> Listing:
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
    notes = [*said, *([f"{rejected} row(s) left out: rejected when they were generated"] if rejected else [])]
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


def _encoded(image: Any, name: str) -> bytes | Member:
    content = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(content, Member):
        return content
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
