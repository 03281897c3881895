"""The `partition` and `classifier` sections: the regions of Eq. 7, and what is trained over them."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_synth.config.section import Section
from ray_synth.config.words import FEATURES, FEATURES_SAID, HomePath, encoder_in, file_in

# Layers, six for each block of each stage and two more; and how many times as wide as published.
SMALL_RESNET = r"resnet(8|14|20|32|44|56)(?:x([1-8]))?"


class PartitionSettings(Section):
    """The k-means regions of (Nguyen et al., 2025, Eq. 7), over real and synthetic images together."""

    num_clusters: int | None = Field(None, ge=1, description="default: clusters_per_class x classes")
    clusters_per_class: float = Field(2.0, gt=0, le=1000)
    iterations: int = Field(300, ge=1)
    features: HomePath = Field("pixels", pattern=FEATURES, description=FEATURES_SAID)

    @property
    def encoder(self) -> tuple[str, str] | None:
        """Model and weights file of features that are not pixels; no file where a package ships the weights."""
        return encoder_in(self.features)

    def clusters(self, num_classes: int) -> int:
        return self.num_clusters or max(1, round(self.clusters_per_class * num_classes))


class Lora(Section):
    """Low-rank adapters of an open_clip model; everything else stays frozen.

    Defaults: those of DataDream (Kim et al., 2024) and of Nguyen et al., 2025.
    """

    r: int = Field(16, ge=1, le=1024)
    alpha: float = Field(32.0, gt=0, le=10_000)
    dropout: float = Field(0.1, ge=0, lt=1)
    projections: tuple[Literal["q", "k", "v", "out"], ...] = Field(("q", "v"), min_length=1, strict=False)
    towers: tuple[Literal["image", "text"], ...] = Field(("image", "text"), min_length=1, strict=False)


class Schedule(Section):
    """The learning rate over the updates. Times are shares of the training."""

    name: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the updates with a rising rate")
    milestones: tuple[float, ...] = Field((0.25, 0.5, 0.75), strict=False, description="of multistep")
    gamma: float = Field(0.2, gt=0, le=1, description="of multistep: the rate is multiplied by it at each milestone")

    @model_validator(mode="after")
    def _shares(self) -> Schedule:
        wrong = [milestone for milestone in self.milestones if not 0 < milestone < 1]
        if wrong:
            raise ValueError(
                f"milestones must be shares of the training between 0 and 1, got {wrong[0]:g}; "
                "epochs 50, 100, 150 of 200 are [0.25, 0.5, 0.75]"
            )
        return self


class Augment(Section):
    """Random changes of the training images, each with its own probability; 0 leaves one out."""

    flip: float = Field(0.0, ge=0, le=1, description="mirrored left to right")
    resized_crop: tuple[float, float] | None = Field(
        None, strict=False, description="share of the area that a crop keeps, such as [0.5, 1.0]"
    )
    color_jitter: float = Field(0.0, ge=0, le=1, description="brightness, contrast, saturation .4, hue .1")
    grayscale: float = Field(0.0, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=1, description="Gaussian, sigma .1 to 2 at 224 pixels a side")
    solarize: float = Field(0.0, ge=0, le=1, description="pixels above the middle inverted")
    trivial: float = Field(
        0.0, ge=0, le=1, description="TrivialAugment: one of 14 changes of shape or colour, as strong as it falls"
    )

    @model_validator(mode="after")
    def _crop(self) -> Augment:
        if self.resized_crop is not None and not 0 < self.resized_crop[0] <= self.resized_crop[1] <= 1:
            raise ValueError(f"resized_crop must be [low, high] with 0 < low <= high <= 1, got {self.resized_crop}")
        return self


class Targets(Section):
    """What the cross-entropy sees: soft labels by mixing images (MixUp, CutMix) and by smoothing."""

    mixup: float = Field(0.0, ge=0, le=100, description="alpha; 0: none")
    cutmix: float = Field(0.0, ge=0, le=100, description="alpha; 0: none. With mixup too, each takes half the batches")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    binary: bool = Field(False, description="binary cross-entropy per class instead (Wightman et al., 2021)")


class Classifier(Section):
    """The classifier, its loss (Nguyen et al., 2025, Eq. 7) and its budget."""

    model: str = Field(
        "small_cnn",
        description="small_cnn, compact_cnn, resnet18, resnet50, resnet8 to resnet56 for small images (resnet20x2: "
        "twice as wide), timm:NAME, timm:NAME:/path/to/weights or open_clip:NAME",
    )
    weights: HomePath | None = Field(
        None,
        description="a local file to start from, or random; default: what a package ships for the model "
        "(timm:tf_efficientnet_lite0), else random; open_clip needs a file",
    )
    image_size: int | None = Field(None, ge=8, le=4096, description="what the model sees; default: the images' own")
    lora: Lora | None = Field(None, description="for open_clip; default there: q and v of both towers")
    prompt: str = Field("a photo of a {class}", pattern=r"\{class\}", description="of open_clip's zero-shot head")
    algorithm: Literal["full", "lightweight"] = Field(
        "full", description="the two terms over the batch (Algorithm 1) or over all data (Algorithm 2)"
    )
    weighting: Literal["uniform", "fixed"] = "uniform"
    real_weight: float = Field(4.0, gt=0, description="lambda of Eq. 7, used when weighting: fixed")
    lambda_1: float = Field(0.1, ge=0)
    lambda_2: float = Field(1.0, ge=0)
    variant: Literal["paper", "released"] = "paper"
    budget: Literal["updates", "epochs"] = "updates"
    updates: int = Field(500, ge=1, description="optimizer updates, the same at every ratio (budget: updates)")
    epochs: int = Field(30, ge=1, description="passes over the larger side (budget: epochs)")
    batch_size: int = Field(64, ge=2, description="images per update, half real and half synthetic where both exist")
    optimizer: Literal["adamw", "sgd", "lamb"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0, le=10)
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    targets: Targets = Targets()
    ema_decay: float = Field(0.0, ge=0, lt=1, description="of the weights that are evaluated and kept; 0: none")
    precision: Literal["float32", "bfloat16"] = "float32"
    keep: Literal["best", "last"] = Field("best", description="the weights of the best validation pass, or the last")
    evaluations: int = Field(5, ge=1, description="validation passes per training")
    num_workers: int = Field(1, ge=1, description="Ray Train workers of the final trainings")
    gather: bool = Field(True, description="workers exchange outputs: regions and terms are those of the whole batch")

    @model_validator(mode="before")
    @classmethod
    def _file_of_the_model(cls, given: Any) -> Any:
        """`model: timm:NAME:/path` is short for that model and `weights: /path`."""
        if not isinstance(given, dict) or not isinstance(given.get("model"), str):
            return given
        model, file = file_in(given["model"])
        if file is None:
            return given
        if given.get("weights") not in (None, file):
            raise ValueError(
                f"weights must be given once, got {given['model']!r} and {given['weights']!r}; "
                f"type --set classifier.weights={file} --set classifier.model={model}"
            )
        return {**given, "model": model, "weights": file}

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        known = rf"(small|compact)_cnn|resnet18|resnet50|{SMALL_RESNET}|(timm|open_clip):[A-Za-z0-9._/-]+"
        if not re.fullmatch(known, name):
            raise ValueError(
                "model must be 'small_cnn', 'compact_cnn', 'resnet18', 'resnet50', 'resnet20' (or 8 to 56), "
                f"'timm:NAME' or 'open_clip:NAME', got {name!r}; type --set classifier.model=small_cnn"
            )
        return name

    @model_validator(mode="after")
    def _shares(self) -> Classifier:
        share = 2 * self.num_workers
        if self.batch_size % share:
            raise ValueError(
                f"batch_size must be a multiple of 2 x num_workers ({share}), got {self.batch_size}; "
                f"type --set classifier.batch_size={max(1, round(self.batch_size / share)) * share}"
            )
        if self.budget == "updates" and self.evaluations > self.updates:
            raise ValueError(
                f"evaluations must be <= updates ({self.updates}), got {self.evaluations}; "
                "type --set classifier.evaluations=1"
            )
        if self.algorithm == "lightweight" and not self.gather:
            raise ValueError("gather must be true for algorithm: lightweight, whose terms need every worker's outputs")
        if self.model.startswith("open_clip:"):
            if self.weights is None:
                raise ValueError("weights is missing: open_clip needs a local file; type --set classifier.weights=FILE")
        elif self.lora is not None:
            raise ValueError(f"lora must be empty for model: {self.model}; it is for open_clip models")
        return self
