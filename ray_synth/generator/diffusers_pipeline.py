"""Prompts, seeds and parents in, images out: a pipeline of diffusers, text-to-image or image-to-image."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_synth.config import DiffusersSettings, Generate
from ray_synth.errors import InputError
from ray_synth.generator.adapter_files import guidance_beside
from ray_synth.generator.adapters import adapter_settings, as_in_a_pipeline, is_pefts_own, part_of
from ray_synth.generator.base import Batch, Parents
from ray_synth.generator.pretrained import (
    file_shapes,
    has_safetensors,
    lora_rank,
    pipeline_row,
    read_config,
    read_tokenizer,
    variant_of,
)
from ray_synth.generator.prompts import encoded_once, with_guidance
from ray_synth.generator.schedulers import scheduler_like
from ray_synth.text_to_image import Pipeline
from ray_synth.torch_ops import import_torchvision

ADAPTER = "ray_synth"
# Arguments of a pipeline's call that have settings of their own, or no meaning here.
OURS = {
    "self", "prompt", "image", "strength", "height", "width", "num_inference_steps", "generator", "latents",
    "output_type", "return_dict", "num_images_per_prompt", "callback", "callback_steps", "callback_on_step_end",
    "callback_on_step_end_tensor_inputs", "kwargs", "timesteps", "sigmas", "mu", "ip_adapter_image",
    "ip_adapter_image_embeds", "negative_ip_adapter_image", "negative_ip_adapter_image_embeds", "prompt_2", "prompt_3",
    "negative_prompt", "negative_prompt_2", "negative_prompt_3", "denoising_start", "denoising_end",
}  # fmt: skip
Embeddings = dict[str, Any]  # arguments of the call, of one prompt (without a batch) or of a batch


class DiffusersSampler:
    """batch -> batch. An image depends on its own row alone; the base model is loaded once, adapters are swapped."""

    def __init__(
        self,
        folder: Path,
        settings: DiffusersSettings,
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
        self.row = row = pipeline_row(folder)
        self.pipe = load_pipeline(folder, settings, _dtype(row, settings, device))
        self.pipe.scheduler = scheduler_like(self.pipe.scheduler, generate.scheduler, flow=row.is_flow)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.to(device)
        self.denoiser = getattr(self.pipe, row.denoiser)
        sample_size = self.denoiser.config.get("sample_size")
        self.size = settings.image_size or (sample_size * self.pipe.vae_scale_factor if sample_size else row.size)
        self.takes = set(inspect.signature(self.pipe.__call__).parameters)
        self.encoded: dict[tuple[str, bool], Embeddings] = {}
        self.adapter: str | None = None
        self.projection: Any = None  # of visual guidance, trained with the adapter
        if settings.channels_last:
            for module in (self.denoiser, self.pipe.vae):
                if not any(weight.ndim == 5 for weight in module.parameters()):  # a decoder of videos has no such order
                    module.to(memory_format=torch.channels_last)
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
            self.denoiser.compile(fullgraph=True)
            self.pipe.vae.decoder.compile(fullgraph=True)
            self.compiled = True
        arguments: dict[str, Any] = {
            **self._embedded(batch["prompt"], batch, conditional=True),
            "num_inference_steps": self.generate.num_inference_steps,
            self.row.guidance: self.generate.guidance_scale,
            # On the CPU, so that an image starts from the same noise on any device.
            "generator": [torch.Generator().manual_seed(seed) for seed in batch["seed"]],
            "output_type": "pt",
            **self.row.call,
            **{name: value for name, value in self.settings.pipeline_args.items() if name != "clip_skip"},
        }
        if self.generate.guidance_scale > self.row.guided_above:
            negative = self._embedded(batch["negative_prompt"], batch, conditional=False)
            arguments |= {f"negative_{name}": value for name, value in negative.items()}
        if "negative_prompt" in self.takes:
            arguments["negative_prompt"] = None  # some have an empty one as their default, beside its embeddings
        if "height" in self.takes:
            arguments |= {"height": self.size, "width": self.size}
        if self.settings.strength is not None:
            arguments |= {"image": self._parent_images(batch["parent"]), "strength": self.settings.strength}
        return self.pipe(**arguments).images

    def _parent_images(self, rows: Sequence[int]) -> Any:
        import torch

        from ray_synth.generator.latents import colour_images

        if self.parents is None:
            raise InputError("image-to-image needs real images; give parents")
        colour = colour_images(self.parents.source, rows, self.size)
        return torch.from_numpy(colour).permute(0, 3, 1, 2).float() / 255

    def _embedded(self, prompts: Sequence[str], batch: Batch, *, conditional: bool) -> Embeddings:
        """What encoders make of a batch's prompts, each encoded once and alone; with the visual guidance joined to it.

        Under the names of the conditional side.
        """
        import torch

        each = encoded_once(
            self.encoded,
            [(prompt, conditional) for prompt in prompts],
            lambda new: [self._text(prompt, conditional=side) for prompt, side in new],
        )
        joined = _joined(self.row, each)
        guidance = self.settings.visual_guidance
        if guidance is None or self.parents is None or self.parents.embeddings is None:
            return joined
        text = joined["prompt_embeds"]
        rows = batch["parent"] if guidance.variant == "released" else batch["label"]
        seen = torch.from_numpy(self.parents.embeddings[rows]).to(text)
        # Tokens of their own: as many as were trained, or the embedding as it is.
        seen = seen[:, None] if self.projection is None else self.projection(seen).to(text)
        shown = torch.full((len(text),), conditional)
        return {"prompt_embeds": with_guidance(text, seen, shown, variant=guidance.variant)}

    def _text(self, prompt: str, *, conditional: bool) -> Embeddings:
        """One prompt, with the arguments that the pipeline's own call would encode it with."""
        import torch

        call, encode = (inspect.signature(one).parameters for one in (self.pipe.__call__, self.pipe.encode_prompt))
        given = {**self.row.call, **self.settings.pipeline_args, **({} if conditional else self.row.negative_call)}
        ours = own_arguments(self.row)
        arguments = {name: given.get(name, call[name].default) for name in encode if name in call and name not in ours}
        # Other prompts that a class cannot do without are those of its further encoders, which read the first.
        needed = {name: None for name, one in encode.items() if one.default is one.empty and name.startswith("prompt_")}
        options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False, "device": self.device}
        arguments |= {name: value for name, value in options.items() if name in encode}
        # diffusers looks for a wrapper that transformers 5.6 took away (diffusers issue 14124).
        encoders = [getattr(self.pipe, encoder) for encoder in self.row.tokenizers.values()]
        flat = [one for one in encoders if arguments.get("clip_skip") is not None and not hasattr(one, "text_model")]
        for encoder in flat:
            encoder.__dict__["text_model"] = encoder
        try:
            values = self.pipe.encode_prompt(prompt=[prompt], **needed, **arguments)
        finally:
            for encoder in flat:
                del encoder.__dict__["text_model"]
        found: Embeddings = {
            name: None if value is None else value[0]
            for name, value in zip(self.row.embeddings, values, strict=True)
            if name is not None
        }
        if self.row.zeros_for_none and not conditional and not prompt and self.pipe.config.force_zeros_for_empty_prompt:
            return {name: torch.zeros_like(value) for name, value in found.items()}
        return found

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
            for module in self.denoiser.modules():
                if ADAPTER in getattr(module, "scaling", {}):
                    module.scaling[ADAPTER] *= self.settings.lora_scale
        else:
            self.pipe.set_adapters([ADAPTER], [self.settings.lora_scale])
        self.adapter = path
        guidance = Path(guidance_beside(path))
        trained = self.settings.finetune is not None and guidance.is_file()
        self.projection = _projection(guidance).to(self.device) if trained else None
        self.encoded.clear()  # a LoRA may change the text encoder too

    def _load_adapter(self, path: Path, *, hotswap: bool) -> None:
        """A LoRA file, in any of the layouts that diffusers knows, or in PEFT's own."""
        names = file_shapes(path) if path.suffix == ".safetensors" else {}
        if not is_pefts_own(names):
            self.pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=ADAPTER, hotswap=hotswap)
            return
        from safetensors.torch import load_file

        part, config = part_of(names, self.row.denoiser), adapter_settings(path, names)
        load = getattr(self.pipe, f"load_lora_into_{part}")
        alphas = {"network_alphas": None} if "network_alphas" in inspect.signature(load).parameters else {}
        load(
            {as_in_a_pipeline(name, part): tensor for name, tensor in load_file(path).items()},
            metadata={f"{part}.{name}": value for name, value in config.items()},
            adapter_name=ADAPTER,
            hotswap=hotswap,
            _pipeline=self.pipe,
            **{part: getattr(self.pipe, part)},
            **alphas,
        )


