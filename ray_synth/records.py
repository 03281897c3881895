"""JSON-ready values in, frozen dataclasses out: a file that is torn or of another version is refused by its field."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ray_synth.errors import InputError

T = TypeVar("T")


def record(kind: type[T], plain: Any, name: str) -> T:
    """A dataclass, those inside it included, from what `json` reads; lists become tuples. `name`: of what was read.

    Raises:
        InputError: a field that is missing or holds something else. Fields that are not known are left out.
    """
    try:
        found: T = _adapter(kind).validate_python(plain)  # type: ignore[arg-type]  # a class is hashable
        return found
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or name
        raise InputError(unreadable(name, f"{field}: {first['msg']}")) from None


def unreadable(name: str, why: object) -> str:
    """What to say of a file that does not hold what was written."""
    return f"{name} cannot be read: {why}; it was cut short, or another version wrote it: move it away to make it anew"


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
