"""Image sets and an encoder's word in; what a linear judge on its features says of labels, and distances, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ray_synth.classifier.regions import encoded
from ray_synth.data.source import ImageSource
from ray_synth.evaluators.context import EvaluationContext, first_of
from ray_synth.features.encoders import encoder_of
from ray_synth.features.families import MAX_SIDE, pooled
from ray_synth.metrics.fidelity import frechet_distance, gaussian_wasserstein2, precision_recall, shrunk_stats
from ray_synth.metrics.kernels import kernel_distance
from ray_synth.metrics.projection import principal_plane
from ray_synth.metrics.transport import transport
from ray_synth.nodes import on_gpu_node

MOST_COMPARED = 5000  # images a side: distances are between all pairs
MOST_MOVED = 1000  # images a side of W2, which solves a transport problem
NEIGHBOURS = 3  # of precision and recall
MOST_SHRUNK = 20  # classes whose covariances are shrunk, each in a second or two; of more the figure is left out
MOST_SHOWN = 400  # images a side of the plane that the report draws
FEWEST = 10  # images of a class a side; of fewer nothing is said


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
    """`feature_distance/frechet`, `/kernel`, `/precision`, `/recall` and `/wasserstein` of the synthetic images against
    the real ones that are not for testing, the first 5,000 of each, and the same of every class under
    `feature_distance/class/NAME`. With as many features as images or more, `/frechet_shrunk` stands for `/frechet`.

    They are figures of the encoder of `evaluate.features`, whose name and digest evaluation.json has, or of thumbnails:
    not the FID and KID of papers, which look through Inception.
    """
    sets = [first_of(images, MOST_COMPARED) for images in (context.all_but_test, context.synthetic)]
    if min(map(len, sets)) <= NEIGHBOURS:
        return
    word, notes = context.seen_through, list[str]()
    if word == "pixels":
        real, synthetic = (_thumbnails(images) for images in sets)
        seen_by: dict[str, Any] = {"encoder": f"thumbnails of at most {MAX_SIDE} pixels a side", "digest": None}
    else:
        real, synthetic = features_of(sets, word)
        encoder = encoder_of(word, device="cpu")
        seen_by = {"encoder": encoder.name, "digest": encoder.digest}
    yield from _distances("feature_distance", real, synthetic, notes)
    shrunk = len(context.class_names) <= MOST_SHRUNK
    for label, name in enumerate(context.class_names):
        of_class = [features[images.labels == label] for features, images in zip((real, synthetic), sets, strict=True)]
        if min(map(len, of_class)) >= FEWEST:
            yield from _distances(f"feature_distance/class/{name}", of_class[0], of_class[1], notes, shrunk=shrunk)
    counts = {"real_images": len(real), "synthetic_images": len(synthetic), "features": real.shape[1]}
    details = {**seen_by, **counts, "notes": _in_short(notes)}
    if real.shape[1] > 1:
        details["embedding"] = _embedding((real, synthetic), sets)
    context.details["feature_distance"] = details


def _distances(
    prefix: str, real: np.ndarray, synthetic: np.ndarray, notes: list[str], *, shrunk: bool = True
) -> Iterator[tuple[str, float]]:
    if min(len(real), len(synthetic)) > real.shape[1]:
        yield f"{prefix}/frechet", frechet_distance(real, synthetic)
    elif shrunk:
        stats = [shrunk_stats(features) for features in (real, synthetic)]
        yield f"{prefix}/frechet_shrunk", gaussian_wasserstein2(*stats)
        weights = " and ".join(f"{each.shrinkage:.2f}" for each in stats)
        notes.append(
            f"{prefix}: {len(real):,} real and {len(synthetic):,} synthetic images do not give a covariance of "
            f"{real.shape[1]:,} features; both are shrunk (Ledoit & Wolf, 2004; weights {weights}), and the figure is "
            "frechet_shrunk, which compares with none of other numbers of images"
        )
    covered = precision_recall(real, synthetic, neighbours=NEIGHBOURS)
    yield f"{prefix}/kernel", kernel_distance(real, synthetic)
    yield f"{prefix}/precision", covered.precision
    yield f"{prefix}/recall", covered.recall
    rows = [np.linspace(0, len(each) - 1, min(len(each), MOST_MOVED)).astype(int) for each in (real, synthetic)]
    yield f"{prefix}/wasserstein", transport(real[rows[0]], synthetic[rows[1]]).value


def _embedding(features: Sequence[np.ndarray], sets: Sequence[ImageSource]) -> dict[str, Any]:
    """Both sets on the plane of `principal_plane`: x, y and label of up to 400 images a side, evenly from all."""
    plane = principal_plane(*features)
    found: dict[str, Any] = {"shares": list(plane.shares)}
    for name, points, images in zip(("real", "synthetic"), (plane.real, plane.synthetic), sets, strict=True):
        rows = np.linspace(0, len(points) - 1, min(len(points), MOST_SHOWN)).astype(int)
        scale = max(float(np.abs(points).max()), 1e-12)
        digits = 3 - int(np.floor(np.log10(scale)))  # a page is drawn to a thousandth
        found[name] = [[*np.round(points[row], digits).tolist(), int(images.labels[row])] for row in rows]
    return found


def _in_short(notes: list[str]) -> list[str]:
    """The first one, and how many classes have the same to say."""
    return notes if len(notes) <= 1 else [notes[0], f"so it is with {len(notes) - 1} more"]


def _thumbnails(images: ImageSource) -> np.ndarray:
    found = np.concatenate([pooled(batch) for batch in images.batches()])
    return found.reshape(len(found), -1)
