"""What evaluators read: trained classifiers and image sets, the costly ones when they are first asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import Copies
from ray_synth.data.images import first_per_class
from ray_synth.data.ood import FurtherSet
from ray_synth.data.source import ImageSource
from ray_synth.evaluators.answers import ALL, Answers, Loader, Question, answers
from ray_synth.features.automatic import word_at_hand

if TYPE_CHECKING:
    from ray_synth.evaluators.shadows import Recipe

MOST_LOOKED_AT = 50_000  # images of a set: shares and mean spectra are known to a fifth of a percent


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationContext:
    """A run before its test set is read.

    classifiers: name -> what loads a trained classifier and its validation accuracy, here or in another process;
    repeats under the same name. same: names of settings that are one with another's, and that one's. train: the real
    training set. further: other test sets; corruptions: of the test set, of at most `corrupted_images`. seed: the
    experiment's; an evaluator derives its own. features: the word of `evaluate.features`. copies: those of
    `evaluate.copies`. shadows: how shadow models are trained, where `evaluate.lira` asks for them. details: what
    evaluators have to say that is no number, by their names, JSON-ready: it goes to evaluation.json.
    """

    classifiers: Sequence[tuple[str, Loader]]
    train: ImageSource
    test: ImageSource
    read_all_but_test: Callable[[], ImageSource]
    read_synthetic: Callable[[], ImageSource]
    seed: int
    features: str = "pixels"
    copies: Copies = field(default_factory=Copies)
    shadows: Recipe | None = None
    same: Mapping[str, str] = field(default_factory=dict)
    further: Sequence[FurtherSet] = ()
    corruptions: Sequence[str] = ()
    corrupted_images: int = 5000
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.test.class_names

    @property
    def seen_through(self) -> str:
        """The word of the encoder that is at hand: the one that is asked for, the packaged one for photographs, or none
        but pixels."""
        return word_at_hand(self.features, self.test.shape)

    @functools.cached_property
    def answers(self) -> Mapping[str, Mapping[str, Answers]]:
        """What the classifiers say of the test set, which is read here, once: among all classes (`ALL`), and among
        those of each further set that has some only; by the names of these sets and of the classifiers."""
        among = {ALL: None} | {each.name: each.among for each in self.further if each.among is not None}
        return answers(self.classifiers, {"test": Question(images=self.test, among=among)}).get("test", {})

    @functools.cached_property
    def all_but_test(self) -> ImageSource:
        """Every real image that may be looked at more than once."""
        return self.read_all_but_test()

    @functools.cached_property
    def synthetic(self) -> ImageSource:
        """The synthetic images; of very many the first of each class."""
        return first_of(self.read_synthetic(), MOST_LOOKED_AT)


def first_of(images: ImageSource, most: int) -> ImageSource:
    """The first images of every class, about `most` in all; those of few are all of them."""
    return images if len(images) <= most else images.take(first_rows(images, most))


def first_rows(images: ImageSource, most: int) -> np.ndarray:
    """Which these are."""
    if len(images) <= most:
        return np.arange(len(images))
    each = np.full(images.num_classes, max(1, most // np.count_nonzero(images.counts)))
    return first_per_class(images.labels, each)
