"""Real images and a recipe in; shadow models out, each trained on a half of them, and what each says of every image."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ray_synth.classifier.predict import logits_of
from ray_synth.classifier.together import fit_each
from ray_synth.config import Classifier, Lira
from ray_synth.data.decoding import unified
from ray_synth.data.images import ImageSet
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError, WorkError
from ray_synth.generator.base import Generator
from ray_synth.nodes import on_gpu_node
from ray_synth.runs import RunFolder
from ray_synth.sampling.batches import InBatches, joined
from ray_synth.sampling.chunks import Chunk, Plan
from ray_synth.sampling.conditions import conditions
from ray_synth.seeding import derive_seed
from ray_synth.training.team import Team

SYNTHETIC = "synthetic"  # beside `real`, among the names of what shadow models are trained on


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """How shadow models are trained: as the run's classifier on real images alone; with a generator, also on as many
    synthetic ones, made by one that was fitted on the same half."""

    lira: Lira
    classifier: Classifier
    validation: ImageSource
    generator: Generator[Any] | None = None

    @property
    def trained_on(self) -> tuple[str, ...]:
        return ("real", SYNTHETIC) if self.generator is not None else ("real",)


def halves(labels: np.ndarray, shadows: int, seed: int) -> np.ndarray:
    """Which images each shadow model is trained on: bool [shadows,n], from int [n].

    Models 2i and 2i+1 share the images: what one has the other lacks. So each image is in half of the models, and in
    half of those without any such pair; and each model has half of the images, of every class as even as it goes.
    """
    rng = np.random.default_rng(seed)
    inside = np.zeros((shadows, len(labels)), dtype=bool)
    for first in range(0, shadows, 2):
        order = rng.permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        # Alternating through all classes: of classes with odd numbers, the one more goes to either in turn.
        inside[first, order[rng.integers(2) :: 2]] = True
        inside[first + 1] = ~inside[first]
    return inside


def check_pool(counts: np.ndarray, generator: Generator[Any] | None) -> None:
    """Raise InputError for real images that cannot be halved, or a generator that cannot be fitted anew on each half.

    counts: real training images of each class, [C]. generator: where there are to be synthetic images.
    """
    if counts.min() < 2:
        raise InputError(
            f"evaluate.lira halves the real training images, of which a class has {counts.min()}; it needs >= 2 of "
            "each: raise data.shots, or type --set evaluate.lira=null"
        )
    if generator is None:
        return
    cure = "type --set evaluate.lira.synthetic=false to attack classifiers of real images alone"
    if generator.settings.names or not generator.fit_parts(counts):
        raise InputError(f"evaluate.lira.synthetic needs one generator, which the run trains itself; {cure}")
    if generator.fits_parents or generator.uses_real_images:
        raise InputError(
            "evaluate.lira.synthetic needs a generator without captions, latent priors and visual guidance, which look "
            f"at real images that a shadow model must not have seen; {cure}"
        )


def shadow_logits(pool: ImageSource, recipe: Recipe, inside: np.ndarray, on: str, seed: int) -> np.ndarray:
    """What each shadow model says of every image: float64 [shadows,n,K]. inside: as of `halves`; on: real | synthetic.

    On a GPU where the cluster has one.
    """
    return np.stack(list(on_gpu_node(_logits, pool, recipe, inside, on, seed)))


def _logits(pool: ImageSource, recipe: Recipe, inside: np.ndarray, on: str, seed: int) -> Iterator[np.ndarray]:
    sets: list[ImageSource] = [pool.take(np.flatnonzero(rows)) for rows in inside]
    seeds = [derive_seed("shadow", on, seed, place) for place in range(len(sets))]
    if on == SYNTHETIC:
        assert recipe.generator is not None  # noqa: S101 - `trained_on` says so
        sets = [made_from(half, recipe.generator, own) for half, own in zip(sets, seeds, strict=True)]
    for model in fit_each(sets, recipe.validation, recipe.classifier, seeds=seeds):
        yield logits_of(model, pool).double().numpy()


def made_from(real: ImageSource, generator: Generator[Any], seed: int) -> ImageSet:
    """As many synthetic images of each class as there are real ones, by a generator that was fitted on these alone.
    What is fitted is not kept, and no filter looks at the images.

    Raises:
        WorkError: images without finite pixels.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = f"{seed:016x}"
    plan = Plan(
        generator_digest=name,
        chunk_digest=name,
        images_per_class=tuple(int(count) for count in real.counts),
        chunk_size=len(real),
    )
    asked = [Chunk(name[:12], label, 0, count) for label, count in enumerate(plan.images_per_class) if count]
    with tempfile.TemporaryDirectory(prefix="ray_synth-shadow-") as scratch, torch.random.fork_rng(devices=[]):
        folder = RunFolder(scratch)
        fit = generator.fitter(folder, real, seed, None, Team())
        for part in generator.fit_parts(real.counts):
            for _ in fit(part):
                pass
        sampler = InBatches(generator.sampler(folder, None, device), generator.batch_size, pad=generator.pads_batches)
        made = sampler(joined([conditions(plan, chunk, generator, None) for chunk in asked]))
    spoiled = sum(map(bool, made["rejected"]))
    if spoiled:
        raise WorkError(
            f"{spoiled} of {len(made['rejected'])} images of a shadow model's generator are not finite; lower "
            "generator.learning_rate"
        )
    pixels = np.stack([unified(np.squeeze(image), real.shape) for image in made["image"]])
    return ImageSet(pixels=pixels, labels=np.asarray(made["label"], dtype=np.int64), class_names=real.class_names)
