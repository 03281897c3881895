"""Real images in, generator weights in the run folder out; a kill loses at most `CHECKPOINT_EVERY` steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from safetensors import torch as safetensors

from ray_synth.config import Diffusion
from ray_synth.data.images import ImageSet
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import WorkError
from ray_synth.generator.artifacts import CHECKPOINT, WEIGHTS
from ray_synth.generator.diffusion import build_unet, diffusion_loss, noise_schedule, save_unet
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.torch_ops import keep_freed_memory

CHECKPOINT_EVERY = 100


def finetune(
    folder: RunFolder,
    images: ImageSet,
    settings: Diffusion,
    *,
    seed: int,
    progress: Callable[[int], None] = lambda step: None,
) -> None:
    """Train the diffusion model and save its averaged weights. progress: called with the number of steps done."""
    for step in finetuning(folder, images, settings, seed):
        progress(step)


def finetuning(folder: RunFolder, images: ImageSet, settings: Diffusion, seed: int) -> Iterator[int]:
    """The same, step by step: yields the number of steps done.

    Step t draws from a seed of its own, so a run that was killed and resumed ends in the same weights.
    """
    if folder.exists(WEIGHTS):
        return  # killed between the last step and the record of it
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(derive_seed("generator weights", seed) % 2**32)
    unet = build_unet(settings, num_classes=images.num_classes, shape=images.images.shape[1:]).to(device).train()
    parameters = dict(unet.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(unet.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    start = 0
    if folder.exists(CHECKPOINT):
        start = _restore(folder, parameters, average, optimizer)
    schedule = noise_schedule(settings)
    half = settings.precision == "bfloat16"
    pixels = to_model_range(torch.from_numpy(images.images)).contiguous()
    labels = torch.from_numpy(images.labels)
    yield start
    for step in range(start, settings.steps):
        random = torch.Generator().manual_seed(derive_seed("generator step", seed, step))
        batch = torch.randint(0, len(images), (min(settings.batch_size, len(images)),), generator=random)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _warm_cosine(step, settings.steps, settings.warmup_steps)
        with torch.autocast(device, dtype=torch.bfloat16) if half else nullcontext():
            loss = diffusion_loss(
                unet,
                schedule,
                pixels[batch].to(device),
                labels[batch],
                class_dropout=settings.class_dropout,
                random=random,
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        # A short run needs a short memory, else the average still holds the random start.
        decay = min(settings.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in parameters.values()], 1 - decay)
        yield step + 1
        if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < settings.steps:
            if not math.isfinite(loss.item()):
                raise WorkError(
                    f"the generator's loss is {loss.item()} at step {step + 1}; lower generator.learning_rate"
                )
            _checkpoint(folder, step + 1, parameters, average, optimizer)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(average[name])
    if not all(torch.isfinite(p).all() for p in parameters.values()):
        raise WorkError("the generator's weights are not finite; lower generator.learning_rate")
    save_unet(folder, unet)
    folder.remove(CHECKPOINT)


def _warm_cosine(step: int, steps: int, warm: int) -> float:
    return min(1.0, (step + 1) / max(warm, 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _checkpoint(
    folder: RunFolder,
    step: int,
    parameters: dict[str, torch.nn.Parameter],
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {"step": torch.tensor(step)}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors[f"weights/{name}"] = parameter.detach()
        tensors[f"average/{name}"] = average[name]
        tensors[f"exp_avg/{name}"] = state["exp_avg"]
        tensors[f"exp_avg_sq/{name}"] = state["exp_avg_sq"]
    folder.write(CHECKPOINT, safetensors.save({name: t.cpu().contiguous() for name, t in tensors.items()}))


def _restore(
    folder: RunFolder,
    parameters: dict[str, torch.nn.Parameter],
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    tensors = safetensors.load(folder.read(CHECKPOINT))
    step = int(tensors["step"])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weights/{name}"])
            average[name].copy_(tensors[f"average/{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
            }
    return step
