"""Fine-tuning as a stage: an adapter for each class over a pool, resumed, spoiled, guided and planned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ray_synth.config import load_experiment
from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError
from ray_synth.generator.stable_diffusion import StableDiffusionGenerator
from ray_synth.generator.tiny import tiny_pipeline, tiny_vision_encoder
from ray_synth.hardware.gpus import Card
from ray_synth.pipeline import Run
from ray_synth.planning.request import Request, plan_for
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages.finetune import Finetune
from ray_synth.stages.generate import Generate
from tests.conftest import DIGITS


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiny_pipeline(tmp_path / "models" / "sd")
    tiny_vision_encoder(tmp_path / "models" / "clip", width=12)
    return tmp_path / "models"


def job(folder: Path, models: Path, *, gpu: Card | None = None, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "generator": {
            "kind": "stable_diffusion",
            "model": str(models / "sd"),
            "finetune": {"steps": 6, "r": 2, "checkpoint_steps": 2, "batch_size": 4, "adapters": "class"},
        },
        "generate.images_per_class": 2,
        "generate.num_inference_steps": 2,
        "generate.chunk_size": 2,
        "data.shots": 4,
    }
    return Run(load_experiment(DIGITS, {**settings, **changes}), RunFolder(folder), Reporter(), gpu=lambda: gpu)


def test_steps_and_adapters_are_counted_before_anything_starts(tmp_path: Path, models: Path) -> None:
    run = job(tmp_path / "run", models)
    stage = run.of(Finetune)
    assert stage.total == 60
    assert "training 10 adapters of the generator" in stage.plan
    assert sum(len(group.tasks) for group in stage.tasks()) == 10
    assert not stage.ready
    assert not (tmp_path / "run").exists()


def test_what_a_fit_depends_on_and_what_not(tmp_path: Path, models: Path) -> None:
    """Sampling differently asks for no other training; training differently makes other images."""

    def digests(**changes: Any) -> tuple[str, str]:
        run = job(tmp_path / "run", models, **changes)
        return run.of(Finetune).digest, run.of(Generate).digest

    plain = digests()
    for key, value in {"gradient_checkpointing": True, "num_workers": 2}.items():
        assert digests(**{f"generator.finetune.{key}": value}) == plain
    sampled = digests(**{"generator.negative_prompt": "blurry"})
    assert sampled[0] == plain[0]
    assert sampled[1] != plain[1]
    for key, value in {"r": 3, "mmd": {}, "adapters": "dataset"}.items():
        trained = digests(**{f"generator.finetune.{key}": value})
        assert trained[0] != plain[0]
        assert trained[1] != plain[1]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray: its actors are in this process."""
    from ray_synth.sampling import describe, fitting
    from ray_synth.stages.inputs import Inputs

    def over_pool(items: list[Any], worker: type, arguments: Any, shared: Any, **_: Any) -> Iterator[Any]:
        assert items  # as Ray asks
        yield from map(worker(*arguments, shared, "cpu"), items)

    monkeypatch.setattr(Inputs, "start_ray", lambda self: None)
    for module in (describe, fitting):
        monkeypatch.setattr(module, "over_pool", over_pool)


def guided(models: Path) -> dict[str, Any]:
    return {
        "generator.visual_guidance": {"encoder": {"model": str(models / "clip")}},
        "generator.finetune.guidance_tokens": 2,
        "generator.finetune.samples": 0,
        "generator.finetune.steps": 2,
    }


@pytest.mark.usefixtures("here")
def test_what_is_lost_is_trained_anew_and_nothing_else(tmp_path: Path, models: Path) -> None:
    out = tmp_path / "run"
    job(out, models, **guided(models)).perform("finetune")
    adapters = out / "generator/adapters"
    before = {path: path.read_bytes() for path in adapters.glob("*.safetensors")}
    assert sorted(path.name for path in before) == sorted(
        f"{label}{end}.safetensors" for label in range(10) for end in ("", "-guidance")
    )
    card = (adapters / "README.md").read_text()
    assert read_yaml(card.split("---\n")[1])["base_model"] == "sd"
    assert read_yaml(card.split("```yaml\n")[1].split("```")[0])["finetune"]["adapters"] == "class"
    assert json.loads((out / "generator/digest.json").read_text())["adapters"]
    record = out / "stages/finetune.json"

    def spoil() -> None:
        (adapters / "3.safetensors").write_bytes(before[adapters / "3.safetensors"][:-7])
        (adapters / "4.safetensors").unlink()

    def killed_before_the_record() -> None:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"complete": False}))

    for happens, trained in (
        (spoil, "34"),
        (killed_before_the_record, ""),
        ((adapters / "2-guidance.safetensors").unlink, "2"),
        (lambda: (adapters / "README.md").write_text("mine"), ""),
    ):
        made = {path: path.stat().st_mtime_ns for path in before}
        happens()
        job(out, models, **guided(models)).perform("finetune")
        assert {path: path.read_bytes() for path in before} == before
        changed = {path.name[0] for path in before if path.stat().st_mtime_ns != made[path]}
        assert changed == set(trained), happens


