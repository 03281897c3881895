"""summary.json as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ray_synth.bound.curve import Verdict
from ray_synth.records import record


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run says in the end. Settings are flat, as `Setting.to_dict` gives them.

    accuracy, accuracy_std: on the test set, of `real_only`, `at_predicted` and `best`; without those that an evaluator
    which failed did not tell. cheapest: trial_id, tolerance and the trial's setting. seconds: by stage. failed: names
    of evaluators. more: what else a stage adds; in the file these fields stand beside the others.
    """

    name: str
    predicted_ratio: float
    interval: tuple[float, float]
    verdict: Verdict
    best_ratio: float
    best_setting: Mapping[str, Any]
    accuracy: Mapping[str, float]
    accuracy_std: Mapping[str, float]
    repeats: int
    label_fidelity: float | None
    num_real: int
    num_generated: int
    num_trials: int
    cheapest: Mapping[str, Any]
    seconds: Mapping[str, float]
    failed: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        plain: dict[str, Any] = {**asdict(self), "interval": list(self.interval), "failed": list(self.failed)}
        more = plain.pop("more")
        if not self.failed:
            del plain["failed"]
        return {**plain, **more}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Summary:
        """Raises InputError that names a field which is missing or holds something else; unknown ones are `more`."""
        known = {each.name for each in fields(cls)} - {"more"}
        more = {name: value for name, value in plain.items() if name not in known}
        return record(cls, {**{name: plain[name] for name in plain if name in known}, "more": more}, "summary.json")
