"""Known datasets from catalog.toml: how each original release lies on a disk, how large it is, how papers train on it.

A row names a layout of `ray_synth.data.layouts`, the files that it looks at, and the settings that an experiment takes
where its file does not say otherwise.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Known:
    """One dataset. Paths are relative to `data.path`; alternatives are tried in order.

    layout: name of the function that finds images and labels; expects: what must lie in `data.path`, for messages.
    lists: list files of the official split, by part; line: regular expression of a line of them, with groups `file`
    and, if the line names the class, `key`; file: where the image of a line lies.
    classes: a file with one class a line, in the order of the labels; names: keys to words, where no file has them or
    a file's are no good (a list of words is numbered from 1); listed_classes: only the classes that `classes` or
    `names` list belong to it.
    attribute: of a table of many, the one whose two values are the classes where the experiment file says none.
    shots, max_validation: images per class; the settings of `data` where the experiment file has none.
    """

    layout: str
    expects: str
    prompt: str
    images: tuple[str, ...] = ("",)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    line: str = ""
    file: str = "{file}"
    classes: tuple[str, ...] = ()
    class_line: str = r"(?P<key>.+)"
    words: str = "underscores"
    names: dict[str, str] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    listed_classes: bool = False
    attribute: str = ""
    real_weight: float = 4.0
    clusters_per_class: float = 2.0
    image_size: int = 224
    shots: int = 16
    max_validation: int | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """How large one dataset is, as its authors say. validation, test: None where there is no official one."""

    classes: int
    train: int
    origin: str
    validation: int | None = None
    test: int | None = None
    side: int = 224


def _read() -> tuple[dict[str, Known], dict[str, Published]]:
    known: dict[str, Known] = {}
    published: dict[str, Published] = {}
    for kind, row in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items():
        if "published" in row:
            published[kind] = Published(**row.pop("published"))
        if isinstance(names := row.get("names"), list):
            row["names"] = {str(number): words for number, words in enumerate(names, start=1)}
        if row:
            known[kind] = Known(**{key: _frozen(value) for key, value in row.items()})
    return known, published


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return tuple(value) if isinstance(value, list) else value


CATALOG, PUBLISHED = _read()
