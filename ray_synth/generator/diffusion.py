"""Class-conditional pixel diffusion: images in, a training loss out; labels and seeds in, images out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, SchedulerMixin, UNet2DModel
from safetensors import torch as safetensors

from ray_synth.config import Generate, Generator
from ray_synth.errors import WorkError
from ray_synth.generator.artifacts import CONFIG, WEIGHTS
from ray_synth.runs import RunFolder


def build_unet(settings: Generator, *, num_classes: int, shape: tuple[int, int, int]) -> UNet2DModel:
    """A UNet for images of `shape` [H,W,C]. Class `num_classes` stands for "no label" (guidance)."""
    height, width, channels = shape
    levels = len(settings.block_out_channels)
    return UNet2DModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels,
        block_out_channels=settings.block_out_channels,
        layers_per_block=settings.layers_per_block,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        num_class_embeds=num_classes + 1,
        norm_num_groups=8,
    )


def noise_schedule(settings: Generator) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=settings.num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=settings.prediction_type,
        clip_sample=False,
    )


def diffusion_loss(
    unet: UNet2DModel,
    schedule: DDPMScheduler,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    class_dropout: float,
    random: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the predicted noise (or velocity) at random times, a share of the labels dropped.

    images: [B,C,H,W] in [-1, 1]; labels: int [B].
    """
    noise = torch.randn(images.shape, generator=random)
    times = torch.randint(0, schedule.config["num_train_timesteps"], labels.shape, generator=random)
    dropped = torch.rand(labels.shape, generator=random) < class_dropout
    no_label = unet.config["num_class_embeds"] - 1
    labels = torch.where(dropped, torch.full_like(labels, no_label), labels)
    noise, times, labels = (tensor.to(images.device) for tensor in (noise, times, labels))
    noisy = schedule.add_noise(images, noise, times)
    velocity = schedule.config["prediction_type"] == "v_prediction"
    target = schedule.get_velocity(images, noise, times) if velocity else noise
    return torch.nn.functional.mse_loss(unet(noisy, times, class_labels=labels).sample, target)


def save_unet(folder: RunFolder, unet: UNet2DModel) -> None:
    """The layout of diffusers: `UNet2DModel.from_pretrained(OUT/generator)` loads it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    folder.write(CONFIG, unet.to_json_string().encode())
    folder.write(WEIGHTS, safetensors.save(tensors, metadata={"format": "pt"}))


def load_unet(folder: RunFolder) -> UNet2DModel:
    unet = UNet2DModel.from_config(json.loads(folder.read(CONFIG)))
    unet.load_state_dict(safetensors.load(folder.read(WEIGHTS)))
    return unet.eval()


class DiffusionSampler:
    """(labels, seeds) -> images. An image depends on its own label and seed alone, not on its batch or worker."""

    def __init__(self, unet: UNet2DModel, settings: Generator, generate: Generate, device: str = "cpu"):
        import diffusers

        self.unet = unet.to(device).eval()
        self.device = device
        self.guidance_scale = generate.guidance_scale
        self.num_inference_steps = generate.num_inference_steps
        self.scheduler_class: type[SchedulerMixin] = getattr(diffusers, generate.scheduler)
        self.scheduler_config: dict[str, Any] = dict(noise_schedule(settings).config)

    @torch.inference_mode()
    def __call__(self, labels: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        """labels: [B]; seeds: [B] -> uint8 [B,H,W,C]."""
        height, width = self.unet.config["sample_size"]
        shape = (self.unet.config["in_channels"], height, width)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x = torch.stack(noise).to(self.device)
        wanted = torch.as_tensor(labels, device=self.device)
        no_label = torch.full_like(wanted, self.unet.config["num_class_embeds"] - 1)
        scheduler = self.scheduler_class.from_config(self.scheduler_config)
        scheduler.set_timesteps(self.num_inference_steps)
        for time in scheduler.timesteps:
            predicted = self._guided(x, time, wanted, no_label)
            x = scheduler.step(predicted, time, x).prev_sample
        if not torch.isfinite(x).all():
            bad = [int(s) for s, image in zip(seeds, x, strict=True) if not torch.isfinite(image).all()]
            raise WorkError(f"the generator gave NaN for {len(bad)} image(s), seeds {bad[:3]}; lower its learning_rate")
        pixels = (x.clamp(-1, 1) + 1) * 127.5
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _guided(
        self, x: torch.Tensor, time: torch.Tensor, wanted: torch.Tensor, no_label: torch.Tensor
    ) -> torch.Tensor:
        """Classifier-free guidance (Ho & Salimans, 2022): both predictions in one batch."""
        if self.guidance_scale == 1.0:
            return self.unet(x, time, class_labels=wanted).sample
        both = self.unet(torch.cat([x, x]), time, class_labels=torch.cat([wanted, no_label])).sample
        conditional, unconditional = both.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)
