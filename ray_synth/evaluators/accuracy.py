"""What trained classifiers say of the test set in; accuracies with intervals, gains, and tables of classes, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ray_synth.classifier.setting import AUGMENTED, BEST, PREDICTED, REAL_ONLY, TUNED
from ray_synth.data.source import ImageSource
from ray_synth.evaluators.answers import ALL, Answers
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.metrics.calibration import BINS, calibration
from ray_synth.metrics.intervals import CONFIDENCE, DRAWS, interval, resampled_means
from ray_synth.seeding import derive_seed

MOST_IN_MATRIX = 50  # classes, up to which evaluation.json has whole confusion matrices
MOST_CONFUSED = 3  # classes that a class is mostly taken for
MORE_THAN_FIVE = 5  # classes, above which the five largest logits mean something
# Gain -> with and without what gave it.
GAINS = {
    "predicted": (PREDICTED, REAL_ONLY),
    "total": (BEST, REAL_ONLY),
    "tuning": (TUNED, REAL_ONLY),
    "synthetic": (BEST, TUNED),
    "augmentation": (AUGMENTED, TUNED),
}


def final_accuracy(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """Of each setting: `accuracy/NAME`, `/std` over repeats (ddof=1; 0 for one), `/low` and `/high` of a 95 % interval
    over images and repeats; `accuracy_top5/NAME`, where there are more than five classes; `balanced_accuracy/NAME`;
    `calibration_error/NAME` (15 bins). `gain/predicted`, `/total`, `/tuning`, `/synthetic` and `/augmentation`, each
    with `/low` and `/high`, paired by images and repeats.
    """
    said = with_same(context.answers.get(ALL, {}), context.same)
    right = {name: each.predicted == context.test.labels for name, each in said.items()}
    drawn = drawn_anew(right, "accuracy", context.seed)
    for name, each in said.items():
        yield from measured(f"accuracy/{name}", right[name], drawn[name])
        if context.test.num_classes > MORE_THAN_FIVE:
            yield f"accuracy_top5/{name}", float(each.in_five.mean())
        yield f"balanced_accuracy/{name}", float(np.nanmean(recalls(right[name], context.test)))
        yield f"calibration_error/{name}", float(np.mean([c.error for c in _calibrations(each, right[name])]))
    for gain, (name, without) in GAINS.items():
        yield from gained(f"gain/{gain}", name, without, right, drawn)
    if said:
        context.details["final_accuracy"] = {
            "interval": f"{100 * CONFIDENCE:.0f} %, {DRAWS:,} draws of test images and of repeats",
            "test_images": len(context.test),
            "same": dict(context.same),
            "classes": _classes(right, context.test),
            "confusion": _confusion(said, context.test),
            "calibration": {name: _bins(each, right[name]) for name, each in said.items()},
        }


def with_same(said: Mapping[str, Answers], same: Mapping[str, str]) -> dict[str, Answers]:
    """And those of settings that were trained under another's name."""
    return {**said, **{name: said[other] for name, other in same.items() if other in said}}


def drawn_anew(right: Mapping[str, np.ndarray], *seed: str | int) -> dict[str, np.ndarray]:
    """Of each setting's [R,N] its mean over images and repeats that are drawn anew, the same for all. [draws] each"""
    if not right:
        return {}
    drawn = resampled_means(np.stack(list(right.values())), seed=derive_seed(*seed))
    return dict(zip(right, drawn.T, strict=True))


def measured(prefix: str, right: np.ndarray, drawn: np.ndarray) -> Iterator[tuple[str, float]]:
    """An accuracy, its spread over repeats and its interval. right: [R,N]; drawn: [draws]."""
    repeats = right.mean(axis=1)
    found = interval(float(repeats.mean()), drawn)
    yield prefix, found.value
    yield f"{prefix}/std", float(np.std(repeats, ddof=1)) if len(repeats) > 1 else 0.0
    yield f"{prefix}/low", found.low
    yield f"{prefix}/high", found.high


def gained(
    prefix: str, name: str, without: str, right: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """What one setting is right at more than another, with its interval; nothing where one of them is not there."""
    if name in right and without in right:
        value = float(right[name].mean() - right[without].mean())
        found = interval(value, drawn[name] - drawn[without])
        yield prefix, found.value
        yield f"{prefix}/low", found.low
        yield f"{prefix}/high", found.high


def recalls(right: np.ndarray, images: ImageSource) -> np.ndarray:
    """The share of each class that is right, over repeats; NaN of one without images. [R,N] -> [C]"""
    sums = np.bincount(images.labels, weights=right.mean(axis=0), minlength=images.num_classes)
    return np.asarray(np.where(images.counts > 0, sums / np.maximum(images.counts, 1), np.nan))


def _classes(right: Mapping[str, np.ndarray], test: ImageSource) -> list[dict[str, Any]]:
    """A row per class that has test images: its name, their number and each setting's share of them."""
    found = {name: recalls(each, test) for name, each in right.items()}
    return [
        {
            "class": test.class_names[c],
            "images": int(test.counts[c]),
            "accuracy": {name: float(each[c]) for name, each in found.items()},
        }
        for c in np.flatnonzero(test.counts).tolist()
    ]


def _confusion(said: Mapping[str, Answers], test: ImageSource) -> dict[str, Any]:
    """Of real images alone and of the best setting: mean images of class `row` that are taken for class `column`, where
    the classes are few; and what each class is mostly taken for."""
    found: dict[str, Any] = {"class_names": list(test.class_names)}
    for name in (REAL_ONLY, BEST):
        if name not in said:
            continue
        repeats, _ = said[name].predicted.shape
        places = (test.labels[None] * test.num_classes + said[name].predicted).ravel()
        taken, counts = np.unique(places, return_counts=True)
        matrix = {int(place): float(count) / repeats for place, count in zip(taken, counts, strict=True)}
        found[name] = {"mostly": _mostly(matrix, test)}
        if test.num_classes <= MOST_IN_MATRIX:
            cells = np.zeros(test.num_classes**2)
            cells[list(matrix)] = list(matrix.values())
            found[name]["matrix"] = cells.reshape(test.num_classes, -1).tolist()
    return found


def _mostly(matrix: Mapping[int, float], test: ImageSource) -> dict[str, list[tuple[str, float]]]:
    """Class -> the classes that its images are wrongly taken for, and what share of them, the largest first."""
    wrong: dict[int, list[tuple[int, float]]] = {}
    for place, count in matrix.items():
        label, taken_for = divmod(place, test.num_classes)
        if label != taken_for:
            wrong.setdefault(label, []).append((taken_for, count))
    return {
        test.class_names[label]: [
            (test.class_names[other], count / int(test.counts[label]))
            for other, count in sorted(others, key=lambda pair: (-pair[1], pair[0]))[:MOST_CONFUSED]
        ]
        for label, others in wrong.items()
    }


def _calibrations(said: Answers, right: np.ndarray) -> list[Any]:
    """Of each repeat."""
    return [calibration(sure, each) for sure, each in zip(said.confidence, right, strict=True)]


def _bins(said: Answers, right: np.ndarray) -> dict[str, Any]:
    """Of all repeats' answers together."""
    found = calibration(said.confidence.ravel(), right.ravel())
    return {
        "edges": [round(b / BINS, 6) for b in range(BINS + 1)],
        "counts": found.counts.tolist(),
        "confidence": found.confidence.round(6).tolist(),
        "accuracy": found.accuracy.round(6).tolist(),
    }
