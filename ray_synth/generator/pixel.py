"""The kind `diffusion`: a class-conditional diffusion model in pixel space that the run trains itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_synth.config import Diffusion
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.generator.artifacts import CHECKPOINT, WEIGHTS
from ray_synth.generator.base import Generator, Origin, Parents, Sampler, register
from ray_synth.runs import RunFolder

SMALL_STEPS, SMALL_BATCH = 60, 16  # of a smoke run


@register
class PixelGenerator(Generator[Diffusion]):
    """UNet2DModel with classifier-free guidance, over whatever scheduler."""

    Settings = Diffusion
    weights = WEIGHTS

    def check(self) -> list[str]:
        self._check_levels()
        # These fit, and saying so costs no import of diffusers.
        if self.generate.scheduler not in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"):
            from ray_synth.generator.diffusion import noise_schedule
            from ray_synth.generator.schedulers import scheduler_like

            scheduler_like(noise_schedule(self.settings), self.generate.scheduler)
        return []

    def _check_levels(self) -> None:
        settings, (height, width, _) = self.settings, self.shape
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
                    f"generator.attention_resolutions must be of {', '.join(map(str, sides))}, the sides that images "
                    f"of {width}x{height} are halved to, got {side}; "
                    f"type --set generator.attention_resolutions=[{min(sides, key=lambda one: abs(one - side))}]"
                )

    def origin(self, trained: str) -> Origin:
        return Origin(
            model_id=f"ray_synth/diffusion/{trained[:12]}", model_revision=trained, model_license="", parts={}
        )

    @property
    def fit_steps(self) -> int:
        return self.settings.steps

    @property
    def fit_batch(self) -> int:
        return self.settings.batch_size

    def with_fit_steps(self, steps: int) -> Generator[Diffusion]:
        return self._changed(self.settings.model_copy(update={"steps": steps}), self.generate)

    def fit(self, folder: RunFolder, images: ImageSource, seed: int) -> Iterator[int]:
        from ray_synth.generator.finetune import finetuning

        yield from finetuning(folder, images, self.settings, seed)

    def fit_done(self, folder: RunFolder, part: str = "") -> int:
        if folder.exists(WEIGHTS):
            return self.settings.steps
        if not folder.exists(CHECKPOINT):
            return 0
        from ray_synth.training.checkpoint import updates_done

        return updates_done(folder.read(CHECKPOINT))

    def sampler(self, folder: RunFolder, parents: Parents | None, device: str) -> Sampler:
        from ray_synth.generator.diffusion import DiffusionSampler, load_unet

        return DiffusionSampler(load_unet(folder), self.settings, self.generate, device)

    @property
    def guided(self) -> bool:
        return self.generate.guidance_scale != 1.0

    def evaluation_flops(self) -> float:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from ray_synth.generator.diffusion import build_unet

        height, width, channels = self.shape
        unet = build_unet(self.settings, num_classes=len(self.class_names), shape=self.shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(torch.zeros(1, channels, height, width), torch.zeros(1).long(), class_labels=torch.zeros(1).long())
        return float(counter.get_total_flops())

    def small(self, models: Path) -> dict[str, Any]:
        return {
            **self.settings.model_dump(),
            "block_out_channels": [8, 16][: len(self.settings.block_out_channels)],
            "layers_per_block": 1,
            "steps": min(self.settings.steps, SMALL_STEPS),
            "batch_size": min(self.settings.batch_size, SMALL_BATCH),
        }
