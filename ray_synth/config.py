"""An experiment file in, a checked `Experiment` out: one model per section, unknown keys refused by name."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from ray_synth.catalog import CATALOG
from ray_synth.errors import InputError


class Section(BaseModel):
    """A section of the experiment file: frozen, and strict about what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


FORMATS = ("digits", "folder", "npz", "cifar10", "cifar100", "parquet", "webdataset", "huggingface")


Settings = TypeVar("Settings", bound=Section)


class Data(Section):
    """Where real images come from, and how they are split (four disjoint sets; the rest is the few-shot pool).

    Where the source has an official split, test is its test set, validation its validation set (else a fraction of
    train), and the fractions count train images.
    """

    kind: str = Field("digits", description="a format, or a known data set: " + ", ".join((*FORMATS, *CATALOG)))
    path: str | None = Field(None, description="the file or folder that holds the images; the README says what in it")
    class_list: str | None = Field(None, description="for ImageNet: a file with the synsets to keep, one a line")
    image_size: int | None = Field(None, ge=1, le=1024, description="resize to this many pixels a side")
    fit: Literal["stretch", "crop"] = Field(
        "stretch", description="crop: keep proportions, and the middle of the image"
    )
    shots: int | None = Field(10, ge=1, description="real training images per class; null takes the whole pool")
    use_real: bool = Field(True, description="false: train on synthetic images alone; the ratio still counts real ones")
    generator_split: Literal["disjoint", "shared"] = "disjoint"
    generator_fraction: float = Field(0.33, gt=0, lt=1)
    validation_fraction: float = Field(0.25, gt=0, lt=1)
    test_fraction: float = Field(0.27, gt=0, lt=1)
    max_generator: int | None = Field(None, ge=1, description="images per class at most in the generator's set")
    max_validation: int | None = Field(None, ge=1, description="images per class at most in the validation set")
    max_test: int | None = Field(None, ge=1, description="images per class at most in the test set")
    on_leak: Literal["refuse", "drop"] = Field(
        "refuse", description="of one image in two sets: drop takes it from the training side, never from test"
    )

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        known = (*FORMATS, *CATALOG)
        if kind not in known:
            close = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else "type --set data.kind=folder"
            raise ValueError(f"must be one of {', '.join(known)}, got {_short(kind)}; {hint}")
        return kind

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.kind != "digits" and self.path is None:
            raise ValueError(f"path is missing: kind: {self.kind} needs it; type --set data.path=FOLDER")
        if self.kind == "digits" and self.path is not None:
            raise ValueError(
                f"path must be empty for kind: digits, got {self.path!r}; "
                "type --set data.kind=folder to read images from it"
            )
        if self.class_list is not None and (self.kind not in CATALOG or CATALOG[self.kind].layout != "synsets"):
            raise ValueError(f"class_list must be empty for kind: {self.kind}; it picks classes of ImageNet")
        self._check_fractions()
        return self

    def _check_fractions(self) -> None:
        """A shared generator has no set of its own: its fraction is not used, and a cap would do nothing."""
        shared = self.generator_split == "shared"
        if shared and self.max_generator is not None:
            raise ValueError(
                f"max_generator must be empty for generator_split: shared, got {self.max_generator}; the generator "
                "sees the training images; type --set data.generator_split=disjoint to give it a set of its own"
            )
        used = [name for name in ("generator", "validation", "test") if not (shared and name == "generator")]
        total = sum(getattr(self, f"{name}_fraction") for name in used)
        if total >= 1:
            raise ValueError(
                f"{' + '.join(f'{name}_fraction' for name in used)} must be < 1 to leave images to train on, "
                f"got {total:.3g}; type --set data.{used[0]}_fraction={0.25 if shared else 0.33}"
            )

    @property
    def root(self) -> Path:
        """Where the images lie; of every kind but digits."""
        return Path(self.path or "")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that every image is brought to, where the file says."""
        return None if self.image_size is None else (self.image_size, self.image_size)

    @property
    def crop(self) -> bool:
        """Whether images of other proportions, real and synthetic, lose what sticks out."""
        return self.fit == "crop"


class Diffusion(Section):
    """A class-conditional diffusion model in pixel space (diffusers' UNet2DModel), trained from scratch."""

    kind: Literal["diffusion"] = "diffusion"
    block_out_channels: tuple[int, ...] = Field((32, 64), min_length=1, max_length=6, strict=False)
    layers_per_block: int = Field(1, ge=1, le=4)
    attention_resolutions: tuple[int, ...] = Field(
        (), strict=False, description="sides at which pixels attend to each other, such as [16]; the middle always does"
    )
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    beta_schedule: Literal["squaredcos_cap_v2", "linear"] = Field(
        "squaredcos_cap_v2", description="how noise grows with time: Nichol & Dhariwal's cosine, or Ho et al.'s line"
    )
    num_train_timesteps: int = Field(1000, ge=10, le=10_000)
    steps: int = Field(500, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(2e-3, gt=0, le=1)
    warmup_steps: int = Field(50, ge=0, description="steps with a rising rate; a cosine then falls to 0")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the training's matrix products")
    class_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels dropped, for classifier-free guidance")
    ema_decay: float = Field(0.995, ge=0, lt=1)

    @model_validator(mode="after")
    def _channels(self) -> Diffusion:
        for width in self.block_out_channels:
            if width < 8 or width % 8:
                raise ValueError(
                    f"block_out_channels must be multiples of 8, got {width}; "
                    "type --set generator.block_out_channels=[32,64]"
                )
        return self

    def level_sides(self, side: int) -> list[int]:
        """How large images with this longer side are at each level of the UNet, outermost first."""
        return [side // 2**level for level in range(len(self.block_out_channels))]


class Pretrained(Section):
    """A model that somebody else trained: a local folder, or a hub id with the commit that is meant."""

    model: str = Field(min_length=1, description="a local folder, or a hub id")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="commit of a hub id, 40 hex digits")


class Captions(Section):
    """One text per real image, for {caption} in a prompt: from a file, or made by an image-to-text model."""

    path: str | None = Field(None, description="metadata.csv or metadata.jsonl with columns file_name and text")
    model: Pretrained | None = Field(None, description="a transformers image-to-text model, such as BLIP-2")
    max_new_tokens: int = Field(30, ge=1, le=500)
    batch_size: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Captions:
        if (self.path is None) == (self.model is None):
            raise ValueError("give either path (a caption file) or model (which makes captions)")
        return self


class VisualGuidance(Section):
    """CLIP image embeddings joined to the text embeddings (Real-Fake, section 3.2).

    variant paper: the mean embedding of the class, as one more token. variant released: the embedding of the parent
    image, in place of the last text token.
    """

    encoder: Pretrained = Field(description="a CLIPVisionModelWithProjection whose projection is as wide as the text's")
    variant: Literal["paper", "released"] = "paper"


class StableDiffusion(Section):
    """Stable Diffusion 1.x or 2.x through diffusers: text-to-image, or image-to-image with `strength`."""

    kind: Literal["stable_diffusion"] = "stable_diffusion"
    model: str = Field(min_length=1, description="a local folder, or a hub id")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="commit of a hub id, 40 hex digits")
    image_size: int | None = Field(None, ge=8, le=4096, multiple_of=8, description="default: the model's own")
    prompt: tuple[str, ...] = Field(
        ("a photo of a {class}",),
        min_length=1,
        strict=False,
        description="one or more templates, taken in turn; {class}, {dataset} and {caption} are filled in",
    )
    negative_prompt: str = ""
    dataset: str = Field("", description="what {dataset} stands for, such as satellite")
    class_words: dict[str, str] = Field({}, description="class name -> what {class} stands for, where they differ")
    captions: Captions | None = None
    strength: float | None = Field(
        None, gt=0, le=1, description="latent prior: start from a real image of the class, noised this far"
    )
    visual_guidance: VisualGuidance | None = None
    lora: str | None = Field(None, description="a LoRA file; {class} or {label} in its path gives one per class")
    lora_scale: float = Field(1.0, ge=0, le=10)
    pipeline_args: dict[str, Any] = Field({}, description="more arguments of the pipeline's call, such as clip_skip")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    compile: bool = Field(False, description="torch.compile the UNet and the decoder")
    channels_last: bool = True
    allow_pickle: bool = Field(False, description="also load weights that are not safetensors: they can run any code")

    @model_validator(mode="before")
    @classmethod
    def _one_prompt(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("prompt"), str):
            return {**given, "prompt": [given["prompt"]]}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> StableDiffusion:
        for template in (*self.prompt, self.negative_prompt):
            unknown = set(re.findall(r"\{([^{}]*)\}", template)) - {"class", "dataset", "caption"}
            if unknown:
                raise ValueError(
                    f"prompt may hold {{class}}, {{dataset}} and {{caption}}, got {{{min(unknown)}}} in {template!r}"
                )
        if any("{caption}" in template for template in self.prompt) != (self.captions is not None):
            raise ValueError(
                "captions and {caption} in the prompt belong together; type --set generator.captions.path=FILE "
                "or leave both out"
            )
        return self

    @property
    def uses_parents(self) -> bool:
        """Whether an image comes from one real image of its class, its parent."""
        guided = self.visual_guidance is not None and self.visual_guidance.variant == "released"
        return self.strength is not None or self.captions is not None or guided

    @property
    def uses_real_images(self) -> bool:
        return self.uses_parents or self.visual_guidance is not None


class ImageFolder(Section):
    """Images that exist already: PATH/class_name/*.png|jpg|jpeg|webp, taken in the order of their names."""

    kind: Literal["folder"] = "folder"
    path: str = Field(min_length=1)


def _kind_of(section: Any) -> str:
    """Which generator a section describes; `diffusion` where it does not say."""
    return str(section.get("kind", "diffusion") if isinstance(section, dict) else getattr(section, "kind", "diffusion"))


GENERATORS: dict[str, type[Section]] = {
    "diffusion": Diffusion,
    "stable_diffusion": StableDiffusion,
    "folder": ImageFolder,
}
GeneratorSettings = Diffusion | StableDiffusion | ImageFolder
Generator = Annotated[
    Annotated[Diffusion, Tag("diffusion")]
    | Annotated[StableDiffusion, Tag("stable_diffusion")]
    | Annotated[ImageFolder, Tag("folder")],
    Discriminator(
        _kind_of,
        custom_error_type="generator_kind",
        custom_error_message="generator.kind must be diffusion, stable_diffusion or folder",
    ),
]


class ClipFilter(Section):
    """Keep an image only if open_clip, asked with zero-shot prompts, sees its class in it."""

    model: str = Field(min_length=1, description="an open_clip architecture, such as ViT-B-32")
    weights: str = Field(min_length=1, description="path of its weights (safetensors, or a plain state dict)")
    rule: Literal["argmax", "above_chance"] = Field(
        "argmax", description="argmax: the class is the likeliest; above_chance: its probability is above 1/C"
    )
    prompt: str = Field("a photo of a {class}", pattern=r"\{class\}")


class Filter(Section):
    """Which images are set aside. NaN always is."""

    blank: bool = Field(True, description="one colour all over")
    near_copies: bool = Field(False, description="closer to a real training image than those are to each other")
    clip: ClipFilter | None = None


class Generate(Section):
    """How many images to sample, and how. Steps and guidance that are not given follow the kind of generator."""

    images_per_class: int | None = Field(
        None, ge=1, description="default: what the estimate looks at, and then as many as a trial needs"
    )
    scheduler: str = Field("UniPCMultistepScheduler", pattern=r"^[A-Za-z0-9_]+$", description="a diffusers scheduler")
    num_inference_steps: int = Field(20, ge=1, le=1000)
    guidance_scale: float = Field(1.5, ge=0, le=100)
    noise_variance: float = Field(
        0.0, ge=0, le=100, description="of Gaussian noise on what kind: diffusion samples, pixels in [-1, 1]"
    )
    chunk_size: int = Field(80, ge=1, description="images per chunk: the unit of work, and one file")
    batch_size: int | None = Field(None, ge=1, description="images at once; default 80, for stable_diffusion 8")
    max_attempts: int = Field(3, ge=1, le=1000, description="images sampled per image asked, before giving up")
    filter: Filter = Filter()
    format: Literal["png", "webp", "jpeg"] = "png"
    quality: int = Field(95, ge=1, le=100, description="of webp and jpeg; webp at 100 is lossless")
    num_actors: int | Annotated[tuple[int, int], Field(strict=False)] | None = Field(
        None, description="sampling actors, or [min, max]; default one per CPU (or per share of a GPU)"
    )
    gpus_per_actor: float = Field(1.0, gt=0, le=16, description="a fraction lets actors share a GPU")

    @model_validator(mode="after")
    def _pool(self) -> Generate:
        low, high = self.pool if self.pool is not None else (1, 1)
        if not 1 <= low <= high:
            raise ValueError(f"num_actors must be >= 1, or [min, max] with 1 <= min <= max, got {self.num_actors}")
        if self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
            raise ValueError(f"gpus_per_actor must be a whole number above 1, got {self.gpus_per_actor:g}")
        return self

    @property
    def pool(self) -> tuple[int, int] | None:
        return (self.num_actors, self.num_actors) if isinstance(self.num_actors, int) else self.num_actors


# Real-Fake, appendix: UniPC, 30 steps, guidance 2.0.
GENERATE_DEFAULTS = {"stable_diffusion": {"num_inference_steps": 30, "guidance_scale": 2.0, "batch_size": 8}}
SAMPLING = ("scheduler", "num_inference_steps", "guidance_scale")  # what the pixels depend on


class PartitionSettings(Section):
    """The k-means regions of Eq. 7 (paper 000), over real and synthetic images together."""

    num_clusters: int | None = Field(None, ge=1, description="default: clusters_per_class x classes")
    clusters_per_class: float = Field(2.0, gt=0, le=1000)
    iterations: int = Field(300, ge=1)
    features: str = Field(
        "pixels", pattern=r"^(pixels|open_clip:[^:]+:.+)$", description="pixels, or open_clip:MODEL:/path/to/weights"
    )

    @property
    def encoder(self) -> tuple[str, str] | None:
        """Model and weights file of open_clip features."""
        _, _, spec = self.features.partition(":")
        model, _, weights = spec.partition(":")
        return (model.replace("/", "-"), weights) if spec else None  # as open_clip writes ViT-B/16

    def clusters(self, num_classes: int) -> int:
        return self.num_clusters or max(1, round(self.clusters_per_class * num_classes))


class Lora(Section):
    """Low-rank adapters of an open_clip model; everything else stays frozen. Defaults: DataDream's and paper 000's."""

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
    """The classifier, its loss (Eq. 7 of paper 000) and its budget."""

    model: str = Field(
        "small_cnn", description="small_cnn, compact_cnn, resnet18, resnet50, timm:NAME or open_clip:NAME"
    )
    weights: str | None = Field(None, description="a local file to start from; open_clip needs one")
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

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        if not re.fullmatch(r"(small|compact)_cnn|resnet18|resnet50|(timm|open_clip):[A-Za-z0-9._/-]+", name):
            raise ValueError(
                "model must be 'small_cnn', 'compact_cnn', 'resnet18', 'resnet50', 'timm:NAME' or 'open_clip:NAME', "
                f"got {name!r}; type --set classifier.model=small_cnn"
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


class Estimate(Section):
    """The prediction of the best ratio before training."""

    max_ratio: float = Field(16.0, gt=0, le=1000)
    pilot_ratio: float = Field(
        8.0, gt=0, le=1000, description="synthetic images the estimate may look at, per real image"
    )
    confidence: float = Field(0.9, gt=0.5, lt=1)


SCALES = ("linear", "log", "log1p")


class Dimension(Section):
    """What the sweep may give one setting: a range, a list of choices, or a multiple of another one.

    `log1p` spreads trials evenly over log(1 + value), which includes zero.
    """

    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log", "log1p"] = "linear"
    choices: tuple[Any, ...] | None = Field(None, strict=False, description="values to choose from")
    tied_to: str | None = Field(None, description="another key of the space; the value is factor times that one's")
    factor: float = Field(1.0, gt=0, description="of tied_to")

    @model_validator(mode="after")
    def _one_form(self) -> Dimension:
        ranged = self.low is not None or self.high is not None
        if ranged + (self.choices is not None) + (self.tied_to is not None) != 1:
            raise ValueError("give either low and high, or choices, or tied_to (with factor)")
        if self.choices is not None and not self.choices:
            raise ValueError("choices must hold a value, got none; leave the key out to keep it fixed")
        if self.choices is not None and any(self.choices.index(c) < i for i, c in enumerate(self.choices)):
            raise ValueError(f"choices must differ, got {list(self.choices)}")
        if not ranged:
            return self
        if self.low is None or self.high is None:
            raise ValueError(f"{'low' if self.low is None else 'high'} is missing: a range needs low and high")
        if self.low > self.high:
            raise ValueError(f"low must be <= high, got low={self.low:g}, high={self.high:g}; swap them")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low must be > 0 on a log scale, got {self.low:g}; use scale: log1p to include zero")
        if self.low < 0:
            raise ValueError(f"low must be >= 0, got {self.low:g}")
        return self


# What is searched beside the ratio where the file does not say otherwise.
SPACE: dict[str, dict[str, Any]] = {
    "lambda_1": {"low": 0.01, "high": 1.0, "scale": "log"},
    "lambda_2": {"low": 0.01, "high": 1.0, "scale": "log"},
    "clusters_per_class": {"low": 0.5, "high": 4.0},
}
SEARCHED = ("synthetic_ratio", "num_clusters", "clusters_per_class")  # and the keys of the classifier section
NOT_SEARCHED = ("evaluations", "num_workers", "gather", "keep")  # of the classifier section
METRICS = ("accuracy", "balanced_accuracy")  # what a trial reports, on the validation set


def _flat(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A searched setting of a subsection by its dotted name: `augment: {flip: {low: 0, high: 1}}`."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        nested = isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values())
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


class Sweep(Section):
    """The search of the ratio and any setting of the classifier with Ray Tune and Optuna."""

    num_trials: int = Field(24, ge=1, le=100_000)
    max_ratio: float = Field(16.0, gt=0, le=1000)
    space: dict[str, Dimension | None] = Field(
        {}, validate_default=True, description="setting -> what it may be; null leaves a default one fixed"
    )
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    prior: Literal["none", "points", "distribution"] = Field(
        "distribution",
        description="what the prediction becomes: nothing, the first trials, or also where ratios are drawn from",
    )
    repeats: int = Field(1, ge=1, le=100, description="seeds a setting is trained with; their mean counts")
    metric: str = Field("accuracy", description="what is maximised: " + " or ".join(METRICS))
    tolerance: float = Field(0.005, ge=0, lt=1, description="accuracy that the cheapest good trial may give away")
    pruner: Literal["asha", "none"] = "asha"
    grace: int = Field(2, ge=1, description="validation passes before a trial may be stopped early")
    reduction_factor: float = Field(3.0, gt=1)
    concurrency: int | None = Field(None, ge=1, description="trials at once; default as many as fit")
    gpus_per_trial: float = Field(1.0, gt=0, le=1, description="a fraction lets trials share a GPU")
    workers_per_trial: int = Field(1, ge=1, description="Ray Train workers of a trial; each has a GPU of its own")

    @field_validator("metric")
    @classmethod
    def _reported(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"trials report {' and '.join(METRICS)}, got {metric!r}; type --set sweep.metric=accuracy")
        return metric

    @field_validator("space", mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        """A default one of which some keys are given keeps the others: `lambda_1: {high: 10}`. Null takes one out."""
        if not isinstance(given, dict):
            return given
        given = _flat(given)
        if given.get("num_clusters") and given.get("clusters_per_class"):
            raise ValueError("give either num_clusters or clusters_per_class, not both")
        space: dict[str, Any] = {}
        for name in dict.fromkeys((*SPACE, *given)):
            value = given.get(name, SPACE.get(name))
            if isinstance(value, dict) and not {"choices", "tied_to"} & set(value):
                value = {**SPACE.get(name, {}), **value}
            space[name] = None if name == "clusters_per_class" and given.get("num_clusters") else value
        return space

    @property
    def searched(self) -> dict[str, Dimension]:
        return {name: dimension for name, dimension in self.space.items() if dimension is not None}

    @property
    def top_ratio(self) -> float:
        """The largest ratio that the space asks for."""
        ratio = self.searched.get("synthetic_ratio")
        if ratio is None:
            return self.max_ratio
        return float(max(ratio.choices)) if ratio.choices is not None else float(ratio.high or 0.0)

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        for name, dimension in self.searched.items():
            other = dimension.tied_to
            free = [key for key, d in self.searched.items() if d.tied_to is None]
            if other is not None and other not in free:
                raise ValueError(f"space.{name}: tied_to must name one of {', '.join(free)}, got {other!r}")
            if self.sampler == "grid" and dimension.choices is None and dimension.tied_to is None:
                raise ValueError(
                    f"space.{name}: sampler: grid needs choices, got a range; "
                    f"type --set sweep.space.{name}.choices=[...], or =null to keep it fixed"
                )
        if self.sampler == "grid" and "synthetic_ratio" not in self.searched:
            raise ValueError(
                "space.synthetic_ratio is missing: sampler: grid needs its choices; "
                "type --set sweep.space.synthetic_ratio.choices=[0,0.25,0.5,1,2,4,8,16]"
            )
        return self


class Evaluate(Section):
    """The final comparison: real only, at the predicted ratio, at the swept best."""

    repeats: int = Field(3, ge=1, le=100, description="trainings per setting, each with its own seed")


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

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, given: Any) -> Any:
        """What follows from the kind of generator and from a known data set, where the file does not say otherwise."""
        if not isinstance(given, dict):
            return given
        generate = GENERATE_DEFAULTS.get(_kind_of(given.get("generator", {})), {})
        data = given.get("data", {})
        kind = data.get("kind") if isinstance(data, dict) else getattr(data, "kind", None)
        known = CATALOG.get(kind) if isinstance(kind, str) else None
        defaults: dict[str, dict[str, Any]] = {"generate": dict(generate)} if generate else {}
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
        return filled

    @model_validator(mode="after")
    def _space_fits(self) -> Experiment:
        """Every choice and every end of a range must be a setting that can be trained with."""
        classifier = self.classifier
        space = self.sweep.searched
        for name, dimension in space.items():
            if name in SEARCHED:
                _check_searched(name, dimension)
                continue
            known = [key for key in keys_of(classifier) if key not in NOT_SEARCHED]
            if name not in known:
                close = difflib.get_close_matches(name, [*SEARCHED, *known], n=1, cutoff=0.5)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join([*SEARCHED, *known])}"
                raise ValueError(f"unknown key sweep.space.{name}; {hint}")
            if name == "real_weight" and classifier.weighting == "uniform":
                raise ValueError(
                    "sweep.space.real_weight has no effect with classifier.weighting: uniform; "
                    "type --set classifier.weighting=fixed"
                )
            tied = space[dimension.tied_to] if dimension.tied_to else None
            for value in _samples(tied or dimension):
                if tied and (isinstance(value, bool) or not isinstance(value, int | float)):
                    raise ValueError(
                        f"sweep.space.{name}: tied_to must name numbers, and {dimension.tied_to} may be {value!r}"
                    )
                value = value * dimension.factor if tied else value
                try:
                    changed(classifier, {name: value})
                except ValidationError as error:
                    reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ").split("; type")[0]
                    raise ValueError(f"sweep.space.{name}: {value!r} does not do: {reason}") from None
        return self

    @model_validator(mode="after")
    def _batches_are_shared(self) -> Experiment:
        """Ray Train's workers in a trial take equal shares of each half batch."""
        share = 2 * self.sweep.workers_per_trial
        searched = self.sweep.searched.get("batch_size")
        for size in (self.classifier.batch_size, *((searched.choices or ()) if searched is not None else ())):
            if size % share:
                raise ValueError(
                    f"classifier.batch_size must be a multiple of 2 x sweep.workers_per_trial ({share}), got {size}; "
                    f"type --set classifier.batch_size={max(1, round(size / share)) * share}"
                )
        return self

    @model_validator(mode="after")
    def _steps_exist(self) -> Experiment:
        if self.generator.kind == "folder":
            for name in sorted({*SAMPLING, "batch_size"} & self.generate.model_fields_set):
                if getattr(self.generate, name) != Generate.model_fields[name].default:
                    raise ValueError(
                        f"generate.{name} has no meaning for generator.kind: folder, whose images exist already; "
                        "leave it out"
                    )
        if self.generator.kind != "diffusion":
            if self.generate.noise_variance:
                raise ValueError(
                    f"generate.noise_variance must be 0 for generator.kind: {self.generator.kind}, got "
                    f"{self.generate.noise_variance:g}; only kind: diffusion adds noise to what it samples"
                )
            return self
        steps, times = self.generate.num_inference_steps, self.generator.num_train_timesteps
        if steps > times:
            raise ValueError(
                f"generate.num_inference_steps must be <= generator.num_train_timesteps ({times}), got {steps}; "
                f"type --set generate.num_inference_steps={times}"
            )
        return self


PATHS = ("model", "path", "weights")  # settings that may be one; a hub id or an architecture is not


def digest(*parts: Any) -> str:
    """SHA-256 of JSON-ready parts (models included), independent of key order."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def keys_of(settings: Section, prefix: str = "") -> list[str]:
    """Dotted names of the settings of a section that hold a value of their own."""
    names = []
    for name, value in settings:
        names += keys_of(value, f"{prefix}{name}.") if isinstance(value, Section) else [prefix + name]
    return names


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The same settings with other values by dotted name; a fraction for a whole number is rounded.

    Raises ValidationError where they do not do.
    """
    raw = settings.model_dump()
    for key, value in values.items():
        *parents, last = key.split(".")
        here = raw
        for name in parents:
            here = here[name]
        whole = isinstance(here[last], int) and not isinstance(here[last], bool)
        here[last] = round(value) if whole and isinstance(value, float) else value
    return type(settings).model_validate(raw)


def _ends(dimension: Dimension) -> tuple[Any, ...]:
    return dimension.choices if dimension.choices is not None else (dimension.low, dimension.high)


def _samples(dimension: Dimension) -> tuple[Any, ...]:
    """The ends, and the whole number after the first one: what a batch is shared among may divide the ends alone."""
    ends = _ends(dimension)
    if dimension.choices is not None or math.floor(ends[0]) + 1 >= ends[1]:
        return ends
    return (*ends, math.floor(ends[0]) + 1)


def _check_searched(name: str, dimension: Dimension) -> None:
    """The ratio and the clusters are numbers, of which the classifier section knows nothing."""
    if dimension.tied_to is not None:
        raise ValueError(f"sweep.space.{name} cannot be tied; give low and high, or choices")
    for value in _ends(dimension):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 100_000 or (value == 0 and name != "synthetic_ratio"):
            raise ValueError(f"sweep.space.{name}: numbers above 0 (of the ratio: from 0) are allowed, got {value!r}")


def with_absolute_paths(settings: Settings) -> Settings:
    """The same settings for workers, whose current folder is another one."""
    changes: dict[str, Any] = {}
    for name, value in settings:
        if isinstance(value, Section):
            changes[name] = with_absolute_paths(value)
        elif name == "model" and isinstance(settings, Classifier):
            continue  # an architecture
        elif isinstance(settings, Sweep) and name == "space" and value.get("weights") is not None:
            files = tuple(choice and str(Path(choice).absolute()) for choice in value["weights"].choices or ())
            changes[name] = {**value, "weights": value["weights"].model_copy(update={"choices": files})}
        elif isinstance(value, str) and (name == "lora" or (name in PATHS and Path(value).exists())):
            changes[name] = str(Path(value).absolute())
        elif name == "features" and isinstance(settings, PartitionSettings) and settings.encoder:
            model, weights = settings.encoder
            changes[name] = f"open_clip:{model}:{Path(weights).absolute()}"
    return settings.model_copy(update=changes)


def load_experiment(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, seed: int | None = None
) -> Experiment:
    """Read, override and check an experiment file.

    Args:
        path: YAML file, read safely (no tags, no duplicate keys). Its `base`, a path seen from the file, is read first;
            the file's sections are laid over the base's, key by key.
        overrides: dotted key -> value, as `--set data.shots=5` gives them.
        seed: replaces the file's `seed`.

    Raises:
        InputError: for anything wrong in the file or the overrides, one line per problem.
    """
    path = Path(path)
    raw, files = _with_bases(path)
    label = path.name if len(files) == 1 else f"{path.name} (base {', '.join(file.name for file in files[1:])})"
    for key, value in (overrides or {}).items():
        _override(raw, key, value)
    if seed is not None:
        raw["seed"] = seed
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(raw, item) for item in error.errors())
        raise InputError("\n".join(f"{label}: {problem}" for problem in problems)) from None


def _with_bases(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """What stands in the file over what stands in its base, and so on down; and the files, the first one first."""
    raw = _read_file(path, f"experiment file not found: {path}")
    files = [path]
    while (base := raw.pop("base", None)) is not None:
        if not isinstance(base, str):
            raise InputError(f"{files[-1]}: base must be the path of an experiment file, got {_short(base)}")
        below = files[-1].parent / base
        if below.resolve() in [file.resolve() for file in files]:
            chain = " -> ".join(str(file) for file in [*files, below])
            raise InputError(f"{files[-1]}: base: {base} leads back to a file that stands on it ({chain})")
        under = _read_file(below, f"{files[-1]}: base not found: {below}")
        raw = _merged(under, raw)
        files.append(below)
    return raw, files


def _read_file(path: Path, missing: str) -> dict[str, Any]:
    """What a YAML file says. missing: the message when there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{missing}{_near_files(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"experiment file {path} cannot be read as UTF-8 text: {error}") from None
    try:
        raw = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except Exception as error:  # PyYAML's constructors raise whatever Python raises on odd scalars
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a plain YAML file: {reason}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold sections such as 'name:' and 'data:', got {type(raw).__name__}")
    raw = dict(raw)
    raw.pop("digest", None)  # of an experiment.yaml out of a run folder, which can be run again
    return raw


def _merged(under: Mapping[str, Any], over: Mapping[str, Any], place: tuple[str, ...] = ()) -> dict[str, Any]:
    """Sections of both, key by key; of everything else the upper one."""
    merged = dict(under)
    for name, value in over.items():
        before, here = merged.get(name), (*place, str(name))
        merged[name] = value
        if isinstance(before, dict) and isinstance(value, dict) and not _replaces(before, value, here):
            merged[name] = _merged(before, value, here)
    return merged


def _replaces(under: Mapping[str, Any], over: Mapping[str, Any], place: tuple[str, ...]) -> bool:
    """A generator of another kind has other keys, and so has a searched setting of another form."""
    if place == ("generator",):
        return "kind" in over and over["kind"] != _kind_of(under)
    forms = ({"low", "high", "scale"}, {"choices"}, {"tied_to", "factor"})
    kept = [form for form in forms if form & set(under)]
    return place[:2] == ("sweep", "space") and bool(kept) and not any(form & set(over) for form in kept)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`key.path=value` strings into overrides; values are read as YAML (5, 0.1, null, [1, 2], text)."""
    overrides: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set needs key.path=value, got {text!r}; type --set data.shots=5")
        if not value.strip():
            raise InputError(f"--set {key}= has no value; type --set {key}=null if none is meant")
        try:
            overrides[key.strip()] = yaml.load(value, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(f"--set {key}: the value {value!r} is not plain YAML: {reason}") from None
    return overrides


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, and aliases (an experiment has no use for them)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(
                    None, None, f"a key must be text, got {key!r}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed here", event.start_mark)
        return super().compose_node(parent, index)


# YAML 1.1 reads 1:30 as 90, 010 as 8, no as false and 1e-3 as text; YAML 1.2's core schema does not, and nor do we.
_CORE = {
    "tag:yaml.org,2002:bool": r"true|True|TRUE|false|False|FALSE",
    "tag:yaml.org,2002:int": r"[-+]?[0-9]+",
    "tag:yaml.org,2002:float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
}
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _CORE.items():
    _StrictLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), None)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))


