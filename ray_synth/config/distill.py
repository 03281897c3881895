"""The `distill` section: how few images a data set is brought down to, by which method, and how they are judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, model_validator

from ray_synth.config.classifier import Augment, Classifier
from ray_synth.config.section import Section

Method = Literal["wmdd", "sre2l", "rded", "herding", "k_center", "random"]
RECOVERED: tuple[Method, ...] = ("wmdd", "sre2l")  # whose images are optimised; the others choose real ones
Label = Literal["soft", "hard"]
BN_WEIGHTS: dict[str, float] = {"wmdd": 10.0, "sre2l": 0.01}  # Table 6b; Yin et al., 2023, for ImageNet


class Teacher(Classifier):
    """The squeezed classifier, whose statistics and features the images are to have. It needs BatchNorm.

    Defaults: Liu et al., 2025, Table 6a, and the crops and flips of torchvision's reference training.
    """

    model: str = Field(
        "resnet18", description="a model with BatchNorm: resnet18, resnet50, resnet8 to resnet56, timm's"
    )
    lambda_1: float = Field(0.0, ge=0)
    lambda_2: float = Field(0.0, ge=0)
    budget: Literal["updates", "epochs"] = "epochs"
    epochs: int = Field(100, ge=1, description="passes over the real images")
    batch_size: int = Field(32, ge=2)
    optimizer: Literal["adamw", "sgd", "lamb"] = Field("sgd", description="sgd: with Nesterov momentum .9")
    learning_rate: float = Field(0.025, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0)
    augment: Augment = Augment(flip=0.5, resized_crop=(0.08, 1.0))
    keep: Literal["best", "last"] = "last"


class Recover(Section):
    """Images that are optimised until the teacher sees in them what it saw in real ones (Liu et al., 2025, Eq. 15).

    Defaults: Table 6b.
    """

    bn_weight: float | None = Field(
        None, ge=0, description="λ, of the BatchNorm loss; default 10 (wmdd) or 0.01 (sre2l)"
    )
    cross_entropy: float | None = Field(
        None, ge=0, description="weight of the teacher's cross-entropy; default 0 (wmdd; its release adds some) or 1"
    )
    iterations: int = Field(2000, ge=1, le=1_000_000)
    learning_rate: float = Field(0.25, gt=0, description="of Adam, in standard deviations of pixels")
    betas: tuple[float, float] = Field((0.5, 0.9), strict=False)
    batch_size: int = Field(100, ge=1, description="images that are optimised together, of one class or several")
    jitter: int | None = Field(
        None, ge=0, description="pixels that an image is rolled by at most, anew in each iteration; default: side / 7"
    )
    flip: float = Field(0.5, ge=0, le=1)
    crop: tuple[float, float] | None = Field(
        None, strict=False, description="share of the area that is looked at in each iteration; default: all of it"
    )

    @model_validator(mode="after")
    def _ranges(self) -> Recover:
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}; Table 6 has [0.5, 0.9]")
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop must be [low, high] with 0 < low <= high <= 1, got {self.crop}")
        return self


class Relabel(Section):
    """What the teacher says of every crop that a student is shown (FKD; Shen & Xing, 2022).

    Crops and mixes follow from a seed, the epoch and the image, so nothing of them is stored.
    """

    temperature: float = Field(20.0, gt=0)
    top_k: int | None = Field(None, ge=1, description="logits that are kept; the rest shares what is left evenly")
    store: bool = Field(
        False, description="also write the labels of every epoch, for trainings elsewhere; else they are made when used"
    )
    augment: Augment = Augment(flip=0.5, resized_crop=(0.08, 1.0))
    mixup: float = Field(0.0, ge=0, le=100, description="alpha; 0: none")
    cutmix: float = Field(1.0, ge=0, le=100, description="alpha; 0: none. With mixup too, each takes half the batches")


class PostTrain(Section):
    """Classifiers that are trained on the images from nothing, and tested. Defaults: Yin et al., 2023."""

    models: tuple[str, ...] = Field(("resnet18",), min_length=1, strict=False, description="as classifier.model")
    labels: tuple[Label, ...] = Field(("soft", "hard"), min_length=1, strict=False)
    repeats: int = Field(3, ge=1, le=100, description="seeds of each")
    epochs: int = Field(300, ge=1, le=100_000)
    batch_size: int = Field(64, ge=2)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(1e-2, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"


class Distill(Section):
    """A data set brought down to a few images a class. An experiment with this section distils, and does nothing else:
    neither generator nor sweep is asked for."""

    images_per_class: int = Field(10, ge=1, le=100_000)
    method: Method = Field(
        "wmdd",
        description="wmdd (Wasserstein barycenters), sre2l (global statistics), or real images: rded, herding, "
        "k_center, random",
    )
    weights: Literal["free", "uniform"] = Field(
        "free", description="of a barycenter's points: what an image stands for"
    )
    variant: Literal["paper", "released"] = Field(
        "paper",
        description="released: class variances without the variance of batch means, and one view a batch; as the "
        "released code has it",
    )
    compare: tuple[Method, ...] = Field(
        ("random",), strict=False, description="methods whose images are made and trained on beside these"
    )
    teacher: Teacher = Teacher()
    recover: Recover = Recover()
    relabel: Relabel = Relabel()
    posttrain: PostTrain = PostTrain()
    gpus_per_actor: float = Field(1.0, gt=0, le=1, description="a fraction lets actors share a GPU")

    @property
    def methods(self) -> tuple[Method, ...]:
        """What is made: the method, then those that it is compared with."""
        return tuple(dict.fromkeys((self.method, *self.compare)))

    @model_validator(mode="after")
    def _can_be_trained(self) -> Distill:
        for model in self.posttrain.models:
            try:
                self.student(model)
            except ValidationError as error:
                reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ").split("; type")[0]
                raise ValueError(
                    f"posttrain.models: {model!r} does not do: {reason}; type --set "
                    "'distill.posttrain.models=[resnet18]'"
                ) from None
        return self

    def student(self, model: str) -> Classifier:
        """The settings of a network that is trained on the images."""
        return Classifier.model_validate({"model": model, "lambda_1": 0.0, "lambda_2": 0.0})
