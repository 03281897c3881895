"""The `generator` and `generate` sections: what makes images, how many, and which are kept.

Each kind of generator has settings of its own, looked up in GENERATORS when a file is read: another kind is registered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, SerializeAsAny, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ray_synth.config.finetune import LoraTraining
from ray_synth.config.section import Section, short
from ray_synth.config.words import COPIES_SAID, FEATURES, HomePath
from ray_synth.text_to_image import STABLE_DIFFUSION, row_in

SAMPLING = ("scheduler", "num_inference_steps", "guidance_scale")  # what the pixels depend on
HUB_ID = r"[\w-][\w.-]*/[\w.-]+"


class GeneratorSettings(Section):
    """What the settings of every kind of generator have. A kind gives `kind` its name as the only value and default."""

    kind: str
    generate_defaults: ClassVar[Mapping[str, Any]] = {}  # of the `generate` section, where the file does not say

    @property
    def names(self) -> tuple[str, ...]:
        """Of several generators in one section, which a trial chooses from; empty where there is one."""
        return ()

    def alone(self) -> GeneratorSettings:
        """The section with one generator: the first of several."""
        return self

    @classmethod
    def defaults_with(cls, section: Any) -> Mapping[str, Any]:
        """The same for a generator section as it stands in the file."""
        return cls.generate_defaults

    def check_generate(self, generate: Generate) -> None:
        """Raise ValueError for settings of sampling that this kind does not take."""
        if generate.noise_variance:
            raise ValueError(
                f"generate.noise_variance must be 0 for generator.kind: {self.kind}, got "
                f"{generate.noise_variance:g}; only kind: diffusion adds noise to what it samples"
            )


class Diffusion(GeneratorSettings):
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

    def check_generate(self, generate: Generate) -> None:
        steps, times = generate.num_inference_steps, self.num_train_timesteps
        if steps > times:
            raise ValueError(
                f"generate.num_inference_steps must be <= generator.num_train_timesteps ({times}), got {steps}; "
                f"type --set generate.num_inference_steps={times}"
            )

    def level_sides(self, side: int) -> list[int]:
        """How large images with this longer side are at each level of the UNet, outermost first."""
        return [side // 2**level for level in range(len(self.block_out_channels))]


class Pretrained(Section):
    """A model that somebody else trained: a local folder, or a hub id with the commit that is meant."""

    model: HomePath = Field(min_length=1, description="a local folder, or a hub id")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="commit of a hub id, 40 hex digits")


class Captions(Section):
    """One text per real image, for {caption} in a prompt: from a file, or made by an image-to-text model."""

    path: HomePath | None = Field(None, description="metadata.csv or metadata.jsonl with columns file_name and text")
    model: Pretrained | None = Field(None, description="a transformers image-to-text model, such as BLIP-2")
    max_new_tokens: int = Field(30, ge=1, le=500)
    batch_size: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Captions:
        if (self.path is None) == (self.model is None):
            raise ValueError("give either path (a caption file) or model (which makes captions)")
        return self


class VisualGuidance(Section):
    """CLIP image embeddings joined to the text embeddings (Yuan et al., 2024, section 3.2).

    variant paper: the mean embedding of the class, as one more token. variant released: the embedding of the parent
    image, in place of the last text token.
    """

    encoder: Pretrained = Field(description="a CLIPVisionModelWithProjection whose projection is as wide as the text's")
    variant: Literal["paper", "released"] = "paper"
    untrained: bool = Field(False, description="also guide a model that was not trained with guidance")


class DiffusersSettings(GeneratorSettings):
    """Of a text-to-image pipeline of diffusers, or image-to-image with `strength`."""

    model: HomePath = Field(min_length=1, description="a local folder, or a hub id")
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
    finetune: LoraTraining | None = Field(None, description="train LoRA adapters on the real images first")
    lora: HomePath | None = Field(None, description="a LoRA file; {class} or {label} in its path gives one per class")
    lora_scale: float = Field(1.0, ge=0, le=10)
    pipeline_args: dict[str, Any] = Field({}, description="more arguments of the pipeline's call, such as clip_skip")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    compile: bool = Field(False, description="torch.compile the denoiser and the decoder")
    channels_last: bool = True
    allow_pickle: bool = Field(False, description="also load weights that are not safetensors: they can run any code")

    @model_validator(mode="before")
    @classmethod
    def _one_prompt(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("prompt"), str):
            return {**given, "prompt": [given["prompt"]]}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> DiffusersSettings:
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
        if self.finetune is not None and self.lora is not None:
            raise ValueError(
                "give either finetune (adapters that the run trains) or lora (one that exists), not both; type --set "
                "generator.lora=null"
            )
        if (
            self.finetune is not None
            and self.finetune.text_encoder
            and self.finetune.adapters == "class"
            and self.compile
        ):
            raise ValueError(
                "adapters of the text encoder cannot be swapped in a compiled model; type --set generator.compile=false"
            )
        if self.visual_guidance is not None and self.finetune is None and not self.visual_guidance.untrained:
            raise ValueError(
                "visual_guidance means nothing to a model that was not trained with it; type --set "
                "generator.finetune.preset=real_fake, or --set generator.visual_guidance.untrained=true"
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

    @classmethod
    def defaults_with(cls, section: Any) -> Mapping[str, Any]:
        """Those of the row of the pipeline's class."""
        folder = cls.folder_of(section)
        row = row_in(folder) if folder is not None else None
        return row.sampling_of(folder) if row is not None and folder is not None else STABLE_DIFFUSION.sampling

    @classmethod
    def folder_of(cls, section: Any) -> Path | None:
        """Where the model lies on this machine, if it does. section: as it stands in the file, or checked."""
        model, _ = _model_of(section)
        folder = Path(os.path.expanduser(model))
        return folder if model and folder.is_dir() else None


