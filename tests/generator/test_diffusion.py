"""A small but real diffusion model: it learns, resumes bit for bit, and an image does not know its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from ray_synth.config import Diffusion, Generate
from ray_synth.data.splits import Splits
from ray_synth.data.transforms import to_model_range
from ray_synth.errors import InputError
from ray_synth.generator import finetune as room
from ray_synth.generator.artifacts import CHECKPOINT, WEIGHTS
from ray_synth.generator.diffusion import DiffusionSampler, build_unet, diffusion_loss, load_unet, noise_schedule
from ray_synth.generator.schedulers import scheduler_like
from ray_synth.runs import RunFolder
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
    steps: list[int] = []
    room.finetune(folder, splits.generator, SMALL, seed=1, progress=steps.append)
    assert steps[0] == 20
    assert folder.read(WEIGHTS) == trained.read(WEIGHTS)
    assert not folder.exists(CHECKPOINT)


def test_diffusers_loads_the_folder(trained: RunFolder) -> None:
    unet = UNet2DModel.from_pretrained(f"{trained.root}/generator")
    ours = load_unet(trained)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_training_lowers_the_loss(splits: Splits, tmp_path: Path, prediction_type: str) -> None:
    settings = SMALL.model_copy(update={"prediction_type": prediction_type, "steps": 60})
    folder = RunFolder(tmp_path)
    room.finetune(folder, splits.generator, settings, seed=0)
    images = to_model_range(torch.from_numpy(splits.generator.images[:256]))
    labels = torch.from_numpy(splits.generator.labels[:256])

    def loss(unet: UNet2DModel) -> float:
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return float(
                diffusion_loss(unet, noise_schedule(settings), images, labels, class_dropout=0.1, random=random)
            )

    assert loss(load_unet(folder)) < 0.8 * loss(build_unet(settings, num_classes=10, shape=(8, 8, 1)))


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
