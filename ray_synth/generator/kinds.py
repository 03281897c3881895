"""A generator section in; checked, named and loaded out. What each kind of generator is, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_synth.config import SAMPLING, Diffusion, Generate, GeneratorSettings, ImageFolder, StableDiffusion
from ray_synth.errors import InputError
from ray_synth.features.clip import check_open_clip
from ray_synth.generator.batches import Sampler
from ray_synth.generator.conditions import Parents, filled
from ray_synth.generator.image_folder import FolderSampler, check_folder, folder_digest, folder_files
from ray_synth.generator.pretrained import (
    adapts_text,
    check_lora,
    check_pipeline,
    content_digest,
    has_safetensors,
    license_of,
    local_folder,
    pipeline_digest,
    read_config,
)
from ray_synth.runs import RunFolder

DEFAULT_BATCH = 80  # of a small pixel model
# Settings of Diffusion that came later. Where they are what was done before, models and images made then still count.
LATER = ("attention_resolutions", "beta_schedule", "warmup_steps", "precision")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where images come from, for every row; `parts` is what else of files their pixels depend on."""

    model_id: str
    model_revision: str
    model_license: str
    parts: dict[str, str]


def check_generator(
    settings: GeneratorSettings,
    generate: Generate,
    *,
    class_names: Sequence[str],
    shape: tuple[int, int, int],
) -> list[str]:
    """Find whatever is wrong before anything starts. shape: [H,W,C] of the real images. Returns notes.

    Raises:
        InputError: a model, LoRA, folder, scheduler or argument that will not work.
    """
    if generate.filter.clip is not None:
        check_open_clip(generate.filter.clip.model, generate.filter.clip.weights)
    if isinstance(settings, Diffusion):
        _check_levels(settings, shape)
        # These fit, and saying so costs no import of diffusers.
        if generate.scheduler not in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"):
            from ray_synth.generator.diffusion import noise_schedule
            from ray_synth.generator.schedulers import scheduler_like

            scheduler_like(noise_schedule(settings), generate.scheduler)
        return []
    if isinstance(settings, ImageFolder):
        check_folder(settings.path, class_names, generate.images_per_class)
        return []
    return _check_stable_diffusion(settings, generate, class_names)


def _check_levels(settings: Diffusion, shape: tuple[int, int, int]) -> None:
    height, width, _ = shape
    halvings = len(settings.block_out_channels) - 1
    factor = 2**halvings
    if height % factor or width % factor:
        raise InputError(
            f"images of {width}x{height} cannot be halved {halvings} time(s), as "
            f"generator.block_out_channels={list(settings.block_out_channels)} asks; "
            f"type --set data.image_size={max(factor, round(width / factor) * factor)}"
        )
    sides = settings.level_sides(max(height, width))
    for side in settings.attention_resolutions:
        if side not in sides:
            raise InputError(
                f"generator.attention_resolutions must be of {', '.join(map(str, sides))}, the sides that images of "
                f"{width}x{height} are halved to, got {side}; "
                f"type --set generator.attention_resolutions=[{min(sides, key=lambda one: abs(one - side))}]"
            )