class Diffusers(DiffusersSettings):
    """A text-to-image pipeline of diffusers, or image-to-image with `strength`: any class that has a row."""

    kind: Literal["diffusers"] = "diffusers"

    @classmethod
    def folder_of(cls, section: Any) -> Path | None:
        """A hub id is looked up in the hub's cache too."""
        folder = super().folder_of(section)
        model, revision = _model_of(section)
        if folder is not None or not _is_hub_id(model) or not revision:
            return folder
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, "model_index.json", revision=revision)
        return Path(found).parent if isinstance(found, str) else None

    @classmethod
    def defaults_with(cls, section: Any) -> Mapping[str, Any]:
        """None for a hub id that is not here yet: they must not be others once it is."""
        away = _is_hub_id(_model_of(section)[0]) and cls.folder_of(section) is None
        return {} if away else super().defaults_with(section)

    def check_generate(self, generate: Generate) -> None:
        missing = [name for name in SAMPLING if name not in generate.model_fields_set]
        if missing and _is_hub_id(self.model) and self.folder_of(self) is None:
            raise ValueError(
                f"generate.{missing[0]} follows the class of the pipeline, and {self.model} is not on this machine; "
                f"download it first (hf download {self.model} --revision {self.revision or 'COMMIT'}), or give "
                f"{', '.join(f'generate.{name}' for name in SAMPLING)}"
            )
        super().check_generate(generate)


class StableDiffusion(DiffusersSettings):
    """The same as `kind: diffusers`, under its older name; a hub id is taken for Stable Diffusion 1.x or 2.x."""

    kind: Literal["stable_diffusion"] = "stable_diffusion"


def _model_of(section: Any) -> tuple[str, str]:
    """Model and revision of a generator section, as it stands in the file or checked; empty where it has none."""
    raw = section if isinstance(section, dict) else getattr(section, "__dict__", {})
    model, revision = raw.get("model"), raw.get("revision")
    return (model if isinstance(model, str) else "", revision if isinstance(revision, str) else "")


def _is_hub_id(model: str) -> bool:
    return re.fullmatch(HUB_ID, model) is not None and not os.path.isdir(model)


PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # the name of a generator


