"""Finished chunks in, files that other programs read out: class folders, WebDataset shards, or a Hugging Face dataset.

Every image says in itself that it was generated, how and by what (`ray_synth.sampling.provenance`); its pixels are
those of the chunk to the last bit.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_synth.generator.folder import folder_name
from ray_synth.runs import RunFolder
from ray_synth.sampling.card import About, dataset_card, dataset_features
from ray_synth.sampling.chunks import SCORES, Chunk, Plan, Row, read_rows
from ray_synth.sampling.provenance import STANDARD, marked, packet

SHARD_BYTES = 128 * 2**20
ORIGIN = ("prompt", "negative_prompt", "seed", "parent_key", "model_id", "model_revision", "model_license")
PROVENANCE = (*ORIGIN, *SCORES)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What is exported: the kept images of a plan. extension: of their files."""

    folder: RunFolder
    plan: Plan
    class_names: Sequence[str]
    extension: str
    about: About

    def rows(self) -> Iterator[tuple[Chunk, int, list[Row]]]:
        """Chunk by chunk, with its class: the key, the marked image and where it comes from."""
        for chunk, rows in read_rows(self.folder, self.plan, ["image", *PROVENANCE]):
            yield chunk, self.plan.place(chunk.label)[1], [row | {"image": _marked(row)} for row in rows]

    def generator(self, chunk: Chunk) -> str:
        """The name of one of several generators; empty where there is one."""
        return self.plan.generators[self.plan.place(chunk.label)[0]] if self.plan.generators else ""


File = tuple[str, bytes, int]  # its name, what it holds, images in it


def export_images(images: Exported, kind: str, *, progress: Callable[[int], None] = lambda images: None) -> str:
    """Write the kept images to `export/KIND` and return that name; an export of other images is moved aside.

    folder: `class_name/key.EXTENSION`, with characters that no file name may hold written as %XX; of several
    generators one such folder each, by their names. webdataset: shards with, for each key, the image, .cls (the label)
    and .json (where it comes from). huggingface: a folder that `datasets.load_dataset` opens: parquet with features, a
    configuration a generator, and a card, which is written anew each time, for it holds the run's figures.
    """
    folder, plan, place = images.folder, images.plan, f"export/{kind}"
    wanted = {
        "images": plan.chunk_digest,
        "images_per_class": list(plan.images_per_class),
        "classes": list(images.class_names),
        "marked": STANDARD,
    }
    before = folder.read_json(f"{place}.json") if folder.exists(f"{place}.json") else {}
    if before != {**wanted, "complete": True}:
        if {**before, "complete": False} != {**wanted, "complete": False}:
            folder.set_aside([f"{place}.json", place], "export")
        folder.write_json(f"{place}.json", {**wanted, "complete": False})
        done = 0
        for name, data, count in EXPORTS[kind](images):
            if not (kind == "folder" and folder.exists(f"{place}/{name}")):  # an export that was cut off
                folder.write(f"{place}/{name}", data)
            done += count
            progress(done)
    if kind == "huggingface":
        folder.write(f"{place}/README.md", _card(images).encode())
    folder.write_json(f"{place}.json", {**wanted, "complete": True})
    progress(sum(plan.images_per_class))
    return place


def _marked(row: Row) -> bytes:
    xmp = packet(
        key=row["key"],
        model=row["model_id"] or "",
        revision=row["model_revision"] or "",
        prompt=row["prompt"] or "",
        negative_prompt=row["negative_prompt"] or "",
    )
    return marked(row["image"], xmp)


def _origin(row: Row, class_name: str) -> dict[str, Any]:
    return {"class_name": class_name, **{name: row[name] for name in PROVENANCE}}


def _files(images: Exported) -> Iterator[File]:
    for chunk, label, rows in images.rows():
        name = images.generator(chunk)
        place = f"{f'{name}/' if name else ''}{folder_name(images.class_names[label])}"
        for row in rows:
            yield f"{place}/{row['key']}.{images.extension}", row["image"], 1


def _shards(images: Exported) -> Iterator[File]:
    number, samples, size = 0, list[tuple[str, bytes]](), 0
    for _, label, rows in images.rows():
        for row in rows:
            origin = _origin(row, images.class_names[label])
            samples += [
                (f"{row['key']}.{images.extension}", row["image"]),
                (f"{row['key']}.cls", str(label).encode()),
                (f"{row['key']}.json", json.dumps(origin, ensure_ascii=False).encode()),
            ]
            size += len(row["image"])
        if size >= SHARD_BYTES:
            yield f"{number:06d}.tar", _tar(samples), len(samples) // 3
            number, samples, size = number + 1, [], 0
    if samples:
        yield f"{number:06d}.tar", _tar(samples), len(samples) // 3


def _tar(files: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _tables(images: Exported) -> Iterator[File]:
    """Parquet shards of each generator."""
    number, rows, size, of = 0, list[Row](), 0, ""
    for chunk, label, more in images.rows():
        name = images.generator(chunk)
        if rows and (size >= SHARD_BYTES or name != of):
            yield f"{_data(of)}/train-{number:05d}.parquet", _table(rows, images.class_names), len(rows)
            number, rows, size = number + 1 if name == of else 0, [], 0
        of = name
        for row in more:
            file = {"bytes": row["image"], "path": f"{row['key']}.{images.extension}"}
            rows.append({"image": file, "label": label, "key": row["key"], **{part: row[part] for part in PROVENANCE}})
            size += len(row["image"])
    if rows:
        yield f"{_data(of)}/train-{number:05d}.parquet", _table(rows, images.class_names), len(rows)


def _data(generator: str) -> str:
    return f"data/{folder_name(generator)}" if generator else "data"


def _table(rows: Sequence[Row], class_names: Sequence[str]) -> bytes:
    """With the features in the schema's metadata, where `datasets` looks for them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, features = dataset_features(class_names)
    schema = pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer)
    return buffer.getvalue()


def _card(images: Exported) -> str:
    plan = images.plan
    counts = [plan.images_per_class[start : start + plan.num_classes] for start in
              range(0, len(plan.images_per_class), plan.num_classes)]  # fmt: skip
    configs = [
        (name or "default", f"{_data(name)}/train-*.parquet", count)
        for name, count in zip(plan.generators or ("",), counts, strict=True)
    ]
    return dataset_card(images.about, configs, images.class_names)


EXPORTS: Mapping[str, Callable[[Exported], Iterator[File]]] = {
    "folder": _files,
    "webdataset": _shards,
    "huggingface": _tables,
}
