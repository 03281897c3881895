"""Image sets and an encoder's word in; what a linear judge on its features says of labels, and distances, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ray_synth.classifier.mixture import encoded
from ray_synth.data.images import first_per_class
from ray_synth.data.source import ImageSource
from ray_synth.evaluators.context import EvaluationContext
from ray_synth.metrics.fidelity import frechet_distance, precision_recall
from ray_synth.metrics.kernels import kernel_distance
from ray_synth.nodes import on_gpu_node

MOST_COMPARED = 5000  # images a side: distances are between all pairs
NEIGHBOURS = 3  # of precision and recall


def features_of(sets: Sequence[ImageSource], word: str) -> list[np.ndarray]:
    """float32 [n,d] of each set, on a GPU where the cluster has one."""
    found = np.concatenate(list(on_gpu_node(encoded, list(sets), word)))
    return np.split(found, np.cumsum([len(images) for images in sets])[:-1])


def linear_judge(
    judge_train: ImageSource, test: ImageSource, synthetic: ImageSource, word: str
) -> tuple[np.ndarray, float]:
    """Labels of the synthetic images, as a logistic regression on the encoder's features of `judge_train` sees them;
    and its share of right answers on the test set."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, tested, seen = features_of([judge_train, test, synthetic], word)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(train, judge_train.labels)
    return np.asarray(judge.predict(seen)), float(judge.score(tested, test.labels))


def feature_distance(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """`feature_distance/frechet`, `/kernel`, `/precision` and `/recall` of the synthetic images against the real
    training set in the features of `evaluate.features`, the first 5,000 of each; nothing where these are pixels.

    They are figures of this encoder: not the FID and KID of papers, which look through Inception.
    """
    if context.features == "pixels":
        return
    sets = [_first(images) for images in (context.train, context.synthetic)]
    if min(map(len, sets)) <= NEIGHBOURS:
        return
    real, synthetic = features_of(sets, context.features)
    covered = precision_recall(real, synthetic, neighbours=NEIGHBOURS)
    yield "feature_distance/frechet", frechet_distance(real, synthetic)
    yield "feature_distance/kernel", kernel_distance(real, synthetic)
    yield "feature_distance/precision", covered.precision
    yield "feature_distance/recall", covered.recall


def _first(images: ImageSource) -> ImageSource:
    """The first images of every class, 5,000 in all at most."""
    if len(images) <= MOST_COMPARED:
        return images
    each = np.full(images.num_classes, max(1, MOST_COMPARED // np.count_nonzero(images.counts)))
    return images.take(first_per_class(images.labels, each))
