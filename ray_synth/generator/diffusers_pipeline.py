"""Prompts, seeds and parents in, images out: a pipeline of diffusers, text-to-image or image-to-image."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_synth.config import Generate, StableDiffusion
from ray_synth.data.decoding import unified
from ray_synth.errors import InputError
from ray_synth.generator.adapter_files import guidance_beside
from ray_synth.generator.adapters import adapter_settings, as_in_a_pipeline, is_pefts_own, part_of
from ray_synth.generator.base import Batch, Parents
from ray_synth.generator.pretrained import file_shapes, has_safetensors, lora_rank, read_tokenizer, variant_of
from ray_synth.generator.schedulers import scheduler_like
from ray_synth.torch_ops import import_torchvision

CACHED_PROMPTS = 4096
ADAPTER = "ray_synth"
# Arguments of the pipeline's call that have settings of their own, or no meaning here.
OURS = {
    "self", "prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds", "image", "strength", "height",
    "width", "num_inference_steps", "guidance_scale", "generator", "latents", "output_type", "return_dict",
    "num_images_per_prompt", "callback_on_step_end", "callback_on_step_end_tensor_inputs", "kwargs", "timesteps",
    "sigmas", "ip_adapter_image", "ip_adapter_image_embeds",
}  # fmt: skip


class StableDiffusionSampler:
    """batch -> batch. An image depends on its own row alone; the base model is loaded once, adapters are swapped."""

    def __init__(
        self,
        folder: Path,
        settings: StableDiffusion,
        generate: Generate,
        *,
        class_names: Sequence[str] = (),
        parents: Parents | None = None,
        device: str = "cpu",
    ):
        """class_names: of all classes; needed to compile a model with an adapter for each."""
        import_torchvision()
        import torch

        self.settings, self.generate, self.parents, self.device = settings, generate, parents, device
        self.pipe = load_pipeline(folder, settings, _dtype(settings, device))
        self.pipe.scheduler = scheduler_like(self.pipe.scheduler, generate.scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.to(device)
        self.size = settings.image_size or self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        self.encoded: dict[str, torch.Tensor] = {}
        self.adapter: str | None = None
        self.projection: Any = None  # of visual guidance, trained with the adapter
        if settings.channels_last:
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.vae.to(memory_format=torch.channels_last)
        self.compiled = False
        if settings.compile and settings.lora is not None:
            paths = lora_paths(settings.lora, class_names)
            self.lora_rank = max((lora_rank(Path(path)) for path in paths), default=0)

    def __call__(self, batch: Batch) -> Batch:
        """Adds image, uint8 [H,W,3] each, and rejected: `nan` where the model gave no finite pixels."""
        import torch

        with torch.inference_mode():
            pixels = self._pixels(batch)
            finite = torch.isfinite(pixels).flatten(1).all(dim=1).tolist()
            # The GPU sends a quarter of the bytes when it rounds before.
            images = (pixels.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return {**batch, "image": list(images), "rejected": ["" if ok else "nan" for ok in finite]}

    def _pixels(self, batch: Batch) -> Any:
        """float [B,3,H,W] in [0, 1]."""
        import torch

        self._adapt(batch["label"][0], batch["class_name"][0])
        if self.settings.compile and not self.compiled:  # with the first adapter in it, where there are any
            self.pipe.unet.compile(fullgraph=True)
            self.pipe.vae.decoder.compile(fullgraph=True)
            self.compiled = True
        guided = self.generate.guidance_scale > 1
        arguments: dict[str, Any] = {
            "prompt_embeds": self._embedded(batch["prompt"], batch, conditional=True),
            "negative_prompt_embeds": (
                self._embedded(batch["negative_prompt"], batch, conditional=False) if guided else None
            ),
            "num_inference_steps": self.generate.num_inference_steps,
            "guidance_scale": self.generate.guidance_scale,
            # On the CPU, so that an image starts from the same noise on any device.
            "generator": [torch.Generator().manual_seed(seed) for seed in batch["seed"]],
            "output_type": "pt",
            **{name: value for name, value in self.settings.pipeline_args.items() if name != "clip_skip"},
        }
        if self.settings.strength is None:
            arguments |= {"height": self.size, "width": self.size}
        else:
            arguments |= {"image": self._parent_images(batch["parent"]), "strength": self.settings.strength}
        return self.pipe(**arguments).images

    def _parent_images(self, rows: Sequence[int]) -> Any:
        import torch

        if self.parents is None:
            raise InputError("image-to-image needs real images; give parents")
        images = [
            unified(np.squeeze(image), (self.size, self.size, 3))
            for image in self.parents.source.images(np.asarray(rows))
        ]
        colour = np.stack([np.broadcast_to(image, (self.size, self.size, 3)) for image in images])
        return torch.from_numpy(colour).permute(0, 3, 1, 2).float() / 255

    def _embedded(self, prompts: Sequence[str], batch: Batch, *, conditional: bool) -> Any:
        """Text embeddings [B,T,D], each prompt encoded once; with the visual guidance joined to them."""
        import torch

        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.encoded]
        if len(self.encoded) + len(new) > CACHED_PROMPTS:
            self.encoded.clear()
            new = list(dict.fromkeys(prompts))
        for prompt in new:
            self.encoded[prompt] = self._text(prompt)
        text = torch.stack([self.encoded[prompt] for prompt in prompts])
        if self.settings.visual_guidance is None or self.parents is None or self.parents.embeddings is None:
            return text
        released = self.settings.visual_guidance.variant == "released"
        rows = batch["parent"] if released else batch["label"]
        seen = torch.from_numpy(self.parents.embeddings[rows]).to(text)
        # Tokens of their own: as many as were trained, or the embedding as it is.
        seen = seen[:, None] if self.projection is None else self.projection(seen).to(text)
        if released:
            return torch.cat([text[:, :-1], seen], dim=1) if conditional else text
        # The unconditional side is as long, and sees nothing.
        return torch.cat([text, seen if conditional else torch.zeros_like(seen)], dim=1)

    def _text(self, prompt: str) -> Any:
        """One prompt -> [T,D]."""
        encoder, clip_skip = self.pipe.text_encoder, self.settings.pipeline_args.get("clip_skip")
        # diffusers looks for a wrapper that transformers 5.6 took away (diffusers issue 14124).
        flat = clip_skip is not None and not hasattr(encoder, "text_model")
        if flat:
            encoder.__dict__["text_model"] = encoder
        try:
            return self.pipe.encode_prompt(prompt, self.device, 1, False, clip_skip=clip_skip)[0][0]
        finally:
            if flat:
                del encoder.__dict__["text_model"]

    def _adapt(self, label: int, class_name: str) -> None:
        """Load the LoRA of a class into the base model, in place of the one before."""
        if self.settings.lora is None:
            return
        path = lora_path(self.settings.lora, label, class_name)
        if path == self.adapter:
            return
        hotswap = self.compiled
        if self.settings.compile and not hotswap and "{" in self.settings.lora:
            self.pipe.enable_lora_hotswap(target_rank=self.lora_rank)  # a swap must not compile again
        if self.adapter is not None and not hotswap:
            self.pipe.delete_adapters(ADAPTER)
        self._load_adapter(Path(path), hotswap=hotswap)
        if hotswap:  # with the adapter's own scaling, alpha / r, which set_adapters would take from the first one
            for module in self.pipe.unet.modules():
                if ADAPTER in getattr(module, "scaling", {}):
                    module.scaling[ADAPTER] *= self.settings.lora_scale
        else:
            self.pipe.set_adapters([ADAPTER], [self.settings.lora_scale])
        self.adapter = path
        guidance = Path(guidance_beside(path))
        if self.settings.finetune is not None and guidance.is_file():
            self.projection = _projection(guidance).to(self.device)
        self.encoded.clear()  # a LoRA may change the text encoder too

    def _load_adapter(self, path: Path, *, hotswap: bool) -> None:
        """A LoRA file, in any of the layouts that diffusers knows, or in PEFT's own."""
        names = file_shapes(path) if path.suffix == ".safetensors" else {}
        if not is_pefts_own(names):
            self.pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=ADAPTER, hotswap=hotswap)
            return
        from safetensors.torch import load_file

        part, config = part_of(names), adapter_settings(path, names)
        load = self.pipe.load_lora_into_unet if part == "unet" else self.pipe.load_lora_into_text_encoder
        load(
            {as_in_a_pipeline(name, part): tensor for name, tensor in load_file(path).items()},
            network_alphas=None,
            metadata={f"{part}.{name}": value for name, value in config.items()},
            adapter_name=ADAPTER,
            hotswap=hotswap,
            _pipeline=self.pipe,
            **{part: getattr(self.pipe, part)},
        )


