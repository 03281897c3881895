"""`Experiment`: all sections of a file, and what must hold between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ray_synth.catalog import CATALOG
from ray_synth.config.classifier import Classifier, PartitionSettings
from ray_synth.config.data import Data
from ray_synth.config.distill import Distill
from ray_synth.config.generator import GENERATORS, Diffusion, Generate, Generator, kind_of
from ray_synth.config.ood import Ood
from ray_synth.config.section import Section, Settings
from ray_synth.config.sweep import Dimension, Metric, Sweep, check_space
from ray_synth.config.words import (
    COPIES_SAID,
    ENCODER,
    ENCODER_SAID,
    FEATURES,
    FEATURES_SAID,
    RANDOM,
    HomePath,
    encoder_in,
    file_in,
)


class Estimate(Section):
    """The prediction of the best ratio before training."""

    max_ratio: float = Field(16.0, gt=0, le=1000)
    pilot_ratio: float = Field(
        8.0, gt=0, le=1000, description="synthetic images the estimate may look at, per real image"
    )
    max_images: int = Field(
        10_000,
        ge=100,
        description="real images that the estimate reads at most, and synthetic ones of each generator: the class's "
        "share of them, but two real ones and one synthetic one at least",
    )
    features: HomePath = Field(
        "auto",
        pattern=rf"^(auto|{ENCODER})$",
        description=f"auto (the packaged network for photographs, else thumbnails), {ENCODER_SAID}",
    )
    confidence: float = Field(0.9, gt=0.5, lt=1)
    metric: Metric | None = Field(
        None,
        description="what is predicted: under the real images' class shares, or all classes alike; default: what the "
        "sweep maximises",
    )


class Copies(Section):
    """Which synthetic images are copies of real ones."""

    features: HomePath = Field(
        "pixels", pattern=FEATURES, description=f"what images are compared by: {COPIES_SAID}; pixels: in grey"
    )
    or_pixels: bool = Field(False, description="compare by pixels where the file that features names is missing")
    images: int = Field(1000, ge=1, description="synthetic images that are looked at at most, the first of each class")
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="a copy is nearer to a real image than this share of its mean distance to the next 50; default: "
        "what 1 in 400 real images keeps to others",
    )
    similarity: float | None = Field(
        None, gt=0, lt=1, description="or: its cosine to a real image is above this, such as 0.75 for SSCD"
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Copies:
        if self.threshold is not None and self.similarity is not None:
            raise ValueError("give either threshold or similarity; type --set evaluate.copies.similarity=null")
        return self

    @property
    def word(self) -> str:
        """What images are compared by here: `features`, or pixels in its place."""
        encoder = encoder_in(self.features)
        missing = encoder is not None and encoder[1] and not Path(encoder[1]).is_file()
        return "pixels" if missing and self.or_pixels else self.features


class Lira(Section):
    """Membership inference by the likelihood ratio attack: what a classifier leaks about its training images.

    Each shadow model is trained on a random half of the real training images, as the run's classifier is, and attacked
    by the others (Carlini et al., 2022).
    """

    shadows: int = Field(16, ge=6, le=256, multiple_of=2, description="shadow models; 64 and more attack better")
    mode: Literal["online", "offline"] = Field("online", description="offline: by models that did not see an image")
    fixed_variance: bool = Field(False, description="one variance for all images, for few shadow models")
    synthetic: bool = Field(
        False, description="also shadow models of synthetic images, each with a generator of its own: as many trainings"
    )


class Evaluate(Section):
    """The final comparison: real only, at the predicted ratio, at the swept best."""

    repeats: int = Field(3, ge=1, le=100, description="trainings per setting, each with its own seed")
    features: HomePath = Field(
        "pixels",
        pattern=FEATURES,
        description=f"what the judge of labels, and distances, look through: {FEATURES_SAID}; pixels: for photographs "
        "the packaged network, where it is installed",
    )
    baselines: tuple[Literal["tuned", "augmented"], ...] = Field(
        ("tuned", "augmented"),
        strict=False,
        description="also trained without synthetic images, as often: with what the sweep found, and with "
        "TrivialAugment beside that; [] for neither",
    )
    ood: Ood = Ood()
    copies: Copies = Copies()
    lira: Lira | None = Field(
        None, description="what a classifier leaks about its training images; {} for the defaults; default: not asked"
    )


class Experiment(Section):
    """A whole experiment file. Every default runs on a laptop."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data = Data()
    generator: Generator = Diffusion()
    generate: Generate = Generate()
    partition: PartitionSettings = PartitionSettings()
    classifier: Classifier = Classifier()
    estimate: Estimate = Estimate()
    sweep: Sweep = Sweep()
    evaluate: Evaluate = Evaluate()
    distill: Distill | None = Field(
        None, description="bring the real images down to a few a class; {} for the defaults; default: not asked"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, given: Any) -> Any:
        """What follows from the kind of generator and from a known data set, where the file does not say otherwise."""
        if not isinstance(given, dict):
            return given
        generator = GENERATORS.get(kind_of(given.get("generator", {})), Diffusion)
        data = given.get("data", {})
        kind = data.get("kind") if isinstance(data, dict) else getattr(data, "kind", None)
        known = CATALOG.get(kind) if isinstance(kind, str) else None
        defaults: dict[str, dict[str, Any]] = {}
        sampling = generator.defaults_with(given.get("generator", {}))
        if sampling:
            defaults["generate"] = dict(sampling)
        if known is not None:
            # The few-shot papers adapt the generator to the shots themselves; a part of its own would eat them up.
            defaults["data"] = {
                "image_size": known.image_size,
                "fit": "crop",
                "shots": known.shots,
                "generator_split": "shared",
                "max_validation": known.max_validation,
            }
            defaults["classifier"] = {
                "weighting": "fixed",
                "real_weight": known.real_weight,
                "prompt": known.prompt,
            }
            defaults["partition"] = {"clusters_per_class": known.clusters_per_class}
        filled = dict(given)
        for section, values in defaults.items():
            if isinstance(given.get(section, {}), dict):
                filled[section] = {**values, **given.get(section, {})}
        return _choosing_generators(filled)

    @model_validator(mode="after")
    def _space_fits(self) -> Experiment:
        check_space(self.sweep.searched, self.classifier, self.generator.names)
        return self

    @model_validator(mode="after")
    def _batches_are_shared(self) -> Experiment:
        """Ray Train's workers in a trial take equal shares of each half batch."""
        share = 2 * self.sweep.workers_per_trial
        for size in (self.classifier.batch_size, *self.sweep.choices_of("batch_size")):
            if size % share:
                raise ValueError(
                    f"classifier.batch_size must be a multiple of 2 x sweep.workers_per_trial ({share}), got {size}; "
                    f"type --set classifier.batch_size={max(1, round(size / share)) * share}"
                )
        return self

    @model_validator(mode="after")
    def _selects_from_a_pool(self) -> Experiment:
        if self.data.selection != "random" and self.generate.images_per_class is None:
            raise ValueError(
                f"data.selection: {self.data.selection} needs a pool to choose from; "
                "type --set generate.images_per_class=NUMBER, a few times as many as the ratio asks for"
            )
        return self

    @model_validator(mode="after")
    def _samples_as_its_kind(self) -> Experiment:
        self.generator.check_generate(self.generate)
        return self