def load_pipeline(folder: Path, settings: DiffusersSettings, dtype: Any) -> Any:
    """The pipeline of diffusers that the settings ask for, on the CPU."""
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    for library in (logging, transformers_logging):
        library.disable_progress_bar()
    logging.set_verbosity_error()  # what matters of its warnings is checked before, and said once
    row = pipeline_row(folder)
    safe = has_safetensors(folder / row.denoiser, allow_pickle=settings.allow_pickle)
    return _pipeline_class(row, settings).from_pretrained(
        folder,
        torch_dtype=dtype,
        use_safetensors=True if safe and not settings.allow_pickle else None,
        variant=variant_of(folder, row.denoiser),
        local_files_only=True,
        **row.loads_with,
        **row.given,
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


def _joined(row: Pipeline, each: Sequence[Embeddings]) -> Embeddings:
    """The embeddings of prompts as a batch; where they are of different lengths, padded and masked."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    columns = {name: [one[name] for one in each] for name in each[0]}
    if row.ragged:
        return columns
    if row.mask is None or all(value is not None for value in columns[row.mask]):
        return {name: torch.stack(values) for name, values in columns.items()}
    joined = {name: pad_sequence(values, batch_first=True) for name, values in columns.items() if name != row.mask}
    ends = torch.tensor([len(value) for value in next(iter(columns.values()))])
    mask = torch.arange(int(ends.max()))[None] < ends[:, None]
    return {**joined, row.mask: None if mask.all() else mask.long().to(next(iter(joined.values())).device)}


def own_arguments(row: Pipeline) -> set[str]:
    """Arguments of a pipeline's call that settings stand for, or that have no meaning here."""
    names = {name for name in row.embeddings if name is not None}
    return OURS | {row.guidance} | names | {f"negative_{name}" for name in names}


def check_takes(folder: Path, settings: DiffusersSettings) -> None:
    """Raise InputError for a setting that the pipeline in the folder cannot take."""
    row = pipeline_row(folder)
    if settings.strength is not None and row.image_to_image is None:
        raise InputError(f"generator.strength: diffusers has no image-to-image for a {row.name}; leave it out")
    if settings.visual_guidance is not None and not row.visual_guidance:
        raise InputError(
            f"generator.visual_guidance: image embeddings cannot stand beside what a {row.name} is told; leave it out"
        )
    if settings.finetune is not None and not row.trains:
        raise InputError(
            f"generator.finetune trains adapters of Stable Diffusion 1.x and 2.x, and {folder} holds a {row.name}; "
            "train one elsewhere and type --set generator.finetune=null --set generator.lora=FILE"
        )
    if settings.finetune is not None and "clip_skip" in settings.pipeline_args:
        raise InputError(
            "generator.pipeline_args.clip_skip: adapters are trained on all layers of the text encoder; leave it out, "
            "or type --set generator.finetune=null"
        )
    if settings.negative_prompt and not row.negative_prompt:
        raise InputError(f"generator.negative_prompt: a {row.name} takes none; leave it out")
    if settings.compile and not row.compiles:
        raise InputError(
            f"generator.compile: a {row.name} cannot be compiled whole; type --set generator.compile=false"
        )
    if settings.image_size is not None and settings.image_size % row.multiple:
        near = max(1, round(settings.image_size / row.multiple)) * row.multiple
        raise InputError(
            f"generator.image_size must be a multiple of {row.multiple} for a {row.name}, got {settings.image_size}; "
            f"type --set generator.image_size={near}"
        )
    distilled = read_config(folder / row.denoiser / "config.json", folder).get("guidance_embeds")
    if "guidance_scale" in settings.pipeline_args and row.distilled_guidance and not distilled:
        raise InputError(
            f"generator.pipeline_args.guidance_scale: the denoiser in {folder} does not take the scale of its own "
            "guidance; leave it out (generate.guidance_scale is classifier-free guidance)"
        )
    check_pipeline_args(settings, row)


def check_pipeline_args(settings: DiffusersSettings, row: Pipeline) -> None:
    """Raise InputError for an argument that the pipeline does not take: it would be passed on and ignored."""
    ours = own_arguments(row)
    known = sorted(set(inspect.signature(_pipeline_class(row, settings).__call__).parameters) - ours)
    for name in settings.pipeline_args:
        if name in ours:
            raise InputError(f"generator.pipeline_args.{name} is set by other settings of generator and generate")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise InputError(f"unknown key generator.pipeline_args.{name}; {hint}")


def cut_prompts(folder: Path, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """(prompt, what the text encoder will not read of it), for those that are longer than its limit."""
    part, most = pipeline_row(folder).reads
    tokenizer = read_tokenizer(folder, part)
    limit = most or tokenizer.model_max_length
    cut = []
    for prompt in prompts:
        ids = tokenizer(prompt, verbose=False).input_ids
        if len(ids) > limit:
            cut.append((prompt, tokenizer.decode(ids[limit - 1 : -1])))
    return cut


def _pipeline_class(row: Pipeline, settings: DiffusersSettings) -> Any:
    import_torchvision()
    import diffusers

    return getattr(diffusers, row.name if settings.strength is None else str(row.image_to_image))


def _dtype(row: Pipeline, settings: DiffusersSettings, device: str) -> Any:
    import torch

    if settings.dtype == "auto":
        return getattr(torch, row.dtype) if device.startswith("cuda") else torch.float32
    return getattr(torch, settings.dtype)
