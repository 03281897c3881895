"""Labelled image sets in, a `RatioEstimate` or generators ranked out: features are taken here, the rest is `bound`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ray_synth.allocation import Allocation
from ray_synth.bound.estimator import METHODS, Predicted, Question, predicted_from_features
from ray_synth.bound.networks import one_thread
from ray_synth.bound.ranking import best_probabilities
from ray_synth.bound.result import Ranked, RatioEstimate
from ray_synth.bound.samples import Samples, checked_samples
from ray_synth.errors import InputError
from ray_synth.features.automatic import automatic_encoder
from ray_synth.features.encoders import USAGE, Encoder, encoder_of
from ray_synth.features.families import linear_families


def estimate_ratio(
    real_images: np.ndarray,
    real_labels: np.ndarray,
    synthetic_images: np.ndarray,
    synthetic_labels: np.ndarray,
    *,
    num_real: int | None = None,
    max_ratio: float = 16.0,
    real_weight: float | None = None,
    use_real: bool = True,
    features: Any = "auto",
    methods: Sequence[str] = METHODS,
    allocation: Allocation | None = None,
    metric: str = "accuracy",
    target_images: np.ndarray | None = None,
    target_labels: np.ndarray | None = None,
    confidence: float = 0.9,
    seed: int = 0,
) -> RatioEstimate:
    """Predict the best synthetic ratio of a classifier before it is trained.

    The ratio is the probe's: ridge classifiers and small networks on frozen features, scored on held-out real images
    over a grid of ratios, the curve smoothed by a Gaussian process over log2(1 + ratio). The theories' own answers
    stand beside it in `methods`.

    Args:
        real_images, synthetic_images: uint8 [N,H,W,C] or [N,H,W] of one size.
        real_labels, synthetic_labels: integers [N], from 0.
        num_real: size of the real training set that the given real images are a sample of; default their number. The
            curve is then extrapolated along the learning curve between half of the images and all.
        max_ratio: the largest ratio considered. Ratios beyond the synthetic images given are extrapolated by weight.
        real_weight: λ of Eq. 7 (`weighting: fixed`); None for uniform weights.
        use_real: False asks how many synthetic images to train on without the real ones, which then only score. Ratio 0
            still means the real ones alone.
        features: "auto" (a pretrained network for photographs where the extra `pretrained` is installed, else
            thumbnails; nothing is downloaded), or what `features.encoders.encoder_of` takes: a function or
            torch module from images to features, an Encoder, "open_clip:MODEL:/path/to/weights",
            "timm:NAME:/path/to/weights", or "timm:NAME" where an installed package ships the weights.
        methods: which answers to compute, of "probe", "closed_form", "exact_risk", "stability", "scaling_law". The
            probe is always there: it is what the rest is compared with.
        allocation: which class gets how many: "fill", "equal" or "proportional" (`ray_synth.allocation`). All are
            compared; the answer is for this one, or for the best where it is None.
        metric: what is predicted: "accuracy", under the class shares of the real set (or of a labelled target), or
            "balanced_accuracy", the mean of the classes' recalls.
        target_images, target_labels: a sample of another domain that the classifier is meant for. Labelled, it is what
            the probe is scored on; unlabelled, real images count by how much they look like it.
        confidence: of the interval and the curve's band.
        seed: of random features, networks and posterior draws. Same input and seed, same output.

    Raises:
        InputError: arrays that do not fit together, fewer than two real classes or four real images.
    """
    asked = {
        "num_real": num_real,
        "max_ratio": max_ratio,
        "real_weight": real_weight,
        "use_real": use_real,
        "methods": methods,
        "allocation": allocation,
        "metric": metric,
        "confidence": confidence,
        "seed": seed,
    }
    generators = {"synthetic": (synthetic_images, synthetic_labels)}
    found = _estimates(real_images, real_labels, generators, asked, features, target_images, target_labels)
    return found["synthetic"][0]


def rank_generators(
    real_images: np.ndarray,
    real_labels: np.ndarray,
    generators: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    features: Any = "auto",
    target_images: np.ndarray | None = None,
    target_labels: np.ndarray | None = None,
    **asked: Any,
) -> tuple[Ranked, ...]:
    """Predict which generator (prompt, guidance, model, adapter) trains a classifier best, from a pilot of each.

    Each is estimated as by `estimate_ratio`, in features that are fitted to all pilots together, and taken at its own
    best ratio. Pilots of one size make a fair comparison: a larger one tells more.

    Args:
        generators: name -> images and labels of its pilot.
        features, target_images, target_labels, asked: the other arguments of `estimate_ratio`.

    Returns:
        With the probability of being the best, and the estimate; the most probable first.

    Raises:
        InputError: no generator, or arrays that do not fit together (its name stands before the reason).
    """
    if not generators:
        raise InputError('generators must hold at least one pilot, got none; give {"name": (images, labels), ...}')
    found = _estimates(real_images, real_labels, generators, asked, features, target_images, target_labels)
    shares = best_probabilities([predicted for _, predicted in found.values()], int(asked.get("seed", 0)))
    ranked = [
        Ranked(name=name, probability=round(float(share), 4), estimate=estimate)
        for (name, (estimate, _)), share in zip(found.items(), shares, strict=True)
    ]
    return tuple(sorted(ranked, key=lambda each: (-each.probability, min(each.estimate.curve.error))))


def _estimates(
    real_images: np.ndarray,
    real_labels: np.ndarray,
    generators: Mapping[str, tuple[np.ndarray, np.ndarray]],
    asked: Mapping[str, Any],
    features: Any,
    target_images: np.ndarray | None,
    target_labels: np.ndarray | None,
) -> dict[str, tuple[RatioEstimate, Predicted]]:
    """By generator, in features that are fitted to all images together."""
    samples: dict[str, Samples] = {}
    for name, (images, labels) in generators.items():
        try:
            samples[name] = checked_samples(real_images, real_labels, images, labels, target_images, target_labels)
        except InputError as error:
            raise InputError(f"{name}: {error}" if len(generators) > 1 else str(error)) from None
    first = next(iter(samples.values()))
    encoder, seen_through = _encoder(features, first.real.shape[1:])
    given = len(first.real)
    size = asked.get("num_real")
    question = Question(**{**asked, "num_given": given, "num_real": given if size is None else size})
    sets = [first.real, *(each.synthetic for each in samples.values()), *first.sets[2:]]
    with one_thread():
        families = linear_families(sets, encoder=encoder, seed=question.seed)
    found = {}
    for place, (name, each) in enumerate(samples.items(), start=1):
        own = {family: [rows[0], rows[place], *rows[1 + len(samples) :]] for family, rows in families.items()}
        estimate, predicted = predicted_from_features(each, own, question)
        found[name] = (replace(estimate, features=seen_through), predicted)
    return found


def _encoder(features: Any, shape: tuple[int, int, int]) -> tuple[Encoder | None, str]:
    """None for the built-in families; and its name. Pixels would be as many features as there are pixels: too many to
    estimate on. shape: [H,W,C] of the images."""
    if features == "pixels":
        raise InputError(f"features must be {USAGE}; got {features!r}")
    if isinstance(features, str) and features == "auto":
        return automatic_encoder(shape)
    encoder = encoder_of(features)
    return encoder, encoder.name
