"""What a training of an experiment trains with: the ratio, whose images, which class gets how many, the regions and the
classifier section's changed values."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import ArrayLike

from ray_synth.allocation import Allocation, IntArray, synthetic_counts
from ray_synth.config import SEARCHED, Classifier, Experiment, changed, digest

RATIO, GENERATOR, ALLOCATION = "synthetic_ratio", "generator", "allocation"
NOBODY = ""  # whose images a setting takes that takes none, where there are several generators
COMPARED = REAL_ONLY, PREDICTED, BEST = ("real_only", "at_predicted", "best")  # names of what is trained in the end
TUNED, AUGMENTED = "real_only_tuned", "real_only_augmented"  # baselines beside them
OF_BOTH_SIDES = ("lambda_1", "lambda_2")  # of the classifier: terms that need two sides
TRAINING = 2  # part of digests: raise it where the same setting trains another network than before


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one training trains with. `classifier`: lambda_1, lambda_2, and by dotted name whatever else is searched.

    generator: whose images, where there are several; empty where no synthetic image is used, None where there is one
    generator. allocation: where it is searched; None takes the experiment's.
    """

    synthetic_ratio: float
    num_clusters: int
    generator: str | None = None
    allocation: Allocation | None = None
    classifier: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        return digest("setting", self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Flat: synthetic_ratio, generator if there are several, allocation if it is searched, lambda_1, lambda_2,
        num_clusters, then what else is."""
        values = dict(self.classifier)
        lambdas: dict[str, Any] = {name: values.pop(name) for name in ("lambda_1", "lambda_2") if name in values}
        chosen = {GENERATOR: self.generator, ALLOCATION: self.allocation}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        return {RATIO: self.synthetic_ratio, **chosen, **lambdas, "num_clusters": self.num_clusters, **values}

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> Setting:
        values = dict(flat)
        return cls(
            synthetic_ratio=values.pop(RATIO),
            num_clusters=values.pop("num_clusters"),
            generator=values.pop(GENERATOR, None),
            allocation=values.pop(ALLOCATION, None),
            classifier=values,
        )

    def says_of(self, generator: str | None) -> bool:
        """Whether what is trained with it tells of this one of several generators: its images, or none, are taken."""
        return not self.generator or self.generator == generator

    def synthetic_counts(self, real_counts: ArrayLike, experiment: Experiment, given: ArrayLike) -> IntArray:
        """Synthetic images of each class. given: whether it has any at all. [C] -> [C]"""
        allocation = self.allocation or experiment.data.allocation
        return synthetic_counts(real_counts, self.synthetic_ratio, allocation, given)

    def without_synthetic(self, other: Setting) -> Setting:
        """This setting, of real images alone, with what another one has that acts on these."""
        return replace(self, classifier={**self.classifier, **acts_alone(other.classifier)})

    def applied_to(self, classifier: Classifier) -> Classifier:
        """The classifier section with this setting's values."""
        return changed(classifier, self.classifier)


def acts_alone(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of searched settings, by name, those that matter where there are no synthetic images."""
    return {name: value for name, value in values.items() if name not in (*SEARCHED, *OF_BOTH_SIDES)}


def default_setting(
    experiment: Experiment, num_classes: int, synthetic_ratio: float, generator: str | None = None
) -> Setting:
    """The classifier's own settings at a ratio: what one would train with when nothing is searched.

    generator: of several; without one, the first that may be chosen.
    """
    several = experiment.sweep.choices_of(GENERATOR)
    raw = experiment.classifier.model_dump()
    searched = [name for name in experiment.sweep.searched if name not in SEARCHED]
    return Setting(
        synthetic_ratio=synthetic_ratio,
        num_clusters=experiment.partition.clusters(num_classes),
        generator=((generator or several[0]) if synthetic_ratio else NOBODY) if several else None,
        allocation=experiment.data.allocation if ALLOCATION in experiment.sweep.searched else None,
        classifier={name: _at(raw, name) for name in dict.fromkeys(("lambda_1", "lambda_2", *searched))},
    )


def _at(raw: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        raw = raw[part]
    return raw
