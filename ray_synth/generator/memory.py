"""A pipeline's folder and the settings of its fine-tuning in, bytes of a GPU's memory that an adapter takes out.

Counted, from configurations alone: the modules are built without weights, and go through an update on torch's device
`meta`. Not counted is what CUDA and its kernels take for themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ray_synth.config import DiffusersSettings, LoraTraining
from ray_synth.generator.base import FitMemory
from ray_synth.generator.latents import AT_ONCE as LOOKED_AT
from ray_synth.generator.lora import AT_ONCE as SAMPLED
from ray_synth.generator.lora import TEXT_MODULES, precision_on, put_adapter
from ray_synth.generator.pretrained import built_without_weights, read_config
from ray_synth.generator.prompts import MOST_KEPT
from ray_synth.training.memory import AsOnGpu, Peak

STATE = 4  # float32 numbers of a trained weight: itself, its gradient, and AdamW's two averages
TOKENS = 77  # of a prompt, where the text encoder does not say


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a training is of. images: that it looks at. prompts: different ones. guidance: width of the embeddings that
    are projected to tokens; 0: none."""

    images: int
    prompts: int
    guided: bool  # sample pictures take two evaluations a step
    guidance: int = 0

    def batch(self, training: LoraTraining) -> int:
        """Images of a step that one GPU looks at."""
        return math.ceil(min(training.batch_size, self.images) / training.num_workers)

    def shown(self, training: LoraTraining) -> int:
        """Sample pictures that are made at once."""
        return min(training.samples, self.images, SAMPLED)


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes. What stays: base, the model's weights; adapter, its weights, gradients and averages; prompts, embeddings.

    What comes and goes, at most: in an update; for sample pictures; while the autoencoder looks at real images.
    """

    base: int
    adapter: int
    prompts: int
    update: int
    pictures: int
    looking: int

    @property
    def stays(self) -> int:
        return self.base + self.adapter + self.prompts

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """By what it is called."""
        most = {"an update": self.update, "sample pictures": self.pictures, "encoding images": self.looking}
        name = max(most, key=lambda one: most[one])
        return {"the model": self.base, "the adapter": self.adapter + self.prompts, name: most[name]}


class AdapterMemory(FitMemory):
    """The count of one model's training, and of what it would be with other settings."""

    def __init__(self, folder: Path, settings: DiffusersSettings, sizes: Sizes, *, fused: bool):
        """fused: whether the GPU has fused attention in bfloat16; it has in float32.

        Raises:
            InputError: a folder that describes no model.
        """
        assert settings.finetune is not None  # noqa: S101 - of the caller
        self.folder, self.settings, self.sizes, self.fused = folder, settings, sizes, fused
        self.training, self.batch = settings.finetune, sizes.batch(settings.finetune)
        self.counted = self.of(self.training)

    def of(self, training: LoraTraining) -> TrainingMemory:
        return _Count(self, training).found()

    @property
    def parts(self) -> Mapping[str, int]:
        return self.counted.parts

    def smaller(self, room: int) -> list[tuple[dict[str, Any], int]]:
        """Gradient checkpointing first, which changes nothing in the result."""
        unfused = not self.fused and precision_on("cuda", self.training) == "bfloat16"
        first: dict[str, Any] = {"precision": "float32"} if unfused else {}
        ways, found = [first], []
        if not self.training.gradient_checkpointing and self.counted.update > room - self.counted.stays:
            ways.insert(0, {**first, "gradient_checkpointing": True})
        for way in ways:
            counted = self.of(self.training.model_copy(update=way)) if way else self.counted
            if (fits := self._fitted(counted, way, room)) is not None:
                found.append(fits)
        return found

    def _fitted(self, counted: TrainingMemory, changes: dict[str, Any], room: int) -> tuple[dict[str, Any], int] | None:
        """The changes, with as many images as fit; None where there is no room for one, or for what does not follow
        from them."""
        spare, changes = room - counted.stays, dict(changes)
        if counted.update > spare:
            batch = self.batch * max(spare, 0) // counted.update
            if batch * self.training.num_workers < (1 if self.training.mmd is None else 2):
                return None
            counted = replace(counted, update=counted.update * batch // self.batch)
            changes["batch_size"] = batch * self.training.num_workers
        if counted.pictures > spare and (shown := self.sizes.shown(self.training)):
            samples = shown * max(spare, 0) // counted.pictures
            counted = replace(counted, pictures=counted.pictures * samples // shown)
            changes["samples"] = samples
        if counted.total > room or not changes:
            return None
        return {f"generator.finetune.{name}": value for name, value in changes.items()}, counted.total


class _Count:
    """One count."""

    def __init__(self, given: AdapterMemory, training: LoraTraining):
        self.training, self.sizes = training, given.sizes
        half = precision_on("cuda", training) == "bfloat16"
        self.mode = AsOnGpu(half=half, fused=given.fused or not half)
        self.dtype = torch.bfloat16 if half else torch.float32
        self.unet, self.text = (self._part(given.folder, name, self.dtype) for name in ("unet", "text_encoder"))
        self.vae = self._part(given.folder, "vae", torch.float32)
        self.scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.side = int(given.settings.image_size or self.unet.config.sample_size * self.scale)
        self.base = _bytes(self.unet) + _bytes(self.text) + _bytes(self.vae)
        self.projection = self._projection(given.settings)

    def _part(self, folder: Path, name: str, dtype: torch.dtype) -> Any:
        module = built_without_weights(folder, name, read_config(folder / name / "config.json", folder))
        for parameter in module.requires_grad_(False).parameters():
            parameter.data = parameter.data.to(dtype)
        return module.train()

    def _projection(self, settings: DiffusersSettings) -> Any:
        guidance = settings.visual_guidance
        if guidance is None or guidance.variant != "paper" or not self.sizes.guidance:
            return None
        from diffusers.models.embeddings import ImageProjection

        with torch.device("meta"):
            return ImageProjection(
                self.sizes.guidance, self.unet.config.cross_attention_dim, self.training.guidance_tokens
            )

    def found(self) -> TrainingMemory:
        training = self.training
        looking = self._looking()
        put_adapter(self.unet, training.target_modules, training)
        if training.text_encoder:
            put_adapter(self.text, TEXT_MODULES, training)
        trained = list(self._trained())
        numbers = sum(parameter.numel() for parameter in trained)
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        if training.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing(self.mode.checkpointed)
        kept = 0 if training.text_encoder else min(MOST_KEPT, self.sizes.prompts)
        embedding = self._tokens * self.unet.config.cross_attention_dim * self.dtype.itemsize
        return TrainingMemory(
            base=self.base,
            adapter=4 * numbers * (STATE + bool(training.ema_decay)),
            prompts=kept * embedding,
            update=self._update(),
            pictures=self._pictures(),
            looking=looking,
        )

    def _trained(self) -> Iterator[nn.Parameter]:
        for module in (self.unet, self.text, self.projection):
            if module is not None:
                yield from (parameter for parameter in module.parameters() if parameter.requires_grad)

    @property
    def _tokens(self) -> int:
        return int(getattr(self.text.config, "max_position_embeddings", TOKENS))

    def _peak(self) -> Peak:
        there = [tensor for module in (self.unet, self.text, self.vae) for tensor in _tensors(module)]
        gradients = [parameter.grad for parameter in self._trained() if parameter.grad is not None]
        return Peak([*there, *gradients, *(_tensors(self.projection) if self.projection is not None else ())])

    def _update(self) -> int:
        batch = self.sizes.batch(self.training)
        peak = self._peak()
        with peak:
            with self.mode:
                losses = [self._loss(batch, guided=True)]
                if self.training.prior_preservation is not None:
                    losses.append(self._loss(batch, guided=False))
            torch.stack(losses).sum().backward()
        return peak.bytes

    def _loss(self, batch: int, *, guided: bool) -> torch.Tensor:
        clean, noise = (self._latents(batch, torch.float32) for _ in range(2))
        text = self._conditions(batch, guided=guided)
        predicted = self._predicted((clean + noise).to(text.dtype), text)
        return (noise - clean - predicted.float()).square().flatten(1).mean(dim=1).mean()

    def _conditions(self, batch: int, *, guided: bool = False) -> torch.Tensor:
        """Text embeddings, with the tokens of visual guidance."""
        if self.training.text_encoder:
            different = min(batch, self.sizes.prompts + 1)  # a prompt may be left out
            encoded = self.text(torch.zeros(different, self._tokens, dtype=torch.long, device="meta"))[0]
            text = torch.stack([encoded[number % different] for number in range(batch)])
        else:
            width = self.unet.config.cross_attention_dim
            text = torch.empty(batch, self._tokens, width, dtype=self.dtype, device="meta")
        if not guided or self.projection is None:
            return text
        seen = torch.empty(batch, self.sizes.guidance, dtype=self.dtype, device="meta")
        return torch.cat([text, self.projection(seen).to(text.dtype)], dim=1)

    def _predicted(self, noisy: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        times = torch.zeros(len(noisy), dtype=torch.long, device="meta")
        predicted: torch.Tensor = self.unet(noisy, times, encoder_hidden_states=text).sample
        return predicted

    def _latents(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        side, channels = self.side // self.scale, int(self.vae.config.latent_channels)
        return torch.empty(count, channels, side, side, dtype=dtype, device="meta")

    @torch.no_grad()
    def _pictures(self) -> int:
        """Of the base or the adapter: what it makes for its classes, and what it shows at checkpoints."""
        prior, shown = self.training.prior_preservation, self.sizes.shown(self.training)
        made = max(shown, min(prior.images_per_class, SAMPLED) if prior is not None else 0)
        if not made:
            return 0
        peak = self._peak()
        with peak, self.mode:
            evaluated = made * (1 + self.sizes.guided)
            self._predicted(self._latents(evaluated, self.dtype), self._conditions(evaluated))
            if shown:
                self.vae.decode(self._latents(shown, self.dtype))
        return peak.bytes

    @torch.no_grad()
    def _looking(self) -> int:
        peak = self._peak()
        with peak, AsOnGpu(half=False, fused=True):
            pixels = torch.empty(min(self.sizes.images, LOOKED_AT), 3, self.side, self.side, device="meta")
            self.vae.encode(pixels)
        return peak.bytes


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(module))
