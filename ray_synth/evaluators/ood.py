"""Trained classifiers, further test sets and corruptions in; their accuracies on these, and what is left of the clean
one, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ray_synth.classifier.setting import BEST, REAL_ONLY
from ray_synth.data.corruptions import STRENGTHS, constants_for, corrupted
from ray_synth.data.ood import FurtherSet
from ray_synth.evaluators.accuracy import MORE_THAN_FIVE, drawn_anew, gained, measured, with_same
from ray_synth.evaluators.answers import ALL, Answers, Question, answers
from ray_synth.evaluators.context import EvaluationContext, first_rows
from ray_synth.seeding import derive_seed


def shifted(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """Of each further set: `ood/SET/NAME` with `/std`, `/low` and `/high`, among the classes that it has, and `/top5`
    where these are more than five; `/clean`, on the test images of the same classes, among these; `/remains`, the share
    of that which is left; `ood/SET/gain` of the best setting over real images alone, paired, with `/low` and `/high`.
    """
    questions = {each.name: Question(images=each.images, among={each.name: each.among}) for each in context.further}
    if not questions:
        return
    found = answers(context.classifiers, questions)
    details: dict[str, Any] = {}
    for each in context.further:
        said = with_same(found[each.name][each.name], context.same)
        yield from _of_set(each, said, context)
        details[each.name] = {
            "images": len(each.images),
            "classes": len(each.classes),
            "of_classes": each.images.num_classes,
            "notes": list(each.notes),
        }
    context.details["ood"] = details


def _of_set(each: FurtherSet, said: Mapping[str, Answers], context: EvaluationContext) -> Iterator[tuple[str, float]]:
    clean = with_same(context.answers[ALL if each.among is None else each.name], context.same)
    same_classes = np.flatnonzero(np.isin(context.test.labels, each.classes))
    right = {name: answered.predicted == each.images.labels for name, answered in said.items()}
    drawn = drawn_anew(right, "ood", each.name, context.seed)
    for name in right:
        yield from measured(f"ood/{each.name}/{name}", right[name], drawn[name])
        if len(each.classes) > MORE_THAN_FIVE:
            yield f"ood/{each.name}/{name}/top5", float(said[name].in_five.mean())
        on_test = clean[name].take(same_classes).predicted == context.test.labels[same_classes]
        yield f"ood/{each.name}/{name}/clean", float(on_test.mean())
        yield f"ood/{each.name}/{name}/remains", _remains(right[name].mean(), on_test.mean())
    yield from gained(f"ood/{each.name}/gain", BEST, REAL_ONLY, right, drawn)


def corruption(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """Of each corruption: `corruption/CORRUPTION/NAME`, the mean over five strengths, with `/std`, `/low`, `/high` and
    `/remains`; the same over all corruptions under `corruption/mean`, with `/gain`. On the first test images of each
    class, as many as `evaluate.ood.images` says.
    """
    if not context.corruptions:
        return
    rows = first_rows(context.test, context.corrupted_images)
    clean_images = context.test.take(rows)
    seed = derive_seed("corruptions", context.seed)
    questions = {
        f"{name}/{strength}": Question(images=corrupted(clean_images, name, strength, seed), among={ALL: None})
        for name in context.corruptions
        for strength in STRENGTHS
    }
    found = answers(context.classifiers, questions)
    clean = {
        name: float((each.take(rows).predicted == clean_images.labels).mean())
        for name, each in with_same(context.answers[ALL], context.same).items()
    }
    strengths: dict[str, dict[str, list[float]]] = {}
    # Over strengths, what share of them an image is right at: [R,N] of each setting.
    means: dict[str, dict[str, np.ndarray]] = {}
    for name in context.corruptions:
        said = [with_same(found[f"{name}/{strength}"][ALL], context.same) for strength in STRENGTHS]
        right = {one: [each[one].predicted == clean_images.labels for each in said] for one in said[0]}
        strengths[name] = {one: [float(each.mean()) for each in right[one]] for one in right}
        means[name] = {one: np.mean(right[one], axis=0) for one in right}
    everything = {one: np.mean([means[name][one] for name in means], axis=0) for one in clean}
    for name, right_share in {**means, "mean": everything}.items():
        drawn = drawn_anew(right_share, "corruption", name, context.seed)
        for one, share in right_share.items():
            yield from measured(f"corruption/{name}/{one}", share, drawn[one])
            yield f"corruption/{name}/{one}/remains", _remains(share.mean(), clean[one])
        yield from gained(f"corruption/{name}/gain", BEST, REAL_ONLY, right_share, drawn)
    context.details["corruption"] = {
        "images": len(clean_images),
        "constants": constants_for(context.test.shape),
        "clean": clean,
        "strengths": strengths,
    }


def _remains(shifted: float, clean: float) -> float:
    return float(shifted / clean) if clean > 0 else float("nan")
