"""What every section of an experiment file is: frozen, strict, and with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

FORMAT = 2  # of run folders and digests. Raise it when a default changes, or what a setting means.


class Section(BaseModel):
    """A section of the experiment file: frozen, and strict about what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


Settings = TypeVar("Settings", bound=Section)


def said(settings: BaseModel, *, only: set[str] | None = None, without: Any = None) -> dict[str, Any]:
    """What a section says beyond its defaults, JSON-ready: a setting that comes later leaves all that as it was.

    only, without: names of settings; `without` may also map a subsection to names in it.
    """
    return settings.model_dump(mode="json", exclude_defaults=True, include=only, exclude=without)


def digest(*parts: Any) -> str:
    """SHA-256 of JSON-ready parts and of what sections say beyond their defaults, independent of key order."""
    plain = [FORMAT, *(said(part) if isinstance(part, BaseModel) else part for part in parts)]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def keys_of(settings: Section, prefix: str = "") -> list[str]:
    """Dotted names of the settings of a section that hold a value of their own."""
    names = []
    for name, value in settings:
        names += keys_of(value, f"{prefix}{name}.") if isinstance(value, Section) else [prefix + name]
    return names


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The same settings with other values by dotted name; a fraction for a whole number is rounded.

    Raises ValidationError where they do not do.
    """
    raw = settings.model_dump()
    for key, value in values.items():
        *parents, last = key.split(".")
        here = raw
        for name in parents:
            here = here[name]
        whole = isinstance(here[last], int) and not isinstance(here[last], bool)
        here[last] = round(value) if whole and isinstance(value, float) else value
    return type(settings).model_validate(raw)


def short(value: Any, limit: int = 60) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 3] + "..."
