"""How much of a GPU's memory an adapter's training takes, against what real trainings on the CPU allocate."""

from __future__ import annotations

import functools
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile

from ray_synth.config import Generate, StableDiffusion
from ray_synth.data.readers import read_digits
from ray_synth.generator.base import Parents, generator_of
from ray_synth.generator.lora import AdapterTraining, _Adapter
from ray_synth.generator.memory import AdapterMemory, Sizes, TrainingMemory
from ray_synth.generator.tiny import tiny_pipeline
from ray_synth.hardware.gpus import Card

IMAGES = 40


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("models") / "sd", channels=32, sample_size=16)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settings(pipeline: Path, **changes: Any) -> StableDiffusion:
    return StableDiffusion(model=str(pipeline), finetune={"validation_fraction": 0.0, "samples": 0, **changes})


def memory(pipeline: Path, *, fused: bool = True, **changes: Any) -> AdapterMemory:
    return _memory(pipeline, fused, json.dumps(changes, sort_keys=True))


@functools.lru_cache
def _memory(pipeline: Path, fused: bool, changes: str) -> AdapterMemory:
    sizes = Sizes(images=IMAGES, prompts=10, guided=True)
    return AdapterMemory(pipeline, settings(pipeline, **json.loads(changes)), sizes, fused=fused)


def counted(pipeline: Path, **changes: Any) -> TrainingMemory:
    return memory(pipeline, **changes).counted


