"""Images a second on a GPU, for the architecture of Stable Diffusion 1.5 with random weights.

    python -m tests.benchmarks.gpu_generation [--batch 8] [--images 64]

512x512, 30 UniPC steps, guidance 2.0, fp16. Three figures: diffusers' pipeline as it comes; ours (compiled, channels
last, prompts encoded once, images encoded to PNG in other threads); and the UNet calls alone, with the same compiled
UNet and batch, which is what neither can beat. Speed does not depend on the values of the weights. Without a GPU it
says so and exits 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

STEPS, GUIDANCE, SIZE = 30, 2.0, 512

# The public configuration of Stable Diffusion 1.5.
UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
VAE = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
}


def build(folder: Path) -> Path:
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ray_synth.generator.tiny import tiny_tokenizer

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = CLIPTextConfig(**TEXT, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE).half(),
        text_encoder=CLIPTextModel(text).half(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**UNET).half(),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def rate(call: Callable[[int], Any], batch: int, images: int) -> float:
    """Images a second after two calls to warm up."""
    import torch

    call(0)
    call(1)
    torch.cuda.synchronize()
    start, rounds = time.perf_counter(), max(1, images // batch)
    for number in range(rounds):
        call(number)
    torch.cuda.synchronize()
    return rounds * batch / (time.perf_counter() - start)


def plain(folder: Path, batch: int, images: int) -> float:
    import torch
    from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16, safety_checker=None).to("cuda")
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return rate(
        lambda number: pipe(
            ["a photo of a cat"] * batch,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(number * batch + i) for i in range(batch)],
        ),
        batch,
        images,
    )


def ours(folder: Path, batch: int, images: int) -> tuple[float, Any]:
    from ray_synth.config import Generate, StableDiffusion
    from ray_synth.generator.diffusers_pipeline import DiffusersSampler
    from ray_synth.sampling.chunks import encoded

    settings = StableDiffusion(model=str(folder), compile=True)
    generate = Generate(num_inference_steps=STEPS, guidance_scale=GUIDANCE, batch_size=batch)
    sampler = DiffusersSampler(folder, settings, generate, device="cuda")
    encoder = ThreadPoolExecutor(4)

    def call(number: int) -> None:
        rows: dict[str, list[Any]] = {
            "key": list(range(batch)),
            "label": [0] * batch,
            "class_name": ["cat"] * batch,
            "seed": [number * batch + i for i in range(batch)],
            "prompt": ["a photo of a cat"] * batch,
            "negative_prompt": [""] * batch,
            "parent": [None] * batch,
        }
        for image in sampler(rows)["image"]:
            encoder.submit(encoded, image, "png", 95)

    found = rate(call, batch, images)
    encoder.shutdown()
    return found, sampler.pipe.unet


def unet_alone(unet: Any, batch: int, images: int) -> float:
    """The same compiled UNet on the shapes that the pipeline gives it, and nothing else."""
    import torch

    latents = torch.randn(2 * batch, 4, SIZE // 8, SIZE // 8, dtype=torch.float16, device="cuda")
    text = torch.randn(2 * batch, 77, 768, dtype=torch.float16, device="cuda")
    times = torch.linspace(999, 0, STEPS, device="cuda").long()

    def call(number: int) -> None:
        with torch.inference_mode():
            for time_ in times:
                unet(latents, time_, encoder_hidden_states=text, return_dict=False)

    return rate(call, batch, images)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=64)
    arguments = parser.parse_args()
    from ray_synth.torch_ops import import_torchvision

    import_torchvision()
    import torch

    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name) / "stable-diffusion-1.5-random")
        one = plain(folder, arguments.batch, arguments.images)
        mine, unet = ours(folder, arguments.batch, arguments.images)
        bound = unet_alone(unet, arguments.batch, arguments.images)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {arguments.batch}")
    print(f"plain pipeline {one:.2f} images/s; ours {mine:.2f}; UNet calls alone {bound:.2f}")
    print(f"ours / plain {mine / one:.2f} (bar 1.5); ours / UNet alone {mine / bound:.2f} (bar 0.9)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
