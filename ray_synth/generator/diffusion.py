"""Class-conditional pixel diffusion: images in, a training loss out; a batch of labels and seeds in, images out."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Sequence

import torch

from ray_synth.config import Diffusion, Generate
from ray_synth.errors import Spoiled
from ray_synth.generator.artifacts import CONFIG, DIGEST, WEIGHTS
from ray_synth.generator.base import Batch
from ray_synth.generator.schedulers import scheduler_like
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.torch_ops import import_torchvision
from ray_synth.training.checkpoint import opened, sealed

import_torchvision()  # diffusers imports it
from diffusers import DDPMScheduler, UNet2DModel  # noqa: E402


def build_unet(settings: Diffusion, *, num_classes: int, shape: tuple[int, int, int]) -> UNet2DModel:
    """A UNet for images of `shape` [H,W,C]. Class `num_classes` stands for "no label" (guidance)."""
    height, width, channels = shape
    attends = [side in settings.attention_resolutions for side in settings.level_sides(max(height, width))]
    return UNet2DModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels,
        block_out_channels=settings.block_out_channels,
        layers_per_block=settings.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        num_class_embeds=num_classes + 1,
        norm_num_groups=8,
    )


def noise_schedule(settings: Diffusion) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=settings.num_train_timesteps,
        beta_schedule=settings.beta_schedule,
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
    folder.write(WEIGHTS, sealed(tensors, {"format": "pt"}))


def load_unet(folder: RunFolder) -> UNet2DModel:
    """Raises Spoiled for files that are not what the training wrote, by the hash in `digest.json` once it is there."""
    weights, anew = folder.read(WEIGHTS), "move generator/ away and run the same command again, which trains it anew"
    known = folder.read_record(DIGEST, dict[str, str]).get("weights_sha256") if folder.exists(DIGEST) else None
    if known not in (None, hashlib.sha256(weights).hexdigest()):
        raise Spoiled(f"{folder.url}/{WEIGHTS} is not what was trained: its SHA-256 is another; {anew}", WEIGHTS)
    config = folder.read_json(CONFIG)
    try:
        unet = UNet2DModel.from_config(config)
        unet.load_state_dict(opened(weights)[0])
    except Exception as error:  # whatever diffusers, torch and safetensors make of other files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Spoiled(f"{folder.url}/generator cannot be read ({reason}); {anew}", CONFIG, WEIGHTS) from None
    return unet.eval()


def pixel_noise(seeds: Sequence[int], shape: tuple[int, ...], variance: float) -> torch.Tensor:
    """Gaussian noise [B,*shape] on samples in [-1, 1] (Shidani et al., 2025, Table 2), each image's from its seed."""
    random = [torch.Generator().manual_seed(derive_seed("pixel noise", seed)) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=one) for one in random]) * math.sqrt(variance)


class DiffusionSampler:
    """batch -> batch. An image depends on its own label and seed alone, not on its batch or worker."""

    def __init__(self, unet: UNet2DModel, settings: Diffusion, generate: Generate, device: str = "cpu"):
        self.unet = unet.to(device).eval()
        self.device = device
        self.guidance_scale = generate.guidance_scale
        self.num_inference_steps = generate.num_inference_steps
        self.noise_variance = generate.noise_variance
        self.schedule, self.scheduler = noise_schedule(settings), generate.scheduler

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Batch:
        """Adds image, uint8 [H,W,C] each, and rejected: `nan` where the model gave no finite pixels."""
        height, width = self.unet.config["sample_size"]
        shape = (self.unet.config["in_channels"], height, width)
        random = [torch.Generator().manual_seed(seed) for seed in batch["seed"]]
        scheduler = scheduler_like(self.schedule, self.scheduler)
        scheduler.set_timesteps(self.num_inference_steps)
        own_noise = {"generator": random} if "generator" in inspect.signature(scheduler.step).parameters else {}
        noise = torch.stack([torch.randn(shape, generator=one) for one in random])
        x = noise.to(self.device) * scheduler.init_noise_sigma
        wanted = torch.as_tensor(batch["label"], device=self.device)
        no_label = torch.full_like(wanted, self.unet.config["num_class_embeds"] - 1)
        for time in scheduler.timesteps:
            predicted = self._guided(scheduler.scale_model_input(x, time), time, wanted, no_label)
            x = scheduler.step(predicted, time, x, **own_noise).prev_sample
        if self.noise_variance:
            x = x + pixel_noise(batch["seed"], shape, self.noise_variance).to(self.device)
        finite = torch.isfinite(x).flatten(1).all(dim=1).tolist()
        pixels = (x.nan_to_num().clamp(-1, 1) + 1) * 127.5
        images = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return {**batch, "image": list(images), "rejected": ["" if ok else "nan" for ok in finite]}

    def _guided(
        self, x: torch.Tensor, time: torch.Tensor, wanted: torch.Tensor, no_label: torch.Tensor
    ) -> torch.Tensor:
        """Classifier-free guidance (Ho & Salimans, 2022): both predictions in one batch."""
        if self.guidance_scale == 1.0:
            predicted: torch.Tensor = self.unet(x, time, class_labels=wanted).sample
            return predicted
        both: torch.Tensor = self.unet(torch.cat([x, x]), time, class_labels=torch.cat([wanted, no_label])).sample
        conditional, unconditional = both.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)
