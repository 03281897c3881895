"""Finished chunks in, files that other programs read out: a folder of class folders, or WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence

from ray_synth.generator.folder import folder_name
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import Plan, read_rows

SHARD_BYTES = 128 * 2**20
PROVENANCE = ("prompt", "negative_prompt", "seed", "parent_key", "model_id", "model_revision", "model_license")


def export_images(
    folder: RunFolder,
    plan: Plan,
    kind: str,
    *,
    class_names: Sequence[str],
    extension: str,
    progress: Callable[[int], None] = lambda images: None,
) -> str:
    """Write the kept images to `export/KIND` and return that name; an export of other images is moved aside.

    A folder holds `class_name/key.EXTENSION`, with characters that no file name may hold written as %XX; of several
    generators one such folder each, by their names. A WebDataset
    shard holds, for each key, the image, .cls (the label) and .json (where it comes from).
    """
    place = f"export/{kind}"
    wanted = {
        "images": plan.chunk_digest,
        "images_per_class": list(plan.images_per_class),
        "classes": list(class_names),
    }
    before = folder.read_json(f"{place}.json") if folder.exists(f"{place}.json") else {}
    if before == {**wanted, "complete": True}:
        progress(sum(plan.images_per_class))
        return place
    if {**before, "complete": False} != {**wanted, "complete": False}:
        folder.set_aside([f"{place}.json", place], "export")
    folder.write_json(f"{place}.json", {**wanted, "complete": False})
    done = 0
    for name, data, count in (_files if kind == "folder" else _shards)(folder, plan, class_names, extension):
        if not (kind == "folder" and folder.exists(f"{place}/{name}")):  # an export that was cut off
            folder.write(f"{place}/{name}", data)
        done += count
        progress(done)
    folder.write_json(f"{place}.json", {**wanted, "complete": True})
    return place


def _files(
    folder: RunFolder, plan: Plan, class_names: Sequence[str], extension: str
) -> Iterator[tuple[str, bytes, int]]:
    for chunk, rows in read_rows(folder, plan, ["image"]):
        which, label = plan.place(chunk.label)
        place = f"{plan.generators[which]}/" if plan.generators else ""
        for row in rows:
            yield f"{place}{folder_name(class_names[label])}/{row['key']}.{extension}", row["image"], 1


def _shards(
    folder: RunFolder, plan: Plan, class_names: Sequence[str], extension: str
) -> Iterator[tuple[str, bytes, int]]:
    number, samples, size = 0, list[tuple[str, bytes]](), 0
    for chunk, rows in read_rows(folder, plan, ["image", *PROVENANCE]):
        label = plan.place(chunk.label)[1]
        for row in rows:
            origin = {"class_name": class_names[label], **{name: row[name] for name in PROVENANCE}}
            samples += [
                (f"{row['key']}.{extension}", row["image"]),
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