def _override(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here = raw
    for depth, name in enumerate(parents):
        below = here.get(name)
        if below is None:
            below = {}
        if not isinstance(below, dict):
            raise InputError(f"--set {key}: {'.'.join(parents[: depth + 1])} is {below!r}, not a section")
        here[name] = dict(below)
        here = here[name]
    here[last] = value


def _problem(raw: Any, error: Any) -> str:
    """One pydantic error as one line: the key, the value received, what is allowed, what to type."""
    # pydantic names the branches of a union too.
    names = [str(part) for part in error["loc"] if part != "int" and not str(part).startswith("tuple[")]
    key = ".".join(
        name for i, name in enumerate(names) if not (i == 1 and names[0] == "generator" and name in GENERATORS)
    )
    received = _short(error["input"])
    kind = error["type"]
    if kind == "extra_forbidden":
        known = list(_model_at(names[:-1]).model_fields)
        close = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.5)
        prefix = key.removesuffix(names[-1])
        hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
        return f"unknown key {key}; {hint}"
    if kind == "missing":
        return f"{key} is missing; add '{names[-1]}: ...' to the file or type --set {key}=VALUE"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "value_error" and not key:
        return message
    if kind == "value_error":
        return f"{key}.{message}" if re.split(r"[ :.]", message)[0] in _field_names(names) else f"{key}: {message}"
    return f"{key}: {message}, got {received}{_example(names, key)}"


