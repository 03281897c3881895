"""Real images in, generator weights in the run folder out; a kill loses at most `CHECKPOINT_EVERY` steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ray_synth.config import Diffusion
from ray_synth.data.source import ImageSource
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import WorkError
from ray_synth.generator.artifacts import CHECKPOINT, WEIGHTS
from ray_synth.generator.diffusion import build_unet, diffusion_loss, noise_schedule, save_unet
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.training.checkpoint import FolderCheckpoints, refuse_torn
from ray_synth.training.loop import Loop, autocast
from ray_synth.training.recipe import Recipe, Schedule

CHECKPOINT_EVERY = 100


def finetune(
    folder: RunFolder,
    images: ImageSource,
    settings: Diffusion,
    *,
    seed: int,
    progress: Callable[[int], None] = lambda step: None,
) -> None:
    """Train the diffusion model and save its averaged weights. progress: called with the number of steps done."""
    for step in finetuning(folder, images, settings, seed):
        progress(step)


def finetuning(folder: RunFolder, images: ImageSource, settings: Diffusion, seed: int) -> Iterator[int]:
    """The same, step by step: yields the number of steps done.

    Step t draws from a seed of its own, so a run that was killed and resumed ends in the same weights.

    Raises:
        Spoiled: weights that are there already and not what was written.
    """
    if folder.exists(WEIGHTS):
        refuse_torn(folder, WEIGHTS)
        return  # killed between the last step and the record of it
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(derive_seed("generator weights", seed) % 2**32)
    unet: Any = build_unet(settings, num_classes=images.num_classes, shape=images.shape)
    unet.to(device)
    recipe = Recipe(
        updates=settings.steps,
        learning_rate=settings.learning_rate,
        schedule=Schedule(warmup=settings.warmup_steps),
        clip_norm=1.0,
        ema_decay=settings.ema_decay,
        fused=False,
    )
    loop = Loop(unet, recipe, diverged="the generator's loss is {loss} at step {done}; lower generator.learning_rate")
    checkpoints = FolderCheckpoints(folder, CHECKPOINT)
    schedule = noise_schedule(settings)
    pixels = to_model_range(torch.from_numpy(images.images())).contiguous()
    labels = torch.from_numpy(images.labels)

    def loss(step: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(derive_seed("generator step", seed, step))
        batch = torch.randint(0, len(images), (min(settings.batch_size, len(images)),), generator=random)
        dropout = settings.class_dropout
        with autocast(device, settings.precision):
            return diffusion_loss(
                unet, schedule, pixels[batch].to(device), labels[batch], class_dropout=dropout, random=random
            )

    yield loop.resume(checkpoints)
    kept_at = range(CHECKPOINT_EVERY, settings.steps, CHECKPOINT_EVERY)
    yield from loop.run(loss, kept_at=kept_at, checkpoints=checkpoints)
    if loop.average is not None:
        loop.average.copy_to(unet)
    if not all(torch.isfinite(p).all() for p in unet.parameters()):
        raise WorkError("the generator's weights are not finite; lower generator.learning_rate")
    save_unet(folder, unet)
    checkpoints.remove()
