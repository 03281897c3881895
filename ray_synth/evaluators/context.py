"""What evaluators read: trained classifiers and image sets, the costly ones when they are first asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ray_synth.data.images import first_per_class
from ray_synth.data.source import ImageSource

if TYPE_CHECKING:
    from ray_synth.evaluators.shadows import Recipe

MOST_LOOKED_AT = 50_000  # synthetic images: shares and mean spectra are known to a fifth of a percent

Loader = Callable[[], tuple[nn.Module, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationContext:
    """A run before its test set is read.

    classifiers: name -> what loads a trained classifier and its validation accuracy, here or in another process;
    repeats under the same name. train: the real training set. seed: the experiment's; an evaluator derives its own.
    features: the word of `evaluate.features`. shadows: how shadow models are trained, where `evaluate.lira` asks for
    them.
    """

    classifiers: Sequence[tuple[str, Loader]]
    train: ImageSource
    test: ImageSource
    read_all_but_test: Callable[[], ImageSource]
    read_synthetic: Callable[[], ImageSource]
    seed: int
    features: str = "pixels"
    shadows: Recipe | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.test.class_names

    @functools.cached_property
    def all_but_test(self) -> ImageSource:
        """Every real image that may be looked at more than once."""
        return self.read_all_but_test()

    @functools.cached_property
    def synthetic(self) -> ImageSource:
        """The synthetic images; of very many the first of each class."""
        return looked_at(self.read_synthetic())


def looked_at(synthetic: ImageSource) -> ImageSource:
    """The first images of every class, MOST_LOOKED_AT in all; those of few are all of them."""
    if len(synthetic) <= MOST_LOOKED_AT:
        return synthetic
    each = np.full(synthetic.num_classes, max(1, MOST_LOOKED_AT // synthetic.num_classes))
    return synthetic.take(first_per_class(synthetic.labels, each))