def _field_names(names: list[str]) -> set[str]:
    return set(_model_at(names).model_fields)


def _model_at(names: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = Experiment
    for i, name in enumerate(names):
        if names[0] == "generator" and i < 2:  # pydantic puts the kind between the section and its key
            model = GENERATORS.get(name, Diffusion)
            continue
        if names[:2] == ["sweep", "space"] and i > 0:
            return Dimension  # whatever the searched setting is called
        field = model.model_fields.get(name)
        candidates = [field.annotation, *get_args(field.annotation)] if field is not None else []
        below = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not below:
            break
        model = below[0]
    return model


def _example(names: list[str], key: str) -> str:
    field = _model_at(names[:-1]).model_fields.get(names[-1])
    if field is None or field.is_required() or field.default is None or isinstance(field.default, BaseModel):
        return ""
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    if " " in "".join(word for word in (default if isinstance(default, list) else [default]) if isinstance(word, str)):
        return ""  # words of a person's language, not a form to fill in
    return f"; type --set {key}={str(default).replace(' ', '')}"


def _short(value: Any, limit: int = 60) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _near_files(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("sweeps")
    if not folder.is_dir():
        return ""
    found = sorted(str(p) for p in folder.glob("*.yaml"))
    close = difflib.get_close_matches(str(path), found, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""
