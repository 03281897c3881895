"""The searched space of an experiment in; Optuna's parameters into settings, and settings into parameters, out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from ray_synth.classifier.setting import ALLOCATION, GENERATOR, NOBODY, RATIO, Setting, default_setting
from ray_synth.config import Dimension, Experiment
from ray_synth.errors import InputError

LISTED = 10_000  # settings; a space of more is not gone through one by one


class Space:
    """Ranges and choices as Optuna's distributions. On a scale (log, log1p) a parameter is the scaled value."""

    def __init__(self, experiment: Experiment, *, num_classes: int, max_ratio: float):
        """max_ratio: what the synthetic images reach. Raises InputError where the space asks for more."""
        self.num_classes = num_classes
        self.default = default_setting(experiment, num_classes, 0.0)
        searched = experiment.sweep.searched
        ratio = searched.get(RATIO) or Dimension(low=0.0, high=max_ratio, scale="log1p")
        self.dimensions = {RATIO: _within(ratio, max_ratio)} | {
            name: dimension for name, dimension in searched.items() if name != RATIO and dimension.tied_to is None
        }
        self.tied = {name: d for name, d in searched.items() if d.tied_to is not None}
        self.distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(range(len(d.choices)))
            if d.choices is not None
            else FloatDistribution(to_scale(d.low or 0.0, d.scale), to_scale(d.high or 0.0, d.scale))
            for name, d in self.dimensions.items()
        }
        if experiment.sweep.sampler == "grid" and (self.size or 0) > LISTED:
            raise InputError(
                f"sampler: grid takes at most {LISTED:,} settings, and the choices of sweep.space make {self.size:,}; "
                "type --set sweep.sampler=random, or keep some fixed"
            )

    def params(self, setting: Setting) -> dict[str, Any]:
        """A setting as Optuna's parameters; a first setting may lie outside: the nearest is taken."""
        return {name: self._param(name, self._value(name, setting)) for name in self.dimensions}

    def setting(self, params: Mapping[str, Any]) -> Setting:
        values = {name: self._from_param(name, params[name]) for name in self.dimensions}
        values |= {name: float(values[d.tied_to]) * d.factor for name, d in self.tied.items() if d.tied_to}
        ratio = values.pop(RATIO)
        clusters = values.pop("num_clusters", self.default.num_clusters)
        if "clusters_per_class" in values:
            clusters = values.pop("clusters_per_class") * self.num_classes
        ratio, generator = self._within_range(RATIO, float(ratio), round(ratio, 4)), values.pop(GENERATOR, None)
        return Setting(
            synthetic_ratio=ratio,
            num_clusters=max(1, round(clusters)),
            generator=NOBODY if generator is not None and not ratio else generator,
            allocation=values.pop(ALLOCATION, None),
            classifier={
                **self.default.classifier,
                **{name: self._like(name, value) for name, value in values.items()},
            },
        )

    def _like(self, name: str, value: Any) -> Any:
        """A number of the setting's own type, with the four digits that a table shows."""
        default = self.default.classifier[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(default, int | float):
            return value
        if isinstance(default, int):
            return round(value)
        return self._within_range(name, float(value), float(f"{value:.4g}"))

    def _within_range(self, name: str, value: float, rounded: float) -> float:
        """Rounding does not leave a range, and a choice is as it was written."""
        d = self.dimensions.get(name)
        if d is None:  # tied
            return rounded
        inside = d.low is not None and d.high is not None and d.low <= rounded <= d.high
        return rounded if inside else value

    def allowed(self, ratio: float) -> float:
        """The ratio that may be tried which is nearest to this one."""
        d = self.dimensions[RATIO]
        return ratio if d.choices is None else float(d.choices[self._param(RATIO, ratio)])

    @property
    def ratio_range(self) -> tuple[float, float]:
        d = self.dimensions[RATIO]
        return (min(d.choices), max(d.choices)) if d.choices is not None else (d.low or 0.0, d.high or 0.0)

    @property
    def size(self) -> int | None:
        """How many settings there are, where all of the space is choices."""
        counts = [len(d.choices) for d in self.dimensions.values() if d.choices is not None]
        return math.prod(counts) if len(counts) == len(self.dimensions) else None

    def grid(self) -> list[Setting] | None:
        """Every setting, where all of the space is choices and not too many; None where something is a range."""
        if self.size is None or self.size > LISTED:
            return None
        indices = [range(len(d.choices or ())) for d in self.dimensions.values()]
        return [self.setting(dict(zip(self.dimensions, point, strict=True))) for point in itertools.product(*indices)]

    def _value(self, name: str, setting: Setting) -> Any:
        if name in (RATIO, GENERATOR, ALLOCATION):
            return getattr(setting, name)
        if name == "clusters_per_class":
            return setting.num_clusters / self.num_classes
        return setting.num_clusters if name == "num_clusters" else setting.classifier[name]

    def _param(self, name: str, value: Any) -> Any:
        d = self.dimensions[name]
        if d.choices is None:
            return to_scale(min(max(float(value), d.low or 0.0), d.high or 0.0), d.scale)
        value = list(value) if isinstance(value, tuple) else value  # as YAML has it
        if value in d.choices:
            return d.choices.index(value)
        numbers = [c for c in d.choices if isinstance(c, int | float)]
        if not isinstance(value, int | float) or len(numbers) < len(d.choices):
            return 0
        return min(range(len(d.choices)), key=lambda i: abs(numbers[i] - value))

    def _from_param(self, name: str, param: Any) -> Any:
        d = self.dimensions[name]
        if d.choices is not None:
            return d.choices[param]
        return min(max(from_scale(param, d.scale), d.low or 0.0), d.high or 0.0)


def to_scale(value: float, scale: str) -> float:
    return float({"linear": lambda v: v, "log": math.log, "log1p": math.log1p}[scale](value))


def from_scale(value: float, scale: str) -> float:
    return float({"linear": lambda v: v, "log": math.exp, "log1p": math.expm1}[scale](value))


def _within(ratio: Dimension, max_ratio: float) -> Dimension:
    """The ratios that the images reach. A list of choices is not cut short in silence."""
    top = max(ratio.choices) if ratio.choices is not None else ratio.low or 0.0
    if top > max_ratio * (1 + 1e-9):
        raise InputError(
            f"sweep.space.synthetic_ratio asks for {top:g}, and the synthetic images reach {max_ratio:g}; raise "
            "generate.images_per_class, or leave it out to make as many as trials need"
        )
    return ratio if ratio.choices is not None else ratio.model_copy(update={"high": min(ratio.high or 0.0, max_ratio)})
