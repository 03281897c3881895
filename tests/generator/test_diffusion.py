"""A small but real diffusion model: it learns, resumes bit for bit, and an image does not know its batch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from safetensors import torch as safetensors

from ray_synth.config import Diffusion, Generate
from ray_synth.data.splits import Splits
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import InputError, Spoiled
from ray_synth.generator import finetune as room
from ray_synth.generator import generator_of
from ray_synth.generator.artifacts import CHECKPOINT, CONFIG, DIGEST, WEIGHTS
from ray_synth.generator.diffusion import (
    DiffusionSampler,
    build_unet,
    diffusion_loss,
    load_unet,
    noise_schedule,
    pixel_noise,
)
from ray_synth.generator.schedulers import scheduler_like
from ray_synth.runs import RunFolder
from ray_synth.sampling.digests import sampling_settings
from ray_synth.seeding import image_seed

SMALL = Diffusion(block_out_channels=(8, 16), steps=30, batch_size=16)
FAST = Generate(num_inference_steps=4)


@pytest.fixture(scope="module")
def trained(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("generator"))
    room.finetune(folder, splits.generator, SMALL, seed=1)
    return folder


def sample(folder: RunFolder, labels: list[int], indices: list[int], **settings: object) -> np.ndarray:
    sampler = DiffusionSampler(load_unet(folder), SMALL, FAST.model_copy(update=settings))
    seeds = [image_seed("d", label, index) for label, index in zip(labels, indices, strict=True)]
    sampled = sampler({"label": labels, "seed": seeds})
    assert sampled["rejected"] == [""] * len(labels)
    return np.stack(sampled["image"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance_scale": 1.0},
        {"noise_variance": 0.5},
        *({"scheduler": name} for name in ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler")),
    ],
)
def test_an_image_does_not_depend_on_its_batch(trained: RunFolder, settings: dict[str, object]) -> None:
    labels, indices = [0, 1, 2, 3, 4, 5, 6] * 2, list(range(14))
    whole = sample(trained, labels, indices, **settings).astype(int)
    assert whole.shape == (14, 8, 8, 1)
    for size in (1, 3):
        parts = [sample(trained, labels[i : i + size], indices[i : i + size], **settings) for i in range(0, 14, size)]
        assert np.abs(np.concatenate(parts) - whole).max() <= 1
    assert (sample(trained, labels, indices, **settings) == whole).all()
    assert np.abs(sample(trained, labels, indices[::-1], **settings) - whole).max() > 1


def test_a_run_that_is_cut_off_ends_in_the_same_weights(
    splits: Splits, trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "CHECKPOINT_EVERY", 10)
    folder = RunFolder(tmp_path)

    def cut_off(step: int) -> None:
        if step == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        room.finetune(folder, splits.generator, SMALL, seed=1, progress=cut_off)
    assert folder.exists(CHECKPOINT)
    assert not folder.exists(WEIGHTS)
    kind = generator_of(SMALL, FAST, class_names=splits.generator.class_names, shape=splits.generator.shape)
    assert kind.fit_done(folder) == 20  # as a plan and a bar ask
    steps: list[int] = []
    room.finetune(folder, splits.generator, SMALL, seed=1, progress=steps.append)
    assert steps[0] == 20
    assert folder.read(WEIGHTS) == trained.read(WEIGHTS)
    assert not folder.exists(CHECKPOINT)
    assert kind.fit_done(folder) == 30


def test_diffusers_loads_the_folder(trained: RunFolder) -> None:
    unet = UNet2DModel.from_pretrained(f"{trained.root}/generator")
    ours = load_unet(trained)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction_type": "epsilon"},
        {"prediction_type": "v_prediction"},
        {"attention_resolutions": (4,), "warmup_steps": 10, "precision": "bfloat16"},
    ],
)
def test_training_lowers_the_loss(splits: Splits, tmp_path: Path, changes: dict[str, object]) -> None:
    settings = SMALL.model_copy(update={"steps": 60, **changes})
    folder = RunFolder(tmp_path)
    room.finetune(folder, splits.generator, settings, seed=0)
    images = to_model_range(torch.from_numpy(splits.generator.images()[:256]))
    labels = torch.from_numpy(splits.generator.labels[:256])

    def loss(unet: UNet2DModel) -> float:
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return float(
                diffusion_loss(unet, noise_schedule(settings), images, labels, class_dropout=0.1, random=random)
            )

    assert loss(load_unet(folder)) < 0.8 * loss(build_unet(settings, num_classes=10, shape=(8, 8, 1)))


@pytest.mark.parametrize("variance", [0.5, 1.0])
def test_noise_has_the_variance_that_was_asked_for(trained: RunFolder, variance: float) -> None:
    drawn = pixel_noise(range(40), (3, 32, 32), variance)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.02)  # 5 standard errors
    assert torch.equal(drawn[7:8], pixel_noise([7], (3, 32, 32), variance))
    labels, indices = [0, 1] * 8, list(range(16))
    clean = sample(trained, labels, indices).astype(np.float32)
    noise = pixel_noise([image_seed("d", y, i) for y, i in zip(labels, indices, strict=True)], (1, 8, 8), variance)
    expected = np.clip(clean + 127.5 * noise.permute(0, 2, 3, 1).numpy(), 0, 255)
    inside = (clean > 0) & (clean < 255)  # elsewhere the model was clipped before the noise came
    seen = sample(trained, labels, indices, noise_variance=variance)
    assert np.abs(seen - expected)[inside].max() <= 1.01


def weights_in(settings: Diffusion) -> int:
    return sum(p.numel() for p in build_unet(settings, num_classes=10, shape=(8, 8, 1)).parameters())


@pytest.mark.parametrize(("sides", "widths"), [((8,), (8,)), ((4,), (16,)), ((8, 4), (8, 16))])
def test_attention_stands_where_it_was_asked_for(sides: tuple[int, ...], widths: tuple[int, ...]) -> None:
    settings = SMALL.model_copy(update={"attention_resolutions": sides})
    per_layer = [4 * c**2 + 6 * c for c in widths]  # queries, keys, values and output with biases; a group norm
    assert weights_in(settings) - weights_in(SMALL) == 3 * sum(per_layer)  # one layer down, two up
    unet = build_unet(settings, num_classes=10, shape=(8, 8, 1)).eval()
    made = DiffusionSampler(unet, settings, FAST)({"label": [0, 1], "seed": [1, 2]})
    assert made["rejected"] == ["", ""]


def test_attention_at_a_side_that_no_level_has_is_refused() -> None:
    settings = SMALL.model_copy(update={"attention_resolutions": (5,)})
    with pytest.raises(
        InputError, match=r"must be of 8, 4, .* got 5; type --set generator.attention_resolutions=\[4\]"
    ):
        generator_of(settings, FAST, class_names=("a",), shape=(8, 8, 1)).check()


def test_a_linear_schedule_is_that_of_ho_et_al() -> None:
    schedule = noise_schedule(SMALL.model_copy(update={"beta_schedule": "linear"}))
    torch.testing.assert_close(schedule.betas, torch.linspace(1e-4, 0.02, 1000))


def pixel_settings(settings: Diffusion) -> dict[str, Any]:
    return generator_of(settings, FAST, class_names=("a",), shape=(8, 8, 1)).pixel_settings()


def test_digests_hold_what_differs_from_the_defaults() -> None:
    """So a setting that comes later leaves those of older images as they were."""
    assert pixel_settings(Diffusion()) == {"kind": "diffusion"}
    assert pixel_settings(Diffusion(warmup_steps=500)) == {"kind": "diffusion", "warmup_steps": 500}
    assert sampling_settings(Generate()) == {}
    assert sampling_settings(Generate(noise_variance=0.5, batch_size=3)) == {"noise_variance": 0.5}


def test_an_image_of_nan_is_rejected() -> None:
    unet = build_unet(SMALL, num_classes=2, shape=(8, 8, 1))
    with torch.no_grad():
        unet.conv_out.bias.fill_(float("nan"))
    sampled = DiffusionSampler(unet, SMALL, FAST)({"label": [0, 1], "seed": [1, 2]})
    assert sampled["rejected"] == ["nan", "nan"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("UniPCScheduler", "did you mean UniPCMultistepScheduler"),
        ("FlowMatchEulerDiscreteScheduler", "does not fit this model"),
        ("UNet2DModel", "is no scheduler of diffusers"),
    ],
)
def test_a_scheduler_that_does_not_exist_or_fit_is_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        scheduler_like(noise_schedule(SMALL), name)


def test_weights_that_were_changed_are_not_sampled_from(trained: RunFolder, tmp_path: Path) -> None:
    """Neither a flipped bit nor other weights, whole in themselves."""
    folder = RunFolder(tmp_path)
    for name in (CONFIG, WEIGHTS):
        folder.write(name, trained.read(name))
    weights = folder.read(WEIGHTS)
    folder.write_json(DIGEST, {"weights_sha256": hashlib.sha256(weights).hexdigest()})
    load_unet(folder)
    flipped = bytearray(weights)
    flipped[-100] ^= 1
    others = {name: value + 0.01 for name, value in safetensors.load(weights).items()}
    for data in (bytes(flipped), safetensors.save(others)):
        folder.write(WEIGHTS, data)
        with pytest.raises(Spoiled, match=r"safetensors is not what was trained: .*move generator/ away") as error:
            load_unet(folder)
        assert error.value.names == (WEIGHTS,)
    folder.write(WEIGHTS, bytes(flipped))
    folder.remove(DIGEST)  # killed before the record
    with pytest.raises(Spoiled, match=r"generator cannot be read \(it is not what was written"):
        load_unet(folder)
    with pytest.raises(Spoiled, match=r"safetensors cannot be read: it is not what was written"):
        next(room.finetuning(folder, None, SMALL, 0))  # type: ignore[arg-type]  # before it looks at images
    folder.write(WEIGHTS, weights)
    folder.write(CONFIG, b'{"sample_size": "x"}')
    with pytest.raises(Spoiled, match="generator cannot be read"):
        load_unet(folder)
