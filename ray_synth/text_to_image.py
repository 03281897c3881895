"""A folder of a diffusers pipeline in, the row of its class out: what it is made of and takes, how it is sampled.

Names are those of diffusers and transformers, as text: nothing is imported, so an experiment file can be read with it.
A pipeline class without a row is refused, so a row is added with a tiny model and passes the suite of all of them
(`tests/generator/test_pipelines.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAFETY = {"safety_checker": None, "requires_safety_checker": False}  # not loaded: images are filtered by settings
NO_IMAGE_PROMPT = {"image_encoder": None, "feature_extractor": None}
CLIP_TOKENIZERS = ("transformers.CLIPTokenizer", "transformers.CLIPTokenizerFast")
T5_TOKENIZERS = ("transformers.T5Tokenizer", "transformers.T5TokenizerFast")
QWEN_TOKENIZERS = ("transformers.Qwen2Tokenizer", "transformers.Qwen2TokenizerFast")
SCHEDULER = ("a scheduler of diffusers",)
FLOW_EULER = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline class of diffusers.

    name, image_to_image: the class, and the one that starts from an image, where there is one; said: its models.
    components: every part and the classes it may be of; denoiser: the part that is called at each step; tokenizers:
    each with the part that reads its tokens; reads: the tokenizer that decides how much of a prompt counts, and the
    most tokens, where it does not say itself.
    prediction: what the denoiser gives, `noise` (epsilon, v) or `flow`; gives_sigmas: whether the call hands the
    scheduler its sigmas and the shift mu, which not all take.
    embeddings: under which argument of the call each value of `encode_prompt` goes in, in order, for one side (None:
    of the other side, or not passed); the negative side has the same names after `negative_`; mask: the one of them
    that says where a shorter prompt ends, where prompts are of different lengths; ragged: a list of tensors instead.
    guidance: argument of the call for classifier-free guidance, which counts above `guided_above`; negative_prompt:
    whether there is a negative side at all; zeros_for_none: an empty negative prompt is no embedding but zeros, where
    the model's `force_zeros_for_empty_prompt` says so; distilled_guidance: the denoiser may take the scale of its own
    guidance as an input (`guidance_scale` of the call, `guidance_embeds` of its settings).
    size: pixels a side where neither the file nor the denoiser's `sample_size` says; multiple: what sides are of.
    sampling: steps, guidance and scheduler where the file does not say; variants: the same for models of this class
    that are told by a setting in their folder.
    loads_with: arguments of `from_pretrained`; given: those of them that change pixels, which are recorded;
    call: arguments of the call that are given unless `pipeline_args` says otherwise; negative_call: for encoding the
    negative side.
    lora: parts that a LoRA may adapt, the first under the denoiser's name as its prefix; visual_guidance: whether image
    embeddings can stand beside the text's; trains: whether adapters are trained here; compiles: whether torch.compile
    takes it whole.
    """

    name: str
    said: str
    denoiser: str
    components: Mapping[str, tuple[str, ...]]
    tokenizers: Mapping[str, str]
    reads: tuple[str, int | None]
    embeddings: tuple[str | None, ...]
    sampling: Mapping[str, Any]
    lora: tuple[str, ...]
    size: int
    multiple: int
    image_to_image: str | None = None
    prediction: str = "noise"
    gives_sigmas: bool = False
    mask: str | None = None
    ragged: bool = False
    guidance: str = "guidance_scale"
    guided_above: float = 1.0
    negative_prompt: bool = True
    zeros_for_none: bool = False
    distilled_guidance: bool = False
    variants: tuple[Variant, ...] = ()
    dtype: str = "bfloat16"
    loads_with: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    negative_call: Mapping[str, Any] = field(default_factory=dict)
    visual_guidance: bool = False
    trains: bool = False
    compiles: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        """What `_class_name` of model_index.json may be."""
        return (self.name, self.image_to_image) if self.image_to_image else (self.name,)

    @property
    def with_weights(self) -> tuple[str, ...]:
        return tuple(part for part in self.components if part != "scheduler" and part not in self.tokenizers)

    @property
    def is_flow(self) -> bool:
        return self.prediction == "flow"

    def sampling_of(self, folder: Path) -> dict[str, Any]:
        """Steps, guidance, scheduler and images at once of the model that lies there."""
        told = next((variant.sampling for variant in self.variants if variant.is_in(folder)), {})
        return {**self.sampling, **told}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Models of a class that are sampled otherwise, and the setting in a file of their folder that tells them."""

    file: str
    key: str
    value: Any
    sampling: Mapping[str, Any]

    def is_in(self, folder: Path) -> bool:
        return bool(_read(folder / self.file).get(self.key) == self.value)


STABLE_DIFFUSION = Pipeline(
    name="StableDiffusionPipeline",
    said="Stable Diffusion 1.x, 2.x",
    image_to_image="StableDiffusionImg2ImgPipeline",
    denoiser="unet",
    components={
        "unet": ("diffusers.UNet2DConditionModel",),
        "vae": ("diffusers.AutoencoderKL",),
        "text_encoder": ("transformers.CLIPTextModel",),
        "tokenizer": CLIP_TOKENIZERS,
        "scheduler": SCHEDULER,
    },
    tokenizers={"tokenizer": "text_encoder"},
    reads=("tokenizer", None),
    embeddings=("prompt_embeds", None),
    # UniPC, 30 steps, guidance 2.0 (Yuan et al., 2024, Table 6).
    sampling={"num_inference_steps": 30, "guidance_scale": 2.0, "batch_size": 8},
    size=512,
    multiple=8,
    dtype="float16",
    loads_with={**SAFETY, **NO_IMAGE_PROMPT},
    lora=("unet", "text_encoder"),
    visual_guidance=True,
    trains=True,
)

STABLE_DIFFUSION_XL = Pipeline(
    name="StableDiffusionXLPipeline",
    said="SDXL, SDXL-Turbo",
    image_to_image="StableDiffusionXLImg2ImgPipeline",
    denoiser="unet",
    components={
        "unet": ("diffusers.UNet2DConditionModel",),
        "vae": ("diffusers.AutoencoderKL",),
        "text_encoder": ("transformers.CLIPTextModel",),
        "text_encoder_2": ("transformers.CLIPTextModelWithProjection",),
        "tokenizer": CLIP_TOKENIZERS,
        "tokenizer_2": CLIP_TOKENIZERS,
        "scheduler": SCHEDULER,
    },
    tokenizers={"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"},
    reads=("tokenizer", None),
    embeddings=("prompt_embeds", None, "pooled_prompt_embeds", None),
    zeros_for_none=True,
    sampling={"num_inference_steps": 50, "guidance_scale": 5.0, "batch_size": 4},
    # Turbo, with the same architecture, is trained for up to four steps from evenly trailing times, without guidance.
    variants=(
        Variant(
            file="scheduler/scheduler_config.json",
            key="timestep_spacing",
            value="trailing",
            sampling={
                "num_inference_steps": 4,
                "guidance_scale": 0.0,
                "scheduler": "EulerAncestralDiscreteScheduler",
            },
        ),
    ),
    size=1024,
    multiple=8,
    dtype="float16",
    loads_with=NO_IMAGE_PROMPT,
    given={"add_watermarker": False},
    negative_call={"clip_skip": None},
    lora=("unet", "text_encoder", "text_encoder_2"),
)

STABLE_DIFFUSION_3 = Pipeline(
    name="StableDiffusion3Pipeline",
    said="Stable Diffusion 3, 3.5",
    image_to_image="StableDiffusion3Img2ImgPipeline",
    denoiser="transformer",
    components={
        "transformer": ("diffusers.SD3Transformer2DModel",),
        "vae": ("diffusers.AutoencoderKL",),
        "text_encoder": ("transformers.CLIPTextModelWithProjection",),
        "text_encoder_2": ("transformers.CLIPTextModelWithProjection",),
        "text_encoder_3": ("transformers.T5EncoderModel",),
        "tokenizer": CLIP_TOKENIZERS,
        "tokenizer_2": CLIP_TOKENIZERS,
        "tokenizer_3": T5_TOKENIZERS,
        "scheduler": SCHEDULER,
    },
    tokenizers={"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": "text_encoder_3"},
    reads=("tokenizer_3", 256),
    embeddings=("prompt_embeds", None, "pooled_prompt_embeds", None),
    prediction="flow",
    sampling={"num_inference_steps": 28, "guidance_scale": 7.0, "batch_size": 4, "scheduler": FLOW_EULER},
    size=1024,
    multiple=16,
    loads_with=NO_IMAGE_PROMPT,
    negative_call={"clip_skip": None},
    lora=("transformer", "text_encoder", "text_encoder_2"),
)

FLUX = Pipeline(
    name="FluxPipeline",
    said="FLUX.1",
    image_to_image="FluxImg2ImgPipeline",
    denoiser="transformer",
    components={
        "transformer": ("diffusers.FluxTransformer2DModel",),
        "vae": ("diffusers.AutoencoderKL",),
        "text_encoder": ("transformers.CLIPTextModel",),
        "text_encoder_2": ("transformers.T5EncoderModel",),
        "tokenizer": CLIP_TOKENIZERS,
        "tokenizer_2": T5_TOKENIZERS,
        "scheduler": SCHEDULER,
    },
    tokenizers={"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"},
    reads=("tokenizer_2", 512),
    embeddings=("prompt_embeds", "pooled_prompt_embeds", None),
    prediction="flow",
    gives_sigmas=True,
    guidance="true_cfg_scale",
    distilled_guidance=True,
    sampling={"num_inference_steps": 28, "guidance_scale": 1.0, "batch_size": 2, "scheduler": FLOW_EULER},
    # schnell, which does not take the scale of its own guidance as dev does.
    variants=(
        Variant(
            file="transformer/config.json", key="guidance_embeds", value=False, sampling={"num_inference_steps": 4}
        ),
    ),
    size=1024,
    multiple=16,
    loads_with=NO_IMAGE_PROMPT,
    lora=("transformer", "text_encoder"),
)

SANA = Pipeline(
    name="SanaPipeline",
    said="Sana",
    denoiser="transformer",
    components={
        "transformer": ("diffusers.SanaTransformer2DModel",),
        "vae": ("diffusers.AutoencoderDC",),
        "text_encoder": ("transformers.Gemma2Model",),
        "tokenizer": ("transformers.GemmaTokenizer", "transformers.GemmaTokenizerFast"),
        "scheduler": SCHEDULER,
    },
    tokenizers={"tokenizer": "text_encoder"},
    reads=("tokenizer", 300),
    embeddings=("prompt_embeds", "prompt_attention_mask", None, None),
    prediction="flow",
    sampling={
        "num_inference_steps": 20,
        "guidance_scale": 4.5,
        "batch_size": 4,
        "scheduler": "DPMSolverMultistepScheduler",
    },
    size=1024,
    multiple=32,
    call={"use_resolution_binning": False},  # an image has the size that is asked for
    negative_call={"complex_human_instruction": None},
    lora=("transformer",),
)

PIXART_SIGMA = Pipeline(
    name="PixArtSigmaPipeline",
    said="PixArt-Sigma",
    denoiser="transformer",
    components={
        "transformer": ("diffusers.PixArtTransformer2DModel",),
        "vae": ("diffusers.AutoencoderKL",),
        "text_encoder": ("transformers.T5EncoderModel",),
        "tokenizer": T5_TOKENIZERS,
        "scheduler": SCHEDULER,
    },
    tokenizers={"tokenizer": "text_encoder"},
    reads=("tokenizer", 300),
    embeddings=("prompt_embeds", "prompt_attention_mask", None, None),
    sampling={"num_inference_steps": 20, "guidance_scale": 4.5, "batch_size": 4},
    size=1024,
    multiple=16,
    dtype="float16",
    # A caption is cleaned only where other packages are installed, so it never is.
    call={"use_resolution_binning": False, "clean_caption": False},
    lora=(),
)

Z_IMAGE = Pipeline(
    name="ZImagePipeline",
    said="Z-Image",
    image_to_image="ZImageImg2ImgPipeline",
    denoiser="transformer",
    components={
        "transformer": ("diffusers.ZImageTransformer2DModel",),
        "vae": ("diffusers.AutoencoderKL",),
        "text_encoder": ("transformers.Qwen3Model", "transformers.Qwen3ForCausalLM"),
        "tokenizer": QWEN_TOKENIZERS,
        "scheduler": SCHEDULER,
    },
    tokenizers={"tokenizer": "text_encoder"},
    reads=("tokenizer", 512),
    embeddings=("prompt_embeds", None),
    ragged=True,
    prediction="flow",
    gives_sigmas=True,
    guided_above=0.0,
    compiles=False,  # it is called with lists, which the tracer cannot follow whole
    sampling={"num_inference_steps": 50, "guidance_scale": 5.0, "batch_size": 2, "scheduler": FLOW_EULER},
    size=1024,
    multiple=16,
    lora=("transformer",),
)

QWEN_IMAGE = Pipeline(
    name="QwenImagePipeline",
    said="Qwen-Image",
    image_to_image="QwenImageImg2ImgPipeline",
    denoiser="transformer",
    components={
        "transformer": ("diffusers.QwenImageTransformer2DModel",),
        "vae": ("diffusers.AutoencoderKLQwenImage",),
        "text_encoder": ("transformers.Qwen2_5_VLForConditionalGeneration",),
        "tokenizer": QWEN_TOKENIZERS,
        "scheduler": SCHEDULER,
    },
    tokenizers={"tokenizer": "text_encoder"},
    reads=("tokenizer", 512),
    embeddings=("prompt_embeds", "prompt_embeds_mask"),
    mask="prompt_embeds_mask",
    prediction="flow",
    gives_sigmas=True,
    guidance="true_cfg_scale",
    distilled_guidance=True,
    sampling={"num_inference_steps": 50, "guidance_scale": 4.0, "batch_size": 2, "scheduler": FLOW_EULER},
    size=1024,
    multiple=16,
    lora=("transformer",),
)

ROWS = (
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_3,
    FLUX,
    SANA,
    PIXART_SIGMA,
    Z_IMAGE,
    QWEN_IMAGE,
)


def row_named(name: Any) -> Pipeline | None:
    """The row of a class, by what model_index.json calls it."""
    return next((row for row in ROWS if name in row.classes), None)


def row_in(folder: Path) -> Pipeline | None:
    """The row of the pipeline in a folder, or nothing where there is none, or no pipeline."""
    return row_named(_read(folder / "model_index.json").get("_class_name"))


def rows_said() -> str:
    """The classes that have a row, with their models, for messages."""
    return ", ".join(f"{row.name} ({row.said})" for row in ROWS)


def _read(file: Path) -> dict[str, Any]:
    """A JSON file, as far as it can be read: what is wrong with it is said where the model is checked."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