def allocated(work: Callable[[], Any]) -> int:
    """Bytes at the peak of a computation on the CPU, as its allocator says."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.cumsum([size for _, size in changes]).max())


def real_update(pipeline: Path, **changes: Any) -> int:
    """Of the second update: the gradients of the first are there."""
    digits = read_digits()
    model = settings(pipeline, precision="float32", **changes)
    base = AdapterTraining(pipeline, model, Generate(num_inference_steps=2))
    one = _Adapter(base, Parents.of(digits.take(np.arange(IMAGES))), digits.class_names, 0, "")
    one.parts.train()
    one.loss(0).backward()
    return allocated(lambda: one.loss(1).backward())


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 4},
        {"batch_size": 8, "gradient_checkpointing": True},
        {"batch_size": 8, "r": 256},
        {"batch_size": 4, "lora_dropout": 0.1, "ema_decay": 0.9},
    ],
)
def test_an_update_takes_what_a_real_one_allocates(pipeline: Path, changes: dict[str, Any]) -> None:
    found = counted(pipeline, precision="float32", **changes).update
    assert found == pytest.approx(real_update(pipeline, **changes), rel=0.02)


@pytest.mark.slow
@pytest.mark.long
def test_an_adapted_text_encoder_keeps_its_activations_too(pipeline: Path) -> None:
    """A real batch has fewer prompts than images where images are of one class."""
    given = {"batch_size": 8, "text_encoder": True}
    found, real = counted(pipeline, precision="float32", **given).update, real_update(pipeline, **given)
    assert real <= found <= 1.1 * real
    assert found > counted(pipeline, precision="float32", batch_size=8).update


def test_looking_and_sample_pictures_take_what_real_ones_allocate(pipeline: Path) -> None:
    """Nearly: kernels of the CPU lay their inputs out anew, and pictures are held in several forms."""
    found = counted(pipeline, precision="float32", samples=4, batch_size=4)
    model = settings(pipeline, precision="float32", samples=4)
    base = AdapterTraining(pipeline, model, Generate(num_inference_steps=1, guidance_scale=2.0))
    pixels, text = torch.zeros(8, 3, 32, 32), torch.zeros(4, 77, 32)
    with torch.no_grad():
        assert found.looking == pytest.approx(allocated(lambda: base.pipe.vae.encode(pixels)), rel=0.25)
    assert found.pictures == pytest.approx(allocated(lambda: base.sampled(text, text, range(4), "pil")), rel=0.25)


def test_what_stays_is_a_sum_over_weights(pipeline: Path) -> None:
    """Stable Diffusion in bfloat16 beside an autoencoder in float32; of the adapter r (in + out) numbers a layer,
    four times in float32."""
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    layers = [m for name, m in unet.named_modules() if name.endswith(("to_q", "to_v"))]
    numbers = sum(16 * (m.in_features + m.out_features) for m in layers)
    found = counted(pipeline, r=16, target_modules=("to_q", "to_v"))
    assert found.adapter == 4 * 4 * numbers
    assert counted(pipeline, r=16, target_modules=("to_q", "to_v"), ema_decay=0.9).adapter == 5 * 4 * numbers
    sizes = {p: sum(f.stat().st_size for f in (pipeline / p).glob("*.safetensors")) for p in ("unet", "text_encoder")}
    vae = sum(f.stat().st_size for f in (pipeline / "vae").glob("*.safetensors"))
    assert found.base == pytest.approx(sum(sizes.values()) / 2 + vae, rel=0.02)  # files are in float32


@pytest.mark.slow
@pytest.mark.long
def test_memory_grows_with_the_batch_the_rank_and_the_precision(pipeline: Path) -> None:
    one, two, four = (counted(pipeline, batch_size=size).update for size in (4, 8, 16))
    assert four - two == pytest.approx(2 * (two - one), rel=0.01)
    plain = counted(pipeline, batch_size=8)
    ranks = [counted(pipeline, batch_size=8, r=1), plain, counted(pipeline, batch_size=8, r=64)]
    assert ranks[0].total < ranks[1].total < ranks[2].total
    assert ranks[0].adapter < ranks[1].adapter < ranks[2].adapter
    assert counted(pipeline, batch_size=8, precision="float32").total > plain.total
    assert counted(pipeline, batch_size=8, gradient_checkpointing=True).update < 0.7 * plain.update
    assert counted(pipeline, batch_size=8, prior_preservation={}).update == pytest.approx(2 * plain.update, rel=0.1)
    assert memory(pipeline, batch_size=1000).batch == IMAGES


@pytest.mark.slow
@pytest.mark.long
def test_what_is_proposed_fits(pipeline: Path) -> None:
    whole = memory(pipeline, batch_size=16)
    stays = whole.counted.stays + whole.counted.looking
    room = (stays + whole.bytes) // 2
    found = whole.smaller(room)
    assert [sorted(key.split(".")[-1] for key in changes) for changes, _ in found] == [
        ["gradient_checkpointing"],
        ["batch_size"],
    ]
    for changes, said in found:
        assert said <= room < whole.bytes
        names = {key.removeprefix("generator.finetune."): value for key, value in changes.items()}
        assert memory(pipeline, **{"batch_size": 16, **names}).bytes == pytest.approx(said, rel=0.03)
    assert whole.smaller(whole.counted.stays) == []


@pytest.mark.slow
@pytest.mark.long
def test_a_gpu_without_fused_attention_in_bfloat16_is_told_of_float32(pipeline: Path) -> None:
    unfused = memory(pipeline, fused=False, batch_size=16)
    assert unfused.bytes > memory(pipeline, batch_size=16).bytes
    room = unfused.bytes - 1
    proposed = [changes for changes, _ in unfused.smaller(room)]
    assert proposed
    assert all(changes["generator.finetune.precision"] == "float32" for changes in proposed)


SHAPE = {  # of Stable Diffusion 1.5, where it differs from the tiny one
    "unet": {
        "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "cross_attention_dim": 768, "attention_head_dim": 8, "norm_num_groups": 32,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 512,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder": {
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}  # fmt: skip


def test_a_model_of_the_full_size_is_counted_without_its_weights(model_copy: Path) -> None:
    for part, shape in SHAPE.items():
        file = model_copy / part / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **shape}))
    kind = generator_of(settings(model_copy), Generate(), class_names=("a", "b"), shape=(8, 8, 1))
    found = kind.fit_memory(np.array([50, 50]), Card(name="a GPU", memory=2**34, fuses_bfloat16=True))
    assert found is not None
    unet, text, vae = 859_520_964, 123_060_480, 83_653_863  # parameters, as published models have them
    assert found.parts["the model"] == pytest.approx(2 * (unet + text) + 4 * vae, rel=1e-4)
    assert found.parts["the adapter"] == pytest.approx(4 * 4 * 3_188_736, rel=0.05)  # prompts beside it
    assert found.batch == 8
    assert 8 * 2**30 < found.parts["an update"] < 10 * 2**30


@pytest.mark.slow
def test_workers_of_an_adapter_share_its_batch(pipeline: Path) -> None:
    two = memory(pipeline, batch_size=16, num_workers=2)
    assert two.counted == memory(pipeline, batch_size=8).counted
    proposed = two.smaller(two.counted.stays + two.counted.update - 1)
    assert {"generator.finetune.batch_size": 14} in [changes for changes, _ in proposed]  # seven each