def _check_stable_diffusion(settings: StableDiffusion, generate: Generate, class_names: Sequence[str]) -> list[str]:
    from ray_synth.generator.stable_diffusion import check_pipeline_args, lora_paths
    from ray_synth.torch_ops import import_torchvision

    folder = _pipeline_folder(settings)
    check_pipeline(folder, allow_pickle=settings.allow_pickle)
    import_torchvision()
    import diffusers

    from ray_synth.generator.schedulers import scheduler_like

    saved = read_config(folder / "scheduler" / "scheduler_config.json", folder)
    kind = getattr(diffusers, saved["_class_name"], None)
    if kind is None:
        raise InputError(f"{folder}/scheduler is of a kind that diffusers does not have: {saved['_class_name']}")
    scheduler_like(kind.from_config(saved), generate.scheduler)
    check_pipeline_args(settings)
    if settings.strength is not None and int(settings.strength * generate.num_inference_steps) < 1:
        raise InputError(
            f"generator.strength={settings.strength:g} leaves no step of generate.num_inference_steps="
            f"{generate.num_inference_steps}; raise one of them"
        )
    if settings.lora is not None:
        for path in lora_paths(settings.lora, class_names):
            check_lora(Path(path), folder, allow_pickle=settings.allow_pickle)
            if settings.compile and "{" in settings.lora and adapts_text(Path(path)):
                raise InputError(
                    f"generator.lora={path} adapts the text encoder, and such adapters cannot be swapped in a compiled "
                    "model; type --set generator.compile=false"
                )
    unknown = sorted(set(settings.class_words) - set(class_names))
    if unknown:
        raise InputError(
            f"generator.class_words has no class {unknown[0]!r}; the classes are {', '.join(class_names[:10])}"
        )
    if settings.visual_guidance is not None:
        _check_encoder(settings, folder)
    if settings.captions is not None and settings.captions.model is not None:
        model = settings.captions.model
        place = local_folder(model.model, model.revision, key="generator.captions.model")
        read_config(place / "config.json", place)
        has_safetensors(place, allow_pickle=False, flag=False)
    templates = (*settings.prompt, settings.negative_prompt)
    return long_prompts(settings, [filled(template, name, settings) for name in class_names for template in templates])


def captioned_prompts(
    settings: StableDiffusion, class_names: Sequence[str], labels: Sequence[int], captions: Sequence[str]
) -> list[str]:
    """Every prompt that real images with these labels and captions give rise to."""
    return [
        filled(template, class_names[label], settings, caption)
        for label, caption in zip(labels, captions, strict=True)
        for template in settings.prompt
    ]


def long_prompts(settings: StableDiffusion, prompts: Sequence[str]) -> list[str]:
    """A note on prompts of which the text encoder will not read the end, or none."""
    from ray_synth.generator.stable_diffusion import cut_prompts

    folder = _pipeline_folder(settings)
    cut = cut_prompts(folder, list(dict.fromkeys(prompts)))
    if not cut:
        return []
    prompt, lost = cut[0]
    return [f"{len(cut)} prompt(s) are longer than the text encoder reads; of {prompt!r} it will not see {lost!r}"]


def _pipeline_folder(settings: StableDiffusion) -> Path:
    return local_folder(settings.model, settings.revision, allow_pickle=settings.allow_pickle)


def _check_encoder(settings: StableDiffusion, folder: Path) -> None:
    """The embedding of an image must be as wide as one of the text, to stand beside it."""
    assert settings.visual_guidance is not None  # noqa: S101 - of the caller
    encoder = settings.visual_guidance.encoder
    place = local_folder(encoder.model, encoder.revision, key="generator.visual_guidance.encoder")
    has_safetensors(place, allow_pickle=False, flag=False)
    config = read_config(place / "config.json", place)
    width = config.get("projection_dim", config.get("vision_config", {}).get("projection_dim"))
    wanted = read_config(folder / "unet" / "config.json", folder).get("cross_attention_dim", 1280)
    if width != wanted:
        raise InputError(
            f"generator.visual_guidance.encoder={encoder.model} gives embeddings of width {width}, the model's text "
            f"embeddings have {wanted}; take the CLIP that the model was made with (ViT-L/14 for Stable Diffusion 1.x, "
            "ViT-H/14 for 2.x)"
        )


