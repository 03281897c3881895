"""Labelled image sets in, a `RatioEstimate` or generators ranked out: images are read here, the rest is `bound`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.allocation import Allocation
from ray_synth.bound.curve import AGAIN_BELOW
from ray_synth.bound.estimator import METHODS, Question, predicted_from_features
from ray_synth.bound.networks import one_thread
from ray_synth.bound.ranking import best_probabilities
from ray_synth.bound.result import Ranked, RatioEstimate
from ray_synth.bound.samples import check_one_kind, check_together, checked_images, numbered_samples
from ray_synth.data.images import ImageSet
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.features.automatic import automatic_encoder
from ray_synth.features.cache import cached, features_folder
from ray_synth.features.encoders import USAGE, Encoder, encoder_of
from ray_synth.features.families import families_of, whole_features
from ray_synth.features.reading import Read, read_set

if TYPE_CHECKING:
    from ray_synth.progress import Reporter


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
    metric: str | None = None,
    target_images: np.ndarray | None = None,
    target_labels: np.ndarray | None = None,
    confidence: float = 0.9,
    seed: int = 0,
) -> RatioEstimate:
    """Predict the best synthetic ratio of a classifier before it is trained.

    The ratio is the probe's: ridge classifiers and small networks on frozen features, where an encoder has more than 64
    also linear layers on all of them, scored on held-out real images over a grid of ratios, the curve smoothed by a
    Gaussian process over log2(1 + ratio). Where these cannot tell, on fewer than 1,000 real images and built-in
    features, convolutional networks on thumbnails are asked too. The theories' own answers stand beside it in
    `methods`.

    Args:
        real_images, synthetic_images: uint8 [N,H,W,C] or [N,H,W] of one size. Larger ones are looked at in at most
            256 pixels a side, and spectra are taken of at most 2**26 pixels of a set (1,024 images of 256x256).
        real_labels, synthetic_labels: integers from 0, or names, in both alike: [N].
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
            "balanced_accuracy", the mean of the classes' recalls (of those with two real images or more). None: the
            latter where real classes are uneven and no labelled target is given.
        target_images, target_labels: a sample of another domain that the classifier is meant for. Labelled, it is what
            the probe is scored on; unlabelled, real images count by how much they look like it.
        confidence: of the interval and the curve's band.
        seed: of random features, networks and posterior draws. Same input and seed, same output.

    Raises:
        InputError: arrays that do not fit together, fewer than two real classes or four real images.
    """
    (found,) = rank_sources(
        _side("real", real_images, real_labels),
        {"synthetic": _side("synthetic", synthetic_images, synthetic_labels)},
        features=features,
        target=_target(target_images, target_labels),
        target_labelled=target_labels is not None,
        num_real=num_real,
        max_ratio=max_ratio,
        real_weight=real_weight,
        use_real=use_real,
        methods=methods,
        allocation=allocation,
        metric=metric,
        confidence=confidence,
        seed=seed,
    )
    return found.estimate


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

    Each is estimated as by `estimate_ratio`, in features that are fitted to all pilots together (of several, without a
    second look), and taken at its own best ratio. Pilots of one size make a fair comparison: a larger one tells more.

    Args:
        generators: name -> images and labels of its pilot.
        features, target_images, target_labels, asked: the other arguments of `estimate_ratio`.

    Returns:
        With the probability of being the best, and the estimate; the most probable first.

    Raises:
        InputError: no generator, or arrays that do not fit together (its name stands before the reason).
    """
    several = len(generators) > 1
    return rank_sources(
        _side("real", real_images, real_labels),
        {name: _side("synthetic", *pilot, said=name if several else "") for name, pilot in generators.items()},
        features=features,
        target=_target(target_images, target_labels),
        target_labelled=target_labels is not None,
        **asked,
    )


