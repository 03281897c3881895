"""Whatever stands in a model's folder, its check passes or says in one sentence which file is wrong."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from ray_synth.config import Generate, StableDiffusion
from ray_synth.errors import InputError
from ray_synth.generator import generator_of
from ray_synth.generator.base import Batch
from ray_synth.generator.diffusers_pipeline import DiffusersSampler
from ray_synth.generator.pretrained import check_lora, file_shapes, local_folder

from .tiny_models import edit_json


def check(folder: Path, **settings: Any) -> list[str]:
    kind = StableDiffusion(model=str(folder), **settings)
    return generator_of(kind, Generate(), class_names=("cat", "dog"), shape=(8, 8, 3)).check()


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (SCHEDULER, {"_class_name": ["DDIMScheduler"]}, r"names no scheduler, but \['DDIMScheduler'\]"),
        (SCHEDULER, {"_class_name": 7}, "names no scheduler, but 7"),
        (SCHEDULER, {"_class_name": "UNet2DModel"}, "names no scheduler, but 'UNet2DModel'"),
        (SCHEDULER, {"_class_name": "logging"}, "names no scheduler, but 'logging'"),
        (SCHEDULER, {"_class_name": "KarrasDiffusionSchedulersScheduler"}, "of a kind that diffusers does not have"),
        (SCHEDULER, {"num_train_timesteps": 10**9}, "num_train_timesteps must be at most 1,000,000, got 1000000000"),
        (SCHEDULER, {"num_train_timesteps": "1000"}, r"scheduler_config\.json describes no scheduler that works with"),
        (SCHEDULER, {"beta_end": []}, r"scheduler_config\.json describes no scheduler that works with"),
        (SCHEDULER, {"trained_betas": float("nan")}, "trained_betas must be at most"),
        ("unet/config.json", {"layers_per_block": 10**6}, "layers_per_block must be at most 200, got 1000000"),
        ("unet/config.json", {"block_out_channels": [10**12, 32]}, "block_out_channels must be at most 1,000,000"),
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 10**4}, "down_block_types has 10,000 values"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**5}, "num_hidden_layers must be at most 200, got 100000"),
        ("text_encoder/config.json", {"hidden_size": 10**18}, "hidden_size must be at most"),
        ("text_encoder/config.json", {"vocab_size": "many"}, "describes no model that can be built"),
        ("model_index.json", {"unet": ["os", "system"]}, r"unet must be diffusers\.UNet2DConditionModel, got \['os'"),
        ("model_index.json", {"tokenizer": 3}, r"tokenizer must be transformers\.CLIPTokenizer or .*, got 3"),
        ("model_index.json", {"scheduler": ["diffusers", "UNet2DModel"]}, "scheduler must be a scheduler of diffusers"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**12}, "model_max_length must be at most 77"),
        (
            "tokenizer/tokenizer_config.json",
            {"model_max_length": "x"},
            "model_max_length must be at most 77, .*got 'x'",
        ),
        ("tokenizer/tokenizer_config.json", {"pad_token": 5}, "tokenizer cannot be loaded"),
        ("tokenizer/tokenizer.json", {"normalizer": "x"}, "tokenizer cannot be loaded"),
        ("tokenizer/tokenizer.json", {"model": 1}, "it has 0 words"),
    ],
)
def test_a_setting_that_no_model_has_is_refused_by_its_file(
    file: str, changes: dict[str, Any], message: str, model_copy: Path
) -> None:
    edit_json(model_copy / file, **changes)
    with pytest.raises(InputError, match=message) as error:
        check(model_copy)
    assert "\n" not in str(error.value)


ODD: list[Any] = [None, [], {}, [1, 2], {"a": 1}, 0, -1, 3, 10**9, 10**18, 1e308, float("nan"), "x", "", True,
                  "UNet2DModel", ["DDIMScheduler"], [10**9] * 3, "../../x"]  # fmt: skip


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_spoiled_folders_pass_or_are_refused(seed: int, stable_diffusion: Path, model_copy: Path) -> None:
    chance = random.Random(seed)
    files = sorted(model_copy.rglob("*.json"))
    for _ in range(12):
        file = chance.choice(files)
        before = file.read_text()
        content = json.loads(before)
        key = chance.choice(sorted(content))
        content[key] = chance.choice(ODD)
        file.write_text(json.dumps(content if chance.random() < 0.95 else chance.choice(ODD)))
        try:
            check(model_copy)
        except InputError as error:
            assert "\n" not in str(error), (file, key)  # noqa: PT017 - passing is right too
        file.write_text(before)
    check(model_copy)


@pytest.mark.parametrize(
    "header",
    [
        [1], "x", {"a": 1}, {"a": {}}, {"a": {"data_offsets": [0]}}, {"a": {"data_offsets": "xx", "shape": [1]}},
        {"a": {"data_offsets": [0, 4], "shape": ["many"]}}, {"a": {"data_offsets": [0, None], "shape": [1]}},
        {"a": {"data_offsets": [0, 4], "shape": 7}},
    ],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused(header: Any, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(InputError, match=r"x\.safetensors is no whole safetensors file \(.*\); download it again"):
        file_shapes(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v1-5.safetensors", r"is one file.*convert it once: .*from_single_file\('.*v1-5\.safetensors'\).*--set gen"),
        ("v1-5.ckpt", "can run any code when it is loaded"),
        ("notes.txt", "can run any code|is one file"),
    ],
)
def test_a_model_in_one_file_says_how_it_is_converted(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        local_folder(str(tmp_path / name), None)


def test_a_model_that_is_not_there_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"no file {tmp_path}/models/v1-5.safetensors")):
        local_folder("models/v1-5.safetensors", None)
    with pytest.raises(InputError, match=re.escape(f"no folder 'a/b/c' ({tmp_path}/a/b/c)")):
        local_folder("a/b/c", None)


def peft_adapter(folder: Path, pipeline: Path, part: str, *, alpha: int = 8) -> Path:
    """What PEFT's own save_pretrained writes."""
    whole = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    targets = ["to_q", "to_v"] if part == "unet" else ["q_proj", "v_proj"]
    torch.manual_seed(1)
    model = get_peft_model(getattr(whole, part), LoraConfig(r=2, lora_alpha=alpha, target_modules=targets))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) / 2)
    model.save_pretrained(folder)
    return folder / "adapter_model.safetensors"