def origin_of(settings: GeneratorSettings, *, class_names: Sequence[str], trained: str = "") -> Origin:
    """Name and revision of the model. A local folder's revision is the hash of its contents.

    trained: digest of a generator that this run trains itself.
    """
    if isinstance(settings, Diffusion):
        return Origin(
            model_id=f"ray_synth/diffusion/{trained[:12]}", model_revision=trained, model_license="", parts={}
        )
    if isinstance(settings, ImageFolder):
        content = folder_digest(settings.path)
        return Origin(
            model_id=f"folder/{Path(settings.path).name}",
            model_revision=content,
            model_license="",
            parts={"folder": content},
        )
    from ray_synth.generator.stable_diffusion import lora_paths

    folder = _pipeline_folder(settings)
    local = Path(settings.model).is_dir()
    revision = pipeline_digest(folder) if local else str(settings.revision)
    parts = {"model": revision}
    if settings.lora is not None:
        for path in lora_paths(settings.lora, class_names):
            parts[f"lora/{Path(path).name}/{len(parts)}"] = content_digest(Path(path))
    others: dict[str, Any] = {
        "captions": settings.captions and settings.captions.model,
        "visual_guidance": settings.visual_guidance and settings.visual_guidance.encoder,
    }
    for name, model in others.items():
        if model is not None:
            place = local_folder(model.model, model.revision)
            parts[name] = content_digest(place) if Path(model.model).is_dir() else str(model.revision)
    if settings.captions is not None and settings.captions.path is not None:
        parts["captions"] = content_digest(Path(settings.captions.path))
    return Origin(
        model_id=folder.name if local else settings.model,
        model_revision=revision,
        model_license=license_of(folder),
        parts=parts,
    )


def pixel_settings(settings: GeneratorSettings) -> dict[str, Any]:
    """The settings that pixels depend on; files are in `Origin.parts` by content, not by path."""
    if isinstance(settings, StableDiffusion):
        return settings.model_dump(
            mode="json",
            exclude={
                "model": True, "revision": True, "lora": True, "compile": True, "channels_last": True,
                "allow_pickle": True, "captions": {"path", "model", "batch_size"}, "visual_guidance": {"encoder"},
            },
        )  # fmt: skip
    if isinstance(settings, ImageFolder):
        return {"kind": settings.kind}
    shown, plain = settings.model_dump(mode="json"), Diffusion().model_dump(mode="json")
    return {name: value for name, value in shown.items() if name not in LATER or value != plain[name]}


def sampling_settings(generate: Generate) -> dict[str, Any]:
    """The settings of sampling that pixels depend on; noise only where there is any."""
    noise = {"noise_variance": generate.noise_variance} if generate.noise_variance else {}
    return generate.model_dump(mode="json", include=set(SAMPLING)) | noise


def file_settings(generate: Generate) -> dict[str, Any]:
    """The settings that a chunk's bytes depend on beside its pixels: filters and the form of its images."""
    shown = generate.model_dump(mode="json", include={"filter", "format"})
    if generate.format != "png":
        shown["quality"] = generate.quality
    if generate.filter.clip is not None:
        shown["filter"]["clip"]["weights"] = content_digest(Path(generate.filter.clip.weights))
    return shown


def available_images(settings: GeneratorSettings, class_names: Sequence[str]) -> tuple[int, ...] | None:
    """How many images of each class there are, where they exist already."""
    if not isinstance(settings, ImageFolder):
        return None
    return tuple(len(files) for files in folder_files(settings.path, class_names))


def load_sampler(
    folder: RunFolder,
    settings: GeneratorSettings,
    generate: Generate,
    *,
    class_names: Sequence[str],
    parents: Parents | None,
    device: str,
) -> Sampler:
    """The generator, ready to take batches."""
    if isinstance(settings, ImageFolder):
        return FolderSampler(settings.path, class_names)
    if isinstance(settings, Diffusion):
        from ray_synth.generator.diffusion import DiffusionSampler, load_unet

        return DiffusionSampler(load_unet(folder), settings, generate, device)
    from ray_synth.generator.stable_diffusion import StableDiffusionSampler

    place = _pipeline_folder(settings)
    return StableDiffusionSampler(place, settings, generate, class_names=class_names, parents=parents, device=device)