def load_pipeline(folder: Path, settings: StableDiffusion, dtype: Any) -> Any:
    """The pipeline of diffusers that the settings ask for, on the CPU."""
    from diffusers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what matters of its warnings is checked before, and said once
    safe = has_safetensors(folder / "unet", allow_pickle=settings.allow_pickle)
    return _pipeline_class(settings).from_pretrained(
        folder,
        torch_dtype=dtype,
        use_safetensors=True if safe and not settings.allow_pickle else None,
        variant=variant_of(folder),
        local_files_only=True,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def _projection(file: Path) -> Any:
    """Of the embedding of an image to tokens, as wide and as many as its weights say."""
    from diffusers.models.embeddings import ImageProjection
    from safetensors.torch import load_file

    state = load_file(file)
    (outputs, inputs), (width,) = state["image_embeds.weight"].shape, state["norm.weight"].shape
    module = ImageProjection(inputs, width, outputs // width)
    module.load_state_dict(state)
    return module.eval()


def lora_path(template: str, label: int, class_name: str) -> str:
    """The LoRA file of a class. Raises InputError where a class name would lead out of its folder."""
    if "{class}" in template and (class_name in ("", ".", "..") or "/" in class_name or "\0" in class_name):
        raise InputError(
            f"generator.lora={template!r}: the class name {class_name!r} cannot be part of a path; "
            "use {label}, the number of the class, instead of {class}"
        )
    return template.replace("{label}", str(label)).replace("{class}", class_name)


def lora_paths(template: str, class_names: Sequence[str]) -> list[str]:
    """The LoRA files of all classes, each once, sorted."""
    return sorted({lora_path(template, label, name) for label, name in enumerate(class_names)})


def check_pipeline_args(settings: StableDiffusion) -> None:
    """Raise InputError for an argument that the pipeline does not take: it would be passed on and ignored."""
    known = sorted(set(inspect.signature(_pipeline_class(settings).__call__).parameters) - OURS)
    for name in settings.pipeline_args:
        if name in OURS:
            raise InputError(f"generator.pipeline_args.{name} is set by other settings of generator and generate")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise InputError(f"unknown key generator.pipeline_args.{name}; {hint}")


def cut_prompts(folder: Path, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """(prompt, what the text encoder will not read of it), for those that are longer than its limit."""
    tokenizer = read_tokenizer(folder)
    limit = tokenizer.model_max_length
    cut = []
    for prompt in prompts:
        ids = tokenizer(prompt, verbose=False).input_ids
        if len(ids) > limit:
            cut.append((prompt, tokenizer.decode(ids[limit - 1 : -1])))
    return cut


def _pipeline_class(settings: StableDiffusion) -> Any:
    import_torchvision()
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

    return StableDiffusionPipeline if settings.strength is None else StableDiffusionImg2ImgPipeline


def _dtype(settings: StableDiffusion, device: str) -> Any:
    import torch

    if settings.dtype == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    return getattr(torch, settings.dtype)
