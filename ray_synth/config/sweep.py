"""The `sweep` section: what is searched, by whom, and how many trials at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from ray_synth.allocation import ALLOCATIONS
from ray_synth.config.classifier import Classifier
from ray_synth.config.section import Section, changed, keys_of
from ray_synth.config.words import at_home
from ray_synth.errors import did_you_mean


class Dimension(Section):
    """What the sweep may give one setting: a range, a list of choices, or a multiple of another one.

    `log1p` spreads trials evenly over log(1 + value), which includes zero.
    """

    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log", "log1p"] = "linear"
    choices: tuple[Any, ...] | None = Field(None, strict=False, description="values to choose from")
    tied_to: str | None = Field(None, description="another key of the space; the value is factor times that one's")
    factor: float = Field(1.0, gt=0, description="of tied_to")

    @model_validator(mode="after")
    def _one_form(self) -> Dimension:
        ranged = self.low is not None or self.high is not None
        if ranged + (self.choices is not None) + (self.tied_to is not None) != 1:
            raise ValueError("give either low and high, or choices, or tied_to (with factor)")
        if self.choices is not None and not self.choices:
            raise ValueError("choices must hold a value, got none; leave the key out to keep it fixed")
        if self.choices is not None and any(self.choices.index(c) < i for i, c in enumerate(self.choices)):
            raise ValueError(f"choices must differ, got {list(self.choices)}")
        if not ranged:
            return self
        if self.low is None or self.high is None:
            raise ValueError(f"{'low' if self.low is None else 'high'} is missing: a range needs low and high")
        if self.low > self.high:
            raise ValueError(f"low must be <= high, got low={self.low:g}, high={self.high:g}; swap them")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low must be > 0 on a log scale, got {self.low:g}; use scale: log1p to include zero")
        if self.low < 0:
            raise ValueError(f"low must be >= 0, got {self.low:g}")
        return self


# What is searched beside the ratio where the file does not say otherwise. Inside lie the pairs that Nguyen et al., 2025
# (appendix B) choose from: (.1, 1), (2, 20), (20, 200) and (50, 500).
SPACE: dict[str, dict[str, Any]] = {
    "lambda_1": {"tied_to": "lambda_2", "factor": 0.1},
    "lambda_2": {"low": 0.1, "high": 500.0, "scale": "log"},
    "clusters_per_class": {"low": 0.5, "high": 4.0},
}
FORMS = ({"low", "high", "scale"}, {"choices"}, {"tied_to", "factor"})  # keys of a range, a list, a multiple
# And the keys of the classifier section.
SEARCHED = ("synthetic_ratio", "generator", "allocation", "num_clusters", "clusters_per_class")
NOT_SEARCHED = ("evaluations", "num_workers", "gather", "keep")  # of the classifier section
Metric = Literal[
    "accuracy", "balanced_accuracy"
]  # what the estimate predicts, and a trial reports of the validation set
METRICS: tuple[Metric, ...] = get_args(Metric)


def _over_default(given: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """A range or a multiple of which some keys are given keeps the default's others, where the default is of that form.

    Another form replaces it, and so does a multiple that says of what: the default's factor is of the default's other.
    """

    def forms(keys: Mapping[str, Any]) -> list[int]:
        return [number for number, form in enumerate(FORMS) if form & set(keys)]

    whole = "tied_to" in given or forms(given) not in ([], forms(default))
    return dict(given) if whole else {**default, **given}


def _flat(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A searched setting of a subsection by its dotted name: `augment: {flip: {low: 0, high: 1}}`."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        nested = isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values())
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


class Sweep(Section):
    """The search of the ratio and any setting of the classifier with Ray Tune and Optuna."""

    num_trials: int = Field(24, ge=1, le=100_000)
    real_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of each class's real training images, that trials take (one at least); their ratio counts these. "
        "Final trainings take all",
    )
    max_ratio: float = Field(16.0, gt=0, le=1000)
    space: dict[str, Dimension | None] = Field(
        {},
        validate_default=True,
        description="setting -> what it may be; null leaves a default one fixed, and what is tied to it by default; "
        "part of a range, or a factor, keeps the rest of a default of that form",
    )
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    prior: Literal["none", "points", "distribution"] = Field(
        "distribution",
        description="what the prediction becomes: nothing, the first trials, or also where ratios are drawn from",
    )
    repeats: int = Field(1, ge=1, le=100, description="seeds a setting is trained with; their mean counts")
    metric: str = Field("accuracy", description="what is maximised: " + " or ".join(METRICS))
    tolerance: float = Field(0.005, ge=0, lt=1, description="accuracy that the cheapest good trial may give away")
    pruner: Literal["asha", "none"] = "asha"
    grace: int = Field(2, ge=1, description="validation passes before a trial may be stopped early")
    reduction_factor: float = Field(3.0, gt=1)
    concurrency: int | None = Field(None, ge=1, description="trials at once; default as many as fit")
    gpus_per_trial: float = Field(1.0, gt=0, le=1, description="a fraction lets trials share a GPU")
    workers_per_trial: int = Field(1, ge=1, description="Ray Train workers of a trial; each has a GPU of its own")

    @field_validator("metric")
    @classmethod
    def _reported(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"trials report {' and '.join(METRICS)}, got {metric!r}; type --set sweep.metric=accuracy")
        return metric

    @field_validator("space", mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        """What is given laid over `SPACE`; null takes one out, and what is tied to it by default goes with it."""
        if not isinstance(given, dict):
            return given
        given = _flat(given)
        if given.get("num_clusters") and given.get("clusters_per_class"):
            raise ValueError("give either num_clusters or clusters_per_class, not both")
        space: dict[str, Any] = {name: given.get(name, default) for name, default in SPACE.items()} | given
        if given.get("num_clusters"):
            space["clusters_per_class"] = None
        for name, default in SPACE.items():
            other = space.get(str(default.get("tied_to")), {})
            gone = other is None or (isinstance(other, dict) and other.get("tied_to") is not None)
            if name not in given and "tied_to" in default and gone:
                space[name] = None
            if isinstance(space[name], dict):
                space[name] = _over_default(space[name], default)
        return space

    @field_validator("space")
    @classmethod
    def _files_in_full(cls, space: dict[str, Dimension | None]) -> dict[str, Dimension | None]:
        """`~` in choices of weights, and of models with a file in their name."""
        for name in ("weights", "model"):
            dimension = space.get(name)
            if dimension is not None and dimension.choices is not None:
                choices = tuple(at_home(each) if isinstance(each, str) else each for each in dimension.choices)
                space[name] = dimension.model_copy(update={"choices": choices})
        return space

    @property
    def searched(self) -> dict[str, Dimension]:
        return {name: dimension for name, dimension in self.space.items() if dimension is not None}

    def choices_of(self, name: str) -> tuple[Any, ...]:
        """What may be chosen for a setting; nothing where it is not searched, or over a range."""
        return (self.searched[name].choices or ()) if name in self.searched else ()

    @property
    def top_ratio(self) -> float:
        """The largest ratio that the space asks for."""
        ratio = self.searched.get("synthetic_ratio")
        if ratio is None:
            return self.max_ratio
        return float(max(ratio.choices)) if ratio.choices is not None else float(ratio.high or 0.0)

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        for name, dimension in self.searched.items():
            other = dimension.tied_to
            free = [key for key, d in self.searched.items() if d.tied_to is None]
            if other is not None and other not in free:
                raise ValueError(f"space.{name}: tied_to must name one of {', '.join(free)}, got {other!r}")
            if self.sampler == "grid" and dimension.choices is None and dimension.tied_to is None:
                raise ValueError(
                    f"space.{name}: sampler: grid needs choices, got a range; "
                    f"type --set sweep.space.{name}.choices=[...], or =null to keep it fixed"
                )
        if self.sampler == "grid" and "synthetic_ratio" not in self.searched:
            raise ValueError(
                "space.synthetic_ratio is missing: sampler: grid needs its choices; "
                "type --set sweep.space.synthetic_ratio.choices=[0,0.25,0.5,1,2,4,8,16]"
            )
        return self


def check_space(space: Mapping[str, Dimension], classifier: Classifier, generators: tuple[str, ...] = ()) -> None:
    """Every choice and every end of a range must be a setting that can be trained with, or ValueError is raised.

    generators: the names of several.
    """
    _check_generators(space.get("generator"), generators)
    for name, dimension in space.items():
        if name in SEARCHED:
            _check_searched(name, dimension)
            continue
        known = [key for key in keys_of(classifier) if key not in NOT_SEARCHED]
        if name not in known:
            raise ValueError(f"unknown key sweep.space.{name}; {did_you_mean(name, [*SEARCHED, *known])}")
        if name == "real_weight" and classifier.weighting == "uniform":
            raise ValueError(
                "sweep.space.real_weight has no effect with classifier.weighting: uniform; "
                "type --set classifier.weighting=fixed"
            )
        tied = space[dimension.tied_to] if dimension.tied_to else None
        for value in _samples(tied or dimension):
            if tied and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(
                    f"sweep.space.{name}: tied_to must name numbers, and {dimension.tied_to} may be {value!r}"
                )
            value = value * dimension.factor if tied else value
            try:
                changed(classifier, {name: value})
            except ValidationError as error:
                reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ").split("; type")[0]
                raise ValueError(f"sweep.space.{name}: {value!r} does not do: {reason}") from None


def _check_generators(dimension: Dimension | None, names: tuple[str, ...]) -> None:
    if dimension is None:
        if names:
            raise ValueError(
                f"sweep.space.generator: null leaves open which of {', '.join(names)} to train on; type "
                f"--set 'sweep.space.generator.choices=[{names[0]}]', or give generator.path one folder"
            )
        return
    asked = dimension.choices
    if not names:
        named = [str(each) for each in asked or ()][:2]
        first, second = [*named, *("a", "b")[len(named) :]]
        raise ValueError(
            f"sweep.space.generator chooses among several folders, and generator.path names one or none; "
            f"type --set 'generator={{kind: folder, path: {{{first}: DIR, {second}: OTHER}}}}', or "
            "--set sweep.space.generator=null"
        )
    if asked is None:
        raise ValueError(
            f"sweep.space.generator takes choices; type --set 'sweep.space.generator={{choices: [{', '.join(names)}]}}'"
        )
    for each in asked:
        if each not in names:
            raise ValueError(
                f"sweep.space.generator: {each!r} is no name in generator.path; {did_you_mean(str(each), names)}"
            )


def _ends(dimension: Dimension) -> tuple[Any, ...]:
    return dimension.choices if dimension.choices is not None else (dimension.low, dimension.high)


def _samples(dimension: Dimension) -> tuple[Any, ...]:
    """The ends, and the whole number after the first one: what a batch is shared among may divide the ends alone."""
    ends = _ends(dimension)
    if dimension.choices is not None or math.floor(ends[0]) + 1 >= ends[1]:
        return ends
    return (*ends, math.floor(ends[0]) + 1)


def _check_searched(name: str, dimension: Dimension) -> None:
    """The ratio, the allocation and the clusters, of which the classifier section knows nothing."""
    if name == "generator":
        return  # checked already
    if dimension.tied_to is not None:
        raise ValueError(f"sweep.space.{name} cannot be tied; give low and high, or choices")
    if name == "allocation":
        if not set(dimension.choices or ("a range",)) <= set(ALLOCATIONS):
            raise ValueError(
                f"sweep.space.allocation: choices among {', '.join(ALLOCATIONS)} are allowed, got "
                f"{list(_ends(dimension))}; type --set 'sweep.space.allocation.choices=[fill,proportional]'"
            )
        return
    for value in _ends(dimension):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 100_000 or (value == 0 and name != "synthetic_ratio"):
            raise ValueError(f"sweep.space.{name}: numbers above 0 (of the ratio: from 0) are allowed, got {value!r}")
