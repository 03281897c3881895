"""What a training of an experiment trains with: the ratio, the regions and the classifier section's changed values."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_synth.config import SEARCHED, Classifier, Experiment, changed, digest

RATIO = "synthetic_ratio"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one training trains with. `classifier`: lambda_1, lambda_2, and by dotted name whatever else is searched."""

    synthetic_ratio: float
    num_clusters: int
    classifier: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        return digest("setting", self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Flat: synthetic_ratio, lambda_1, lambda_2, num_clusters, then what else is searched."""
        values = dict(self.classifier)
        lambdas: dict[str, Any] = {name: values.pop(name) for name in ("lambda_1", "lambda_2") if name in values}
        return {RATIO: self.synthetic_ratio, **lambdas, "num_clusters": self.num_clusters, **values}

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> Setting:
        values = dict(flat)
        return cls(synthetic_ratio=values.pop(RATIO), num_clusters=values.pop("num_clusters"), classifier=values)

    def applied_to(self, classifier: Classifier) -> Classifier:
        """The classifier section with this setting's values."""
        return changed(classifier, self.classifier)


def default_setting(experiment: Experiment, num_classes: int, synthetic_ratio: float) -> Setting:
    """The classifier's own settings at a ratio: what one would train with when nothing is searched."""
    raw = experiment.classifier.model_dump()
    searched = [name for name in experiment.sweep.searched if name not in SEARCHED]
    return Setting(
        synthetic_ratio=synthetic_ratio,
        num_clusters=experiment.partition.clusters(num_classes),
        classifier={name: _at(raw, name) for name in dict.fromkeys(("lambda_1", "lambda_2", *searched))},
    )


def _at(raw: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        raw = raw[part]
    return raw
