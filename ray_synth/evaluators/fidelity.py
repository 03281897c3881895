"""How faithful the synthetic images are: to their labels, and to the real spectrum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ray_synth.classifier.mixture import TrainingData
from ray_synth.classifier.predict import logits_of
from ray_synth.classifier.train import fit
from ray_synth.config import Classifier
from ray_synth.data.source import ImageSource
from ray_synth.evaluators.context import MOST_LOOKED_AT, EvaluationContext, first_of
from ray_synth.evaluators.seen import linear_judge
from ray_synth.metrics.spectrum import Spectrum, mean_spectrum, rapsd, rapsd_distance
from ray_synth.seeding import derive_seed

BLOCK = 64  # images that are held at once as floats
LEAST_KNOWN = 0.5  # of the images: a judge that guesses more often than it knows says more of itself than of them
JUDGE = Classifier(updates=600, evaluations=1, keep="last", lambda_1=0.0, lambda_2=0.0)


def label_fidelity(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """`label_fidelity`, `label_fidelity/judge_accuracy` and `label_fidelity/class/NAME`; of a judge that guesses more
    often than it knows, its accuracy alone."""
    seed = derive_seed("judge", context.seed)
    sets = (first_of(context.all_but_test, MOST_LOOKED_AT), context.test, context.synthetic)
    found = dict(judged_fidelity(*sets, seed=seed, features=context.seen_through))
    accuracy, classes = found["label_fidelity/judge_accuracy"], len(context.class_names)
    known = known_share(accuracy, classes)
    judge = "a small network on pixels" if context.seen_through == "pixels" else f"linear on {context.seen_through}"
    details: dict[str, Any] = {"judge": judge, "knows": known}
    if known < LEAST_KNOWN:
        found = {"label_fidelity/judge_accuracy": accuracy}
        details["withheld"] = (
            f"the judge is right on {100 * accuracy:.1f} % of the test images, as one that knows {100 * known:.0f} % "
            f"and guesses the rest among {classes} classes: what it says of synthetic images is about itself; type "
            "--set evaluate.features=timm:tf_efficientnet_lite0 for a judge through a pretrained network"
        )
    context.details["label_fidelity"] = details
    yield from found.items()


def known_share(accuracy: float, classes: int) -> float:
    """The share of images that a judge knows, if it guesses evenly among all classes where it does not: accuracy is
    known + (1 - known) / classes. Of a judge of one class, none."""
    return (classes * accuracy - 1) / (classes - 1) if classes > 1 else 0.0


def judged_fidelity(
    judge_train: ImageSource, test: ImageSource, synthetic: ImageSource, *, seed: int, features: str = "pixels"
) -> Iterator[tuple[str, float]]:
    """The share of synthetic images that a judge, trained on real images alone, puts into the class that was asked for;
    in all, and of each class that has any.

    judge_train: real images outside the test set. features: the judge is a small network on pixels, or a linear
    classifier on an encoder's features. The judge's own test accuracy is yielded beside it: a fidelity
    above what the judge can tell means nothing.
    """
    if features == "pixels":
        said, accuracy = _network_judge(judge_train, test, synthetic, seed)
    else:
        said, accuracy = linear_judge(judge_train, test, synthetic, features)
    right = said == synthetic.labels
    yield "label_fidelity", float(right.mean())
    yield "label_fidelity/judge_accuracy", accuracy
    for label, name in enumerate(synthetic.class_names):
        if (of_class := synthetic.labels == label).any():
            yield f"label_fidelity/class/{name}", float(right[of_class].mean())


def _network_judge(
    judge_train: ImageSource, test: ImageSource, synthetic: ImageSource, seed: int
) -> tuple[np.ndarray, float]:
    """Labels of the synthetic images as a small network sees them, and its accuracy on the test set."""
    judged = fit(TrainingData.of_real(judge_train), test, JUDGE, seed=seed)
    return logits_of(judged.model, synthetic).argmax(1).numpy(), judged.accuracy


def spectral_distance(context: EvaluationContext) -> Iterator[tuple[str, float]]:
    """`rapsd_distance` of the radially averaged spectra of the real training set and the synthetic images, of very many
    the first of each class, pixels in [0, 1], the same of every class as `rapsd_distance/class/NAME`, and their slopes:
    `rapsd_slope/real` and `rapsd_slope/synthetic`."""
    sets = [first_of(images, MOST_LOOKED_AT) for images in (context.train, context.synthetic)]
    classes = [_spectra(images) for images in sets]
    spectra = [
        mean_spectrum(list(found.values()), images.counts[list(found)])
        for found, images in zip(classes, sets, strict=True)
    ]
    yield "rapsd_distance", rapsd_distance(*spectra)
    yield "rapsd_slope/real", spectra[0].slope
    yield "rapsd_slope/synthetic", spectra[1].slope
    for label, name in enumerate(context.class_names):
        if all(label in found for found in classes):
            yield f"rapsd_distance/class/{name}", rapsd_distance(*(found[label] for found in classes))


def _spectra(images: ImageSource) -> dict[int, Spectrum]:
    """Of each class that has images, by its label, a few images at a time."""
    found = {}
    for label in np.flatnonzero(images.counts).tolist():
        blocks = list(images.take(np.flatnonzero(images.labels == label)).batches(BLOCK))
        found[label] = mean_spectrum([rapsd(block / np.float64(255)) for block in blocks], list(map(len, blocks)))
    return found
