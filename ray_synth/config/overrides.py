"""Sections of an experiment and overrides in, the sections with both out: laid over each other key by key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, get_origin

from pydantic import BaseModel

from ray_synth.config.generator import GENERATORS, GeneratorSettings, kind_of
from ray_synth.config.section import short
from ray_synth.config.sweep import FORMS
from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError

Tree = dict[str, Any]
Place = tuple[str, ...]
SPACE = ("sweep", "space")


def merged(under: Mapping[str, Any], over: Mapping[str, Any], place: Place = ()) -> Tree:
    """Sections of both, key by key; of everything else, lists too, the upper one."""
    tree = dict(under)
    for name, value in over.items():
        before, here = tree.get(name), (*place, str(name))
        tree[name] = value
        if isinstance(before, dict) and isinstance(value, dict) and not _replaces(before, value, here):
            tree[name] = merged(before, value, here)
    return tree


def overridden(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> Tree:
    """A file's sections under overrides, whose keys may be dotted at any depth, and whose values may be sections.

    Raises:
        InputError: no such mapping, or a key below what is no section.
    """
    if not isinstance(overrides, Mapping):
        raise InputError(f"overrides must be a mapping such as {{'data.shots': 5}}, got {short(overrides)}")
    tree = _combined({}, _plain(overrides), ())
    raw = dict(raw)
    if isinstance(sweep := raw.get("sweep"), dict) and isinstance(sweep.get("space"), dict):
        raw["sweep"] = {**sweep, "space": _combined({}, sweep["space"], SPACE)}
    _check_sections(raw, tree, ())
    return merged(raw, tree)


def parse_assignments(assignments: Iterable[str]) -> Tree:
    """`key.path=value` strings into overrides; values are read as YAML (5, 0.1, null, [1, 2], text)."""
    overrides: Tree = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set needs key.path=value, got {text!r}; type --set data.shots=5")
        if not value.strip():
            raise InputError(f"--set {key}= has no value; type --set {key}=null if none is meant")
        try:
            found = read_yaml(value)
        except InputError as error:
            raise InputError(f"--set {key}: the value {value!r} is not plain YAML: {error}") from None
        key = key.strip()
        before = overrides.pop(key, None)  # what is said last is laid over what was said before
        both = isinstance(before, dict) and isinstance(found, dict) and bool(found)
        overrides[key] = merged(before, found) if both else found
    return overrides


def _replaces(under: Mapping[str, Any], over: Mapping[str, Any], place: Place) -> bool:
    """A generator of another kind has other keys, and so has a searched setting of another form. Nothing at all in
    place of a person's own words clears them."""
    if place == ("generator",):
        return "kind" in over and over["kind"] != kind_of(under)
    if not over:
        return _is_free(place)
    kept = [form for form in FORMS if form & set(under)]
    return place[:2] == SPACE and len(place) > 2 and bool(kept) and not any(form & set(over) for form in kept)


def _is_free(place: Place) -> bool:
    """Whether the keys there are a person's own words: names of classes, arguments, searched settings."""
    if place == SPACE:
        return True
    fields = [
        field for kind in GENERATORS.values() for name, field in kind.model_fields.items() if place[1:] == (name,)
    ]
    return place[:1] == ("generator",) and any(get_origin(field.annotation) is dict for field in fields)


def _plain(value: Any) -> Any:
    """What an experiment file could hold: paths as text, numpy's numbers and arrays as Python's, sections as said."""
    if isinstance(value, BaseModel):
        kind = {"kind": value.kind} if isinstance(value, GeneratorSettings) else {}
        return {**kind, **value.model_dump(mode="json", exclude_unset=True)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"overrides: a key must be text such as 'data.shots', got {short(key)}")
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(each) for each in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def _combined(tree: Tree, over: Mapping[str, Any], place: Place) -> Tree:
    """Overrides as one tree: dotted keys as sections in sections, of two for one place the later one."""
    for key, value in over.items():
        *parents, last = _names_in(key, place)
        here, at = tree, place
        for name in parents:
            below, at = here.get(name), (*at, name)
            if below is not None and not isinstance(below, dict):
                raise InputError(f"--set {key}: {'.'.join(at)} is {short(below)}, not a section")
            here[name] = dict(below) if isinstance(below, dict) else {}
            here = here[name]
        before, at = here.get(last), (*at, last)
        if isinstance(value, dict):
            cleared = not value and _is_free(at)
            here[last] = _combined(dict(before) if isinstance(before, dict) and not cleared else {}, value, at)
        else:
            here[last] = value
    return tree


def _names_in(key: str, place: Place) -> list[str]:
    """The names in a dotted key; what a person's own words begin is one name, whatever dots it has."""
    if _is_free(place) and place != SPACE:
        return [key]
    names = key.split(".")
    for end in range(1, len(names)):
        at = (*place, *names[:end])
        if _is_free(at) and at != SPACE:
            return [*names[:end], ".".join(names[end:])]
    return names


def _check_sections(raw: Mapping[str, Any], tree: Mapping[str, Any], place: Place) -> None:
    """Raise InputError for keys below a value of the file that has none."""
    for name, value in tree.items():
        before = raw.get(name)
        if not isinstance(value, dict) or before is None:
            continue
        here = (*place, name)
        if _is_free(here):
            continue
        if isinstance(before, dict) and not _replaces(before, value, here):
            _check_sections(before, value, here)
        elif value and not isinstance(before, dict):
            key = ".".join((*here, next(iter(value))))
            raise InputError(f"--set {key}: {'.'.join(here)} is {short(before)}, not a section")