class ImageFolder(GeneratorSettings):
    """Images that exist already: PATH/class_name/*.png|jpg|jpeg|webp, taken in the order of their names."""

    kind: Literal["folder"] = "folder"
    path: HomePath | dict[str, HomePath] = Field(
        description="a folder; or a name for each of several generators' folders, among which the sweep chooses"
    )

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        if isinstance(given, str) and given:
            return given
        if not isinstance(given, dict):
            raise ValueError(
                "must be a folder, or a name for each of several such as {a: DIR, b: OTHER}, got "
                f"{short(given)}; type --set generator.path=DIR"
            )
        if len(given) < 2:
            raise ValueError(
                f"must name two generators or more, got {short(given)}; type --set generator.path=DIR for one"
            )
        places: dict[str, str] = {}
        for name, folder in given.items():
            if not isinstance(name, str) or not PLAIN.fullmatch(name):
                raise ValueError(
                    f"the name of a generator must be a plain word of letters, digits, dots, underscores and "
                    f"hyphens, got {short(name)}; call it model-1, say"
                )
            if not isinstance(folder, str) or not folder:
                raise ValueError(f"{name} must be a folder, got {short(folder)}; type --set generator.path.{name}=DIR")
            place = os.path.realpath(os.path.expanduser(folder))
            if place in places:
                raise ValueError(
                    f"{places[place]} and {name} are the same folder, {folder}; give each generator a folder of its own"
                )
            places[place] = name
        return given

    @property
    def folders(self) -> dict[str, str]:
        """Name -> folder; one alone has no name."""
        return dict(self.path) if isinstance(self.path, dict) else {"": self.path}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.path) if isinstance(self.path, dict) else ()

    def alone(self) -> GeneratorSettings:
        return self.model_copy(update={"path": next(iter(self.folders.values()))})

    def check_generate(self, generate: Generate) -> None:
        for name in sorted({*SAMPLING, "batch_size"} & generate.model_fields_set):
            if getattr(generate, name) != Generate.model_fields[name].default:
                raise ValueError(
                    f"generate.{name} has no meaning for generator.kind: folder, whose images exist already; "
                    "leave it out"
                )
        super().check_generate(generate)


GENERATORS: dict[str, type[GeneratorSettings]] = {
    "diffusion": Diffusion,
    "diffusers": Diffusers,
    "stable_diffusion": StableDiffusion,
    "folder": ImageFolder,
}


def kind_of(section: Any) -> str:
    """Which generator a section describes; `diffusion` where it does not say."""
    return str(section.get("kind", "diffusion") if isinstance(section, dict) else getattr(section, "kind", "diffusion"))


def _of_its_kind(section: Any) -> GeneratorSettings:
    """The section, checked by the settings of its kind."""
    settings = GENERATORS.get(kind_of(section))
    if settings is None:
        *others, last = GENERATORS
        kinds = f"{', '.join(others)} or {last}"
        raise PydanticCustomError("generator_kind", "generator.kind must be {kinds}", {"kinds": kinds})
    return settings.model_validate(section)


class _AnyKind:
    """What the schema of an experiment file says of the section: one of the kinds that are known then."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"oneOf": [handler(kind.__pydantic_core_schema__) for kind in GENERATORS.values()]}


Generator = Annotated[SerializeAsAny[GeneratorSettings], BeforeValidator(_of_its_kind), _AnyKind()]


class ClipFilter(Section):
    """Keep an image only if open_clip, asked with zero-shot prompts, sees its class in it."""

    model: str = Field(min_length=1, description="an open_clip architecture, such as ViT-B-32")
    weights: HomePath = Field(min_length=1, description="path of its weights (safetensors, or a plain state dict)")
    rule: Literal["argmax", "above_chance"] = Field(
        "argmax", description="argmax: the class is the likeliest; above_chance: its probability is above 1/C"
    )
    prompt: str = Field("a photo of a {class}", pattern=r"\{class\}")


class Filter(Section):
    """Which images are set aside. NaN always is."""

    blank: bool = Field(True, description="one colour all over")
    near_copies: bool = Field(
        False, description="far closer to a real training image, mirrored or cut, than to the next ones like it"
    )
    features: HomePath = Field(
        "pixels", pattern=FEATURES, description=f"what near copies are compared by: {COPIES_SAID}; pixels: in grey"
    )
    clip: ClipFilter | None = None


class Generate(Section):
    """How many images to sample, and how.

    Steps and guidance that are not given follow the kind of generator, and for diffusers the class of the pipeline.
    """

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
    batch_size: int | None = Field(None, ge=1, description="images at once; default 80, for diffusers as the pipeline")
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
