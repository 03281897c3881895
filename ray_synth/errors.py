"""What can go wrong, as two types: the caller's input (exit 2) and the work itself (exit 1); and what was meant."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """The input is wrong. The message says what was received, what is allowed and what to type."""


class WorkError(RuntimeError):
    """The input was right and the work failed. What was finished is kept; the next start continues."""


class Spoiled(WorkError):
    """Files of a run folder, by their names in it, that are not what was written. Set aside, they are made anew."""

    def __init__(self, message: str, *names: str):
        super().__init__(message)
        self.names = names

    def __reduce__(self) -> tuple[type[Spoiled], tuple[str, ...]]:
        return type(self), (str(self), *self.names)  # it travels between processes


class PartlyDone(WorkError):
    """What could be done is done and written, and the rest failed. What comes after goes on without it; the run fails
    in the end, and the next start tries again."""


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1) -> str:
    """The end of a message about an unknown name: the nearest of those that there are, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(names)}"


def listed(names: Sequence[object], *, most: int = 8) -> str:
    """The first of them, quoted, and how many more there are."""
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def one_spelling(name: str) -> str:
    """NFC: macOS and others write one name with other code points (é as e and an accent)."""
    return unicodedata.normalize("NFC", name)


def near_misses(names: Iterable[str], known: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a name and a known one that differ in nothing but case, spaces, underscores, hyphens and dots."""
    plain = {_plain_name(name): name for name in known}
    return [(name, plain[_plain_name(name)]) for name in names if _plain_name(name) in plain]


def _plain_name(name: str) -> str:
    return re.sub(r"[\s_.\-‐‑–]+", "", unicodedata.normalize("NFKC", name)).casefold()