def rank_sources(
    real: ImageSource,
    generators: Mapping[str, ImageSource],
    *,
    features: Any = "auto",
    target: ImageSource | None = None,
    target_labelled: bool = True,
    reporter: Reporter | None = None,
    again: bool = True,
    **asked: Any,
) -> tuple[Ranked, ...]:
    """`rank_generators` on sources: each set is read once, in a stream, at most 256 pixels a side.

    Args:
        real, generators, target: images of one shape, whose labels number the same classes.
        target_labelled: False where the target's labels say nothing.
        reporter: shows how many images are read, and says what takes long after that.
        again: whether a single generator's is looked at again where features cannot tell.
        features, asked: the other arguments of `estimate_ratio`.

    Raises:
        InputError: sets that do not fit together, before any image is read, or an image that cannot be.
    """
    if not generators:
        raise InputError('generators must hold at least one pilot, got none; give {"name": (images, labels), ...}')
    for name, source in generators.items():
        sides = {"real": real, "synthetic": source} | ({} if target is None else {"target": target})
        with _named(name if len(generators) > 1 else ""):
            check_together(real.labels, {side: each.shape for side, each in sides.items()})
            check_one_kind({side: each.labels for side, each in sides.items() if side != "target" or target_labelled})
    encoder, seen_through = _encoder(features, real.shape)
    given, size = len(real), asked.get("num_real")
    question = Question(**{**asked, "num_given": given, "num_real": given if size is None else size})
    sources = [real, *generators.values(), *([] if target is None else [target])]
    with one_thread():
        # Arrays two at a time; files to decode, or a network to ask, keep all cores busy by themselves.
        at_once = 2 if encoder is None and all(isinstance(source, ImageSet) for source in sources) else 1
        with ThreadPoolExecutor(at_once) as pool, _bar(reporter, sources) as more:
            sets = list(pool.map(lambda source: read_set(source, encoder, once=source is real, more=more), sources))
        real_labels = real.labels[sets[0].rows]
        _check_read(sets[0], real_labels, real.shape, seen_through)
        families = families_of([each.taken for each in sets], seed=question.seed)
    stats, notes = [each.stats for each in sets], [f"real: {note}" for note in sets[0].notes]
    # Of several generators those that were looked at again would be measured by another rule than the rest.
    again &= encoder is None and len(generators) == 1 and len(real_labels) < AGAIN_BELOW
    taken = [each.taken for each in sets]
    whole, thumbnails = None if encoder is None else whole_features(taken), taken if again else None
    del sets, taken  # of a network: `whole` is half of it
    if len(real_labels) < given:
        question = replace(question, num_given=len(real_labels), num_real=len(real_labels) if size is None else size)
    found = {}
    for place, (name, source) in enumerate(generators.items(), start=1):
        samples = numbered_samples(
            (stats[0], real_labels),
            (stats[place], source.labels),
            None if target is None else (stats[-1], target.labels if target_labelled else None),
        )
        own = [0, place, *range(1 + len(generators), len(sources))]
        estimate, predicted = predicted_from_features(
            samples,
            {family: [rows[i] for i in own] for family, rows in families.items()},
            question,
            None if whole is None else [whole[i] for i in own],
            thumbnails,
            None if reporter is None else reporter.say,
        )
        found[name] = replace(estimate, features=seen_through, warnings=(*notes, *estimate.warnings)), predicted
    shares = best_probabilities([predicted for _, predicted in found.values()], question.seed)
    ranked = [
        Ranked(name=name, probability=round(float(share), 4), estimate=estimate)
        for (name, (estimate, _)), share in zip(found.items(), shares, strict=True)
    ]
    return tuple(sorted(ranked, key=lambda each: (-each.probability, min(each.estimate.curve.error))))


@contextmanager
def _bar(reporter: Reporter | None, sources: Sequence[ImageSource]) -> Iterator[Callable[[int], None]]:
    """Over all images. Yields what is told of so many more, which ends reading once something else went wrong: Ctrl-C
    does not wait for the rest."""
    total, done, lock, stopped = sum(map(len, sources)), 0, Lock(), Event()
    shown = nullcontext(lambda _: None) if reporter is None else reporter.part("images", f"{total:,} are read", total)
    with shown as advance:

        def more(number: int) -> None:
            nonlocal done
            if stopped.is_set():
                raise CancelledError
            with lock:
                done += number
                advance(done)

        try:
            yield more
        except BaseException:
            stopped.set()
            raise


def leading_features(sources: Sequence[ImageSource], *, features: Any = "auto", seed: int = 0) -> list[np.ndarray]:
    """Features [n_k,d] of every set, fitted to all of them together, those of the largest variance first.

    features: as in `estimate_ratio`.
    """
    encoder, _ = _encoder(features, sources[0].shape)
    with one_thread():
        families = families_of([read_set(source, encoder).taken for source in sources], seed=seed)
    return next(iter(families.values()))


def _check_read(real: Read, labels: np.ndarray, shape: tuple[int, int, int], seen_through: str) -> None:
    """Once copies are out, classes must be left, and something that differs between images."""
    try:
        check_together(labels, {"real": shape})
    except InputError as error:
        raise InputError(f"{error} ({'; '.join(real.notes)})" if real.notes else str(error)) from None
    if not np.ptp(real.taken, axis=0).any():
        raise InputError(
            f"all {len(labels)} real images look alike through {seen_through}: nothing tells their classes apart; give "
            "images that differ, or other features"
        )


@contextmanager
def _named(generator: str) -> Iterator[None]:
    """Errors say whose images they are of, where there are several generators."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{generator}: {error}" if generator else str(error)) from None


def _side(side: str, images: np.ndarray, labels: np.ndarray, said: str = "") -> ImageSource:
    """Arrays as a source. said: the generator that errors name."""
    with _named(said):
        pixels, numbers = checked_images(side, images, labels)
    return ImageSet(pixels=pixels, labels=numbers, class_names=())


def _target(images: np.ndarray | None, labels: np.ndarray | None) -> ImageSource | None:
    if images is None:
        if labels is not None:
            raise InputError("target_labels came without target_images; give both, or target_images alone")
        return None
    return _side("target", images, np.zeros(len(images), dtype=np.int64) if labels is None else labels)


def _encoder(features: Any, shape: tuple[int, int, int]) -> tuple[Encoder | None, str]:
    """None for the built-in families; and what images [H,W,C] are seen through, in words. What a word names is kept on
    disk. Pixels would be as many features as there are pixels: too many to estimate on."""
    if isinstance(features, str) and features == "pixels":
        raise InputError(f"features must be {USAGE}; got {features!r}")
    if isinstance(features, str) and features == "auto":
        encoder, words = automatic_encoder(shape)
    else:
        encoder = encoder_of(features)
        words = encoder.name
    return cached(encoder, features_folder()) if encoder and isinstance(features, str) else encoder, words
