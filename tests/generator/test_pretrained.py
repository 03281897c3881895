"""A wrong model is found before anything starts, by name."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from ray_synth.errors import InputError
from ray_synth.generator import pretrained
from ray_synth.generator.pretrained import (
    check_lora,
    check_pipeline,
    content_digest,
    file_shapes,
    license_of,
    local_folder,
)
from ray_synth.generator.tiny import tiny_pipeline

from .tiny_models import edit_json, tiny_lora


def test_a_whole_model_passes(stable_diffusion: Path, loras: Path) -> None:
    check_pipeline(stable_diffusion, allow_pickle=False)
    check_lora(loras / "cat.safetensors", stable_diffusion, allow_pickle=False)
    assert license_of(stable_diffusion) == "creativeml-openrail-m"
    assert license_of(loras) == ""


def test_headers_say_what_safetensors_loads(stable_diffusion: Path) -> None:
    file = stable_diffusion / "unet" / "diffusion_pytorch_model.safetensors"
    assert file_shapes(file) == {name: tuple(tensor.shape) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("model_index.json", "is incomplete: no model_index.json"),
        ("vae", "is incomplete: no folder vae/"),
        ("tokenizer", "is incomplete: no folder tokenizer/"),
        ("unet/config.json", "is incomplete: no unet/config.json"),
        ("scheduler/scheduler_config.json", "is incomplete: no scheduler/"),
        ("unet/diffusion_pytorch_model.safetensors", "is incomplete: no .*safetensors"),
    ],
)
def test_an_incomplete_folder_is_refused(model_copy: Path, missing: str, words: str) -> None:
    path = model_copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=words):
        check_pipeline(model_copy, allow_pickle=False)


def test_another_architecture_is_refused(model_copy: Path) -> None:
    edit_json(model_copy / "unet" / "config.json", block_out_channels=[16, 64])
    with pytest.raises(InputError, match=r"of another architecture: .* has shape"):
        check_pipeline(model_copy, allow_pickle=False)
    edit_json(model_copy / "unet" / "config.json", block_out_channels=[16, 32], layers_per_block=2)
    with pytest.raises(InputError, match="weights are missing, such as"):
        check_pipeline(model_copy, allow_pickle=False)
    edit_json(model_copy / "unet" / "config.json", down_block_types=["Nothing", "DownBlock2D"])
    with pytest.raises(InputError, match="describes no model that can be built"):
        check_pipeline(model_copy, allow_pickle=False)
    edit_json(model_copy / "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(
        InputError, match=r"holds a KandinskyPipeline, .*takes StableDiffusionPipeline \(Stable Diffusion"
    ):
        check_pipeline(model_copy, allow_pickle=False)
    (model_copy / "model_index.json").write_text("{not json")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        check_pipeline(model_copy, allow_pickle=False)


@pytest.mark.parametrize("keep", [0, 4, 50, -10])
def test_a_torn_download_is_refused(model_copy: Path, keep: int) -> None:
    file = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match="download it again"):
        check_pipeline(model_copy, allow_pickle=False)


def test_pickled_weights_need_leave(model_copy: Path, loras: Path, tmp_path: Path) -> None:
    file = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(InputError, match=r"pickled weights only .*--allow-pickle"):
        check_pipeline(model_copy, allow_pickle=False)
    check_pipeline(model_copy, allow_pickle=True)
    lora = tmp_path / "lora.bin"
    shutil.copy(loras / "cat.safetensors", lora)
    with pytest.raises(InputError, match=r"not a safetensors file.*--allow-pickle"):
        check_lora(lora, model_copy, allow_pickle=False)


def test_a_lora_of_another_base_is_refused_by_name(stable_diffusion: Path, tmp_path: Path) -> None:
    wider = tiny_pipeline(tmp_path / "wider", width=64)
    lora = tiny_lora(tmp_path / "lora.safetensors", wider)
    with pytest.raises(InputError, match=r"of another base: .*attn2\.to_v\.lora_A\.weight has width 64, .* 32"):
        check_lora(lora, stable_diffusion, allow_pickle=False)
    tensors = {name.replace("down_blocks.0", "down_blocks.7"): tensor for name, tensor in load_file(lora).items()}
    save_file(tensors, tmp_path / "deeper.safetensors")
    with pytest.raises(InputError, match=r"it adapts unet\.down_blocks\.7"):
        check_lora(tmp_path / "deeper.safetensors", wider, allow_pickle=False)
    with pytest.raises(InputError, match="holds no LoRA weights"):
        check_lora(stable_diffusion / "vae" / "diffusion_pytorch_model.safetensors", wider, allow_pickle=False)
    with pytest.raises(InputError, match="no file"):
        check_lora(tmp_path / "none.safetensors", wider, allow_pickle=False)


def _processor(match: re.Match[str]) -> str:
    return f".processor.{match[1]}_lora.{'down' if match[3] == 'A' else 'up'}"


def test_the_layouts_of_kohya_and_of_older_diffusers_are_known(stable_diffusion: Path, tmp_path: Path) -> None:
    lora = load_file(tiny_lora(tmp_path / "lora.safetensors", stable_diffusion))
    kohya, older = {}, {}
    for name, tensor in lora.items():
        layer, side = name.removesuffix(".weight").rsplit(".lora_", 1)
        side = {"A": "down", "B": "up"}[side]
        flat = layer.removeprefix("unet.").replace(".", "_")
        kohya[f"lora_unet_{flat}.lora_{side}.weight"] = tensor
        older[f"{layer}.lora.{side}.weight"] = tensor
    text = {
        f"text_encoder.{prefix}encoder.layers.0.self_attn.q_proj.lora_{side}.weight": torch.ones(shape)
        for prefix in ("", "text_model.")
        for side, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    processors = {re.sub(r"\.(to_\w+?)(\.0)?\.lora_(A|B)", _processor, name): tensor for name, tensor in lora.items()}
    assert any("processor.to_q_lora.down" in name for name in processors)
    for name, tensors in (("processors", processors), ("kohya", kohya), ("older", older), ("text", text)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        check_lora(tmp_path / f"{name}.safetensors", stable_diffusion, allow_pickle=False)


def test_a_hub_id_needs_a_commit_and_is_found_in_the_cache(
    stable_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"no folder './none'"):
        local_folder("./none", None)
    with pytest.raises(InputError, match=r"type --set generator\.revision=COMMIT"):
        local_folder("owner/name", None)
    commit = "0123456789" * 4
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / commit
    shutil.copytree(stable_diffusion, snapshot)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_folder("owner/name", commit) == snapshot
    with pytest.raises(InputError, match="cannot be downloaded"):
        local_folder("owner/other", commit)


def test_a_decoder_with_the_old_names_of_its_attention_passes(model_copy: Path) -> None:
    """As Stable Diffusion 1.x and 2.x lie on the hub; diffusers renames the weights when it loads them."""
    file = model_copy / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(file).items():
        for new, old in names.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        tensors[name] = tensor
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    check_pipeline(model_copy, allow_pickle=False)
    AutoencoderKL.from_pretrained(model_copy / "vae")


def test_a_tokenizer_without_words_or_of_another_model_is_refused(model_copy: Path) -> None:
    """transformers would make one of two words, and every prompt of a length would be the same text."""
    for file in (model_copy / "tokenizer").iterdir():
        if file.name not in ("tokenizer_config.json",):
            file.unlink()
    with pytest.raises(InputError, match="0 words"):
        check_pipeline(model_copy, allow_pickle=False)
    (model_copy / "tokenizer" / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    with pytest.raises(InputError, match="2 words"):
        check_pipeline(model_copy, allow_pickle=False)


def test_the_revision_of_a_folder_is_its_content(model_copy: Path, stable_diffusion: Path) -> None:
    assert content_digest(model_copy) == content_digest(stable_diffusion)
    os.utime(model_copy / "model_index.json", (0, 0))
    assert content_digest(model_copy) == content_digest(stable_diffusion)
    config = model_copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "steps_offset": 0}))
    assert content_digest(model_copy) != content_digest(stable_diffusion)
    assert pretrained.variant_of(model_copy) is None