def batch() -> Batch:
    return {"key": ["k"], "label": [0], "class_name": ["cat"], "index": [0], "seed": [3], "prompt": ["a cat"],
            "negative_prompt": [""], "parent": [None], "parent_key": [""]}  # fmt: skip


def sampled(pipeline: Path, lora: Path | None) -> torch.Tensor:
    settings = StableDiffusion(model=str(pipeline), lora=None if lora is None else str(lora))
    sampler = DiffusersSampler(pipeline, settings, Generate(num_inference_steps=2), class_names=("cat",))
    return torch.from_numpy(sampler(batch())["image"][0].astype("int32"))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_an_adapter_that_peft_saved_does_what_peft_does(part: str, stable_diffusion: Path, tmp_path: Path) -> None:
    lora = peft_adapter(tmp_path / "adapter", stable_diffusion, part)
    assert all(name.startswith("base_model.model.") for name in load_file(lora))
    check_lora(lora, stable_diffusion, allow_pickle=False)
    found = sampled(stable_diffusion, lora)
    assert not torch.equal(found, sampled(stable_diffusion, None))
    # The same adapter merged into the weights by PEFT itself.
    from peft import PeftModel

    whole = StableDiffusionPipeline.from_pretrained(stable_diffusion, safety_checker=None)
    setattr(whole, part, PeftModel.from_pretrained(getattr(whole, part), lora.parent).merge_and_unload())
    whole.save_pretrained(tmp_path / "merged")
    assert (sampled(tmp_path / "merged", None) - found).abs().max() <= 1


def test_the_scale_of_an_adapter_counts(stable_diffusion: Path, tmp_path: Path) -> None:
    lora = peft_adapter(tmp_path / "adapter", stable_diffusion, "unet")
    settings = StableDiffusion(model=str(stable_diffusion), lora=str(lora))
    generator = generator_of(settings, Generate(), class_names=("cat", "dog"), shape=(8, 8, 3))
    before = generator.origin("")
    edit_json(lora.parent / "adapter_config.json", lora_alpha=16)
    assert generator.origin("").parts != before.parts
    edit_json(lora.parent / "adapter_config.json", lora_alpha="much")
    with pytest.raises(InputError, match="lora_alpha must be a number above 0, got 'much'"):
        check_lora(lora, stable_diffusion, allow_pickle=False)
    edit_json(lora.parent / "adapter_config.json", lora_alpha=8, use_dora=True)
    with pytest.raises(InputError, match="has use_dora, which is not read here"):
        check_lora(lora, stable_diffusion, allow_pickle=False)
    (lora.parent / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"adapter_config\.json, which holds its scale, is not beside it"):
        check_lora(lora, stable_diffusion, allow_pickle=False)
    with pytest.raises(InputError, match=r"is a folder; give the file in it: type --set generator\.lora=.*safetensors"):
        check_lora(lora.parent, stable_diffusion, allow_pickle=False)


def test_an_adapter_of_another_model_is_refused(stable_diffusion: Path, tmp_path: Path) -> None:
    lora = peft_adapter(tmp_path / "adapter", stable_diffusion, "unet")
    other = tmp_path / "other"
    shutil.copytree(stable_diffusion, other)
    unet = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet")
    wider = UNet2DConditionModel.from_config({**unet.config, "cross_attention_dim": 64})
    wider.save_pretrained(other / "unet")
    with pytest.raises(InputError, match=r"of another base: unet\..*attn2\.to_v\.lora_A\.weight has width 32"):
        check_lora(lora, other, allow_pickle=False)
