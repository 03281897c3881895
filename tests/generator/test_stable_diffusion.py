"""A tiny but real Stable Diffusion, against diffusers' own pipelines called by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

from ray_synth.config import Generate, StableDiffusion, VisualGuidance
from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.generator import generator_of
from ray_synth.generator.base import Batch, Parents
from ray_synth.generator.diffusers_pipeline import (
    DiffusersSampler,
    check_pipeline_args,
    cut_prompts,
    lora_path,
)
from ray_synth.generator.tiny import WIDTH
from ray_synth.sampling.batches import InBatches
from ray_synth.text_to_image import STABLE_DIFFUSION

SAMPLING = Generate(num_inference_steps=4, guidance_scale=2.0, batch_size=4)


def batch_of(seeds: list[int], class_name: str = "cat", label: int = 0) -> Batch:
    count = len(seeds)
    return {
        "key": [str(seed) for seed in seeds],
        "label": [label] * count,
        "class_name": [class_name] * count,
        "seed": seeds,
        "prompt": [f"photo of a {class_name}, number {seed}" for seed in seeds],
        "negative_prompt": ["blurry"] * count,
        "parent": [seed % 5 for seed in seeds],
    }


def sampler(folder: Path, parents: Parents | None = None, **settings: Any) -> DiffusersSampler:
    return DiffusersSampler(folder, StableDiffusion(model=str(folder), **settings), SAMPLING, parents=parents)


def images(made: Batch) -> np.ndarray:
    assert made["rejected"] == [""] * len(made["image"])
    return np.stack(made["image"]).astype(int)


def by_hand(kind: Any, folder: Path, batch: Batch, lora: Path | None = None, **arguments: Any) -> np.ndarray:
    pipe = kind.from_pretrained(folder, safety_checker=None)
    if lora is not None:
        pipe.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name="a")
        pipe.set_adapters(["a"], [0.5])
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        prompt=batch["prompt"],
        negative_prompt=batch["negative_prompt"],
        num_inference_steps=4,
        guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(seed) for seed in batch["seed"]],
        output_type="np",
        **arguments,
    ).images
    return (made * 255).round().astype(int)


@pytest.fixture
def parents() -> Parents:
    rng = np.random.default_rng(0)
    return Parents(
        source=ImageSet(
            pixels=rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8),
            labels=np.array([0, 0, 0, 1, 1]),
            class_names=("cat", "dog"),
        ),
        keys=list("abcde"),
        embeddings=rng.normal(size=(5, WIDTH)).astype(np.float32),
    )


def test_text_to_image_is_what_diffusers_makes(stable_diffusion: Path) -> None:
    batch = batch_of([3, 1, 4])
    ours = images(sampler(stable_diffusion)(batch))
    assert ours.shape == (3, 16, 16, 3)
    assert np.abs(ours - by_hand(StableDiffusionPipeline, stable_diffusion, batch)).max() <= 1
    other = {**batch, "prompt": ["nothing of the kind"] * 3}
    assert np.abs(ours - by_hand(StableDiffusionPipeline, stable_diffusion, other)).max() > 5  # the prompt is heard


def test_image_to_image_is_what_diffusers_makes(stable_diffusion: Path, parents: Parents) -> None:
    batch = batch_of([3, 1, 4])
    ours = images(sampler(stable_diffusion, parents, strength=0.75)(batch))
    real = torch.from_numpy(parents.source.images(np.asarray(batch["parent"]))).permute(0, 3, 1, 2).float() / 255
    hand = by_hand(StableDiffusionImg2ImgPipeline, stable_diffusion, batch, image=real, strength=0.75)
    assert np.abs(ours - hand).max() <= 1


@pytest.mark.parametrize("settings", [{}, {"strength": 0.75}, {"channels_last": False}])
def test_an_image_does_not_depend_on_its_batch(
    stable_diffusion: Path, parents: Parents, settings: dict[str, Any]
) -> None:
    sample = sampler(stable_diffusion, parents, **settings)
    seeds = list(range(32))
    whole = images(sample(batch_of(seeds)))
    for size in (1, 7):
        parts = [images(sample(batch_of(seeds[i : i + size]))) for i in range(0, 32, size)]
        assert np.abs(np.concatenate(parts) - whole).max() <= 1
    assert np.abs(images(sample(batch_of(seeds[::-1])))[::-1] - whole).max() <= 1


def test_adapters_are_swapped_in_the_loaded_model(stable_diffusion: Path, loras: Path) -> None:
    """One adapter a class, in any order, gives what a fresh model with that adapter gives."""
    swapping = sampler(stable_diffusion, lora=f"{loras}/{{class}}.safetensors", lora_scale=0.5)
    unet = swapping.pipe.unet
    plain = images(sampler(stable_diffusion)(batch_of([1, 2], "cat")))
    for name in ("cat", "dog", "cat"):
        batch = batch_of([1, 2], name)
        ours = images(swapping(batch))
        hand = by_hand(StableDiffusionPipeline, stable_diffusion, batch, lora=loras / f"{name}.safetensors")
        assert np.abs(ours - hand).max() <= 1
        assert swapping.pipe.unet is unet
    assert np.abs(ours - plain).mean() > 1


def test_a_scale_of_zero_is_the_base_model(stable_diffusion: Path, loras: Path) -> None:
    ours = images(sampler(stable_diffusion, lora=f"{loras}/cat.safetensors", lora_scale=0.0)(batch_of([1, 2])))
    assert np.abs(ours - images(sampler(stable_diffusion)(batch_of([1, 2])))).max() <= 1


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_visual_guidance_joins_the_embedding_of_the_class_or_the_parent(
    stable_diffusion: Path, parents: Parents, variant: str
) -> None:
    guidance = VisualGuidance(encoder={"model": "unused"}, variant=variant, untrained=True)
    guided = sampler(stable_diffusion, parents, visual_guidance=guidance)
    batch = batch_of([3, 1])
    with torch.inference_mode():
        text = sampler(stable_diffusion)._embedded(batch["prompt"], batch, conditional=True)["prompt_embeds"]
        joined = guided._embedded(batch["prompt"], batch, conditional=True)["prompt_embeds"]
        negative = guided._embedded(batch["negative_prompt"], batch, conditional=False)["prompt_embeds"]
    assert joined.shape == negative.shape
    assert parents.embeddings is not None
    if variant == "paper":
        assert joined.shape[1] == text.shape[1] + 1
        assert np.allclose(joined[:, -1], parents.embeddings[batch["label"]])
        assert torch.equal(joined[:, :-1], text)
        assert not negative[:, -1].any()
    else:
        assert joined.shape == text.shape
        assert np.allclose(joined[:, -1], parents.embeddings[batch["parent"]])
        assert torch.equal(joined[:, :-1], text[:, :-1])
    assert np.abs(images(guided(batch)) - images(sampler(stable_diffusion)(batch))).max() > 1


def test_without_guidance_the_negative_prompt_has_no_part(stable_diffusion: Path) -> None:
    settings = StableDiffusion(model=str(stable_diffusion))
    sample = DiffusersSampler(stable_diffusion, settings, SAMPLING.model_copy(update={"guidance_scale": 1.0}))
    one, other = batch_of([1, 2]), {**batch_of([1, 2]), "negative_prompt": ["something else"] * 2}
    assert (images(sample(one)) == images(sample(other))).all()


def test_nan_is_rejected_and_its_neighbours_are_kept(stable_diffusion: Path) -> None:
    sample = sampler(stable_diffusion)
    plain = images(sample(batch_of([1, 2, 3])))
    decode = sample.pipe.vae.decode

    def broken(latents: torch.Tensor, *rest: Any, **options: Any) -> Any:
        latents = latents.clone()
        latents[1] = float("nan")
        return decode(latents, *rest, **options)

    sample.pipe.vae.decode = broken
    made = sample(batch_of([1, 2, 3]))
    assert made["rejected"] == ["", "nan", ""]
    assert np.abs(np.stack(made["image"]).astype(int)[[0, 2]] - plain[[0, 2]]).max() <= 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_near(stable_diffusion: Path, dtype: str) -> None:
    half = images(sampler(stable_diffusion, dtype=dtype)(batch_of([1, 2])))
    assert half.std() > 5
    # Its noise is drawn in half precision too, so the images are others of the same kind.
    assert abs(half.mean() - images(sampler(stable_diffusion)(batch_of([1, 2]))).mean()) < 40


def test_unknown_pipeline_arguments_are_refused() -> None:
    def check(args: dict[str, Any], **settings: Any) -> None:
        check_pipeline_args(StableDiffusion(model="m", pipeline_args=args, **settings), STABLE_DIFFUSION)

    check({"clip_skip": 1, "guidance_rescale": 0.7})
    with pytest.raises(InputError, match="clip_skp; did you mean clip_skip"):
        check({"clip_skp": 1})
    with pytest.raises(InputError, match="guidance_scale is set by other settings"):
        check({"guidance_scale": 1})
    with pytest.raises(InputError, match="guidance_rescale"):  # text-to-image only
        check({"guidance_rescale": 1}, strength=0.5)


def test_clip_skip_reaches_the_text_encoder(stable_diffusion: Path) -> None:
    plain, skipping = sampler(stable_diffusion), sampler(stable_diffusion, pipeline_args={"clip_skip": 1})
    assert np.abs(images(skipping(batch_of([1]))) - images(plain(batch_of([1])))).max() > 0


def test_a_prompt_beyond_the_limit_is_named_with_what_is_lost(stable_diffusion: Path) -> None:
    assert cut_prompts(stable_diffusion, ["a photo of a cat"]) == []
    long = "x" * 75 + "tail"
    assert cut_prompts(stable_diffusion, ["short", long]) == [(long, "tail")]


def test_a_long_caption_is_named_too(stable_diffusion: Path) -> None:
    settings = StableDiffusion(
        model=str(stable_diffusion), prompt="photo of {class}, {caption}", captions={"path": "captions.csv"}
    )
    generator = generator_of(settings, SAMPLING, class_names=["cat", "dog"], shape=(8, 8, 3))
    images = ImageSet(pixels=np.zeros((3, 8, 8, 3), np.uint8), labels=np.array([0, 1, 1]), class_names=("cat", "dog"))
    captions = ["short", "x" * 80, "short"]
    (note,) = generator.described_notes(Parents(source=images, keys=list("abc"), captions=captions))
    assert note.startswith("1 prompt(s) are longer")
    assert "photo of dog, xxx" in note


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "."])
def test_a_class_name_leads_to_no_other_folder(name: str) -> None:
    with pytest.raises(InputError, match=r"use \{label\}"):
        lora_path("loras/{class}.safetensors", 3, name)
    assert lora_path("loras/{label}.safetensors", 3, name) == "loras/3.safetensors"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_makes_the_same_images_and_swaps_adapters(stable_diffusion: Path, loras: Path) -> None:
    lora = f"{loras}/{{class}}.safetensors"
    cut = {
        name: (tensor[:1] if "lora_A" in name else tensor[:, :1]).contiguous()
        for name, tensor in load_file(loras / "cat.safetensors").items()
    }
    save_file(cut, loras / "thin.safetensors")  # another rank, and with it another scaling
    settings = {"lora": lora, "lora_scale": 0.5}
    compiled = DiffusersSampler(
        stable_diffusion,
        StableDiffusion(model=str(stable_diffusion), compile=True, **settings),
        SAMPLING,
        class_names=["thin", "dog", "cat"],
    )
    compiled_in_batches = InBatches(compiled, 4, pad=True)
    plain = sampler(stable_diffusion, **settings)
    for name, seeds in (("thin", [1, 2, 3, 4]), ("dog", [5, 6, 7, 8]), ("cat", [9])):
        ours, as_ever = (images(one(batch_of(seeds, name))) for one in (compiled_in_batches, plain))
        assert ours.shape == (len(seeds), 16, 16, 3)
        assert np.abs(ours - as_ever).max() <= 1
    counters = torch._dynamo.utils.counters["frames"]
    assert counters["total"] <= 4  # nothing was compiled again for a swap or a smaller batch
