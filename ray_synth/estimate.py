"""Two labelled image sets in, a `RatioEstimate` out: their features are taken here, the rest is `bound.estimator`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ray_synth.allocation import Allocation
from ray_synth.bound.estimator import METHODS, Question, estimate_from_features
from ray_synth.bound.networks import one_thread
from ray_synth.bound.result import RatioEstimate
from ray_synth.bound.samples import checked_samples
from ray_synth.errors import InputError
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
        features: "auto" (built in, nothing is downloaded), or what `features.encoders.encoder_of` takes: a function or
            torch module from images to features, an Encoder, "open_clip:MODEL:/path/to/weights" or
            "timm:NAME:/path/to/weights".
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
    samples = checked_samples(
        real_images, real_labels, synthetic_images, synthetic_labels, target_images, target_labels
    )
    encoder, given = _encoder(features), len(samples.real)
    asked = Question(
        num_given=given,
        num_real=given if num_real is None else num_real,
        max_ratio=max_ratio,
        real_weight=real_weight,
        methods=methods,
        allocation=allocation,
        metric=metric,
        use_real=use_real,
        confidence=confidence,
        seed=seed,
    )
    with one_thread():
        linear = linear_families(samples.sets, encoder=encoder, seed=seed)
    return estimate_from_features(samples, linear, asked)


def _encoder(features: Any) -> Encoder | None:
    """None for the built-in families. Pixels would be as many features as there are pixels: too many to estimate on."""
    if features == "pixels":
        raise InputError(f"features must be {USAGE}; got {features!r}")
    return None if features == "auto" else encoder_of(features)