def _choosing_generators(given: dict[str, Any]) -> dict[str, Any]:
    """Several generators are searched among, where the file does not say among which."""
    generator, sweep = given.get("generator"), given.get("sweep", {})
    path = generator.get("path") if isinstance(generator, dict) else getattr(generator, "path", None)
    space = sweep.get("space", {}) if isinstance(sweep, dict) else getattr(sweep, "space", None)
    if (
        kind_of(generator) != "folder"
        or not isinstance(path, dict)
        or not isinstance(space, dict)
        or "generator" in space
    ):
        return given
    if isinstance(sweep, dict):
        return {**given, "sweep": {**sweep, "space": {**space, "generator": {"choices": list(path)}}}}
    space = {**space, "generator": Dimension(choices=tuple(path))}
    return {**given, "sweep": sweep.model_copy(update={"space": space})}


PATHS = ("model", "path", "weights")  # settings that may be one; a hub id or an architecture is not


def with_absolute_paths(settings: Settings) -> Settings:
    """The same settings for workers, whose current folder is another one."""
    changes: dict[str, Any] = {}
    for name, value in settings:
        if value == RANDOM and isinstance(settings, Classifier):
            continue
        if isinstance(value, Section):
            changes[name] = with_absolute_paths(value)
        elif name == "model" and isinstance(settings, Classifier):
            continue  # an architecture
        elif isinstance(settings, Sweep) and name == "space":
            found = {key: value[key] for key in ("weights", "model") if value.get(key) is not None}
            changes[name] = {**value, **{key: _absolute_choices(key, each) for key, each in found.items()}}
        elif name == "path" and isinstance(value, dict):
            changes[name] = {key: str(Path(each).absolute()) for key, each in value.items()}
        elif isinstance(value, str) and (name == "lora" or (name in PATHS and Path(value).exists())):
            changes[name] = str(Path(value).absolute())
        elif name == "features" and (encoder := encoder_in(value)) and encoder[1]:
            changes[name] = value.removesuffix(encoder[1]) + str(Path(encoder[1]).absolute())
    return settings.model_copy(update=changes)


def _absolute_choices(name: str, dimension: Dimension) -> Dimension:
    """Of weights files, or of models with one in their name."""
    if dimension.choices is None:
        return dimension

    def absolute(choice: Any) -> Any:
        if name == "weights":
            return choice if choice in (None, RANDOM) else str(Path(choice).absolute())
        model, file = file_in(choice)
        return choice if file is None else f"{model}:{Path(file).absolute()}"

    return dimension.model_copy(update={"choices": tuple(map(absolute, dimension.choices))})