@pytest.mark.slow
@pytest.mark.long
def test_adapters_of_classes_over_a_pool_and_images_with_them(tmp_path: Path, models: Path) -> None:
    out = tmp_path / "run"
    job(out, models, **guided(models)).perform("generate")
    before = {path: path.read_bytes() for path in (out / "generator").rglob("*.safetensors")}
    chunks = {path: path.read_bytes() for path in (out / "synthetic").iterdir()}
    assert len(before) == 20
    next(iter(chunks)).unlink()
    (out / "generator/adapters/4.safetensors").unlink()
    job(out, models, **guided(models)).perform("generate")
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.read_bytes() for path in chunks} == chunks


@pytest.mark.slow
def test_workers_that_train_an_adapter_together_follow_the_losses_of_one(tmp_path: Path, models: Path) -> None:
    """Batches of five, of which the second worker's last image is there twice; terms over whole batches."""

    def trained(workers: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
        training = {
            "steps": 8, "r": 2, "checkpoint_steps": 4, "batch_size": 5, "text_encoder": True, "prompt_dropout": 0.3,
            "learning_rate": 2e-3, "mmd": {"gamma": 1.0}, "prior_preservation": {"images_per_class": 2}, "samples": 2,
            "adapters": "dataset", "warmup_steps": 0, "validation_fraction": 0.2, "num_workers": workers,
        }  # fmt: skip
        out = tmp_path / str(workers)
        run = job(out, models, **{"generator.finetune": training})
        run.perform("finetune")
        assert run.of(Finetune).ready
        assert sorted(path.name for path in (out / "generator/samples").iterdir()) == [
            "all-000004.png", "all-000008.png",
        ]  # fmt: skip
        return json.loads((out / "generator/training.json").read_text()), load_file(
            out / "generator/pytorch_lora_weights.safetensors"
        )

    (alone, weights), (together, same) = trained(1), trained(2)
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    moved = max(float(tensor.abs().max()) for name, tensor in weights.items() if "lora_B" in name or "lora.up" in name)
    assert moved > 5e-3
    for name, tensor in weights.items():
        assert float((tensor - same[name]).abs().max()) < 1e-2 * moved, name


def small_gpu(gib: float) -> Card:
    return Card(name="a small GPU", memory=round(gib * 2**30), fuses_bfloat16=True)


@pytest.mark.slow
def test_a_gpu_that_is_too_small_is_named_before_anything_starts(tmp_path: Path, models: Path) -> None:
    """And what the message says to type makes the training fit."""
    many = {"generator.finetune": {"steps": 6, "r": 2, "batch_size": 24, "samples": 0, "adapters": "class"}}
    need = job(tmp_path / "run", models, gpu=small_gpu(1), **many)
    need.check_places()
    stage = need.of(Finetune)
    assert stage.gpu_bytes
    assert f"about {stage.gpu_bytes / 2**30:.1f} GiB of GPU memory each" in stage.plan
    assert stage.caveats == ()
    little = small_gpu((stage.gpu_bytes - 2**16) / 2**30)
    with pytest.raises(
        InputError, match=r"training an adapter takes about .* the a small GPU has .*; type --set"
    ) as told:
        job(tmp_path / "run", models, gpu=little, **many).check_places()
    typed = re.findall(r"--set (\S+)=(\S+)", str(told.value).split(", or ")[0])
    less = job(tmp_path / "run", models, gpu=little, **many, **{key: json.loads(value) for key, value in typed})
    less.check_places()
    assert 0 < (less.of(Finetune).gpu_bytes or 0) <= little.memory
    tiny = job(tmp_path / "run", models, gpu=small_gpu(1e-4), **many)
    with pytest.raises(InputError, match="take a GPU with more"):
        tiny.check_places()
    assert not (tmp_path / "run").exists()


def test_without_a_gpu_nothing_is_counted(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(StableDiffusionGenerator, "fit_memory", counted)
    run = job(tmp_path / "run", models)
    run.check()
    assert "memory" not in run.of(Finetune).plan
    assert run.of(Finetune).gpu_bytes is None


def test_a_plan_says_the_memory_of_the_gpu_it_is_for(tmp_path: Path, models: Path) -> None:
    changes = job(tmp_path / "run", models).experiment.model_dump()["generator"]
    request = Request(experiment=DIGITS, overrides={"generator": changes}, gpu="T4", out=str(tmp_path / "run"))
    found = plan_for(request, Reporter(), started=0.0).to_dict()
    held = {stage["name"]: stage["gpu_bytes"] for stage in found["stages"]}
    assert held[Finetune.name] > 2**20
    assert all(count is None for name, count in held.items() if name != Finetune.name)
    assert not any("GPU memory" in note for note in found["notes"])
