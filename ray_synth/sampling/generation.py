"""generation.json as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray_synth.records import record


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An image that was set aside, by its key."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How many images were asked for, made and kept, and what was set aside: counts by reason, and the first keys."""

    model_id: str
    model_revision: str
    model_license: str
    images_per_class: tuple[int, ...]  # in the order of classes
    asked: int
    made: int
    kept: int
    rejected: Mapping[str, int]
    rejected_keys: tuple[Rejected, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        plain = asdict(self)
        return plain | {name: list(plain[name]) for name in ("images_per_class", "rejected_keys")}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Generation:
        """Raises InputError that names a field which is missing or holds something else."""
        return record(cls, plain, "generation.json")
