"""Adapters that a run trains: exact to resume, loaded by plain diffusers, of one class or all, guided or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from ray_synth.config import Generate, StableDiffusion
from ray_synth.data.readers import read_digits
from ray_synth.errors import InputError, Spoiled, WorkError
from ray_synth.generator.adapter_files import adapter_file, guidance_file, num_updates
from ray_synth.generator.base import Parents, generator_of
from ray_synth.generator.lora import AdapterTraining
from ray_synth.generator.tiny import tiny_pipeline
from ray_synth.runs import RunFolder

STEPS = 12
TRAINING: dict[str, Any] = {
    "steps": STEPS, "r": 2, "lora_alpha": 4, "learning_rate": 2e-3, "warmup_steps": 0, "batch_size": 4,
    "checkpoint_steps": 4, "samples": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("models") / "stable-diffusion")


@pytest.fixture(scope="module")
def parents() -> Parents:
    digits = read_digits()
    rows = np.concatenate([np.flatnonzero(digits.labels == label)[:6] for label in range(3)])
    real = Parents.of(digits.take(rows))
    return Parents(source=real.source, keys=real.keys, embeddings=np.eye(3, 20, dtype=np.float32))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def settings(pipeline: Path) -> Callable[..., StableDiffusion]:
    def of(more: dict[str, Any] | None = None, **changes: Any) -> StableDiffusion:
        return StableDiffusion(**{"model": str(pipeline), "finetune": {**TRAINING, **changes}, **(more or {})})

    return of


def trained(
    folder: RunFolder, model: StableDiffusion, parents: Parents, *, part: str = "", stop: int | None = None
) -> list[dict[str, float]]:
    """Losses that were noted. stop: cut off after so many steps."""
    training = AdapterTraining(Path(model.model), model, Generate(num_inference_steps=2))
    for done in training.train(folder, parents, parents.source.class_names, 0, part):
        if done == stop:
            break
    name = "generator/training.json" if part == "" else f"generator/adapters/{part}.json"
    return json.loads(folder.read(name)) if folder.exists(name) else []


def scalars(folder: RunFolder, tag: str) -> dict[int, float]:
    """Step -> value, as TensorBoard reads them: records of a length, a checksum, an event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for name in folder.list("generator/tensorboard/all"):
        data = folder.read(f"generator/tensorboard/all/{name}")
        while data:
            end = 12 + int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12:end]), data[end + 4 :]
            values = [value.simple_value for value in event.summary.value if value.tag == tag]
            found |= {event.step: values[0]} if values else {}
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"mmd": {}, "min_snr_gamma": 5.0, "samples": 2},
        {"prior_preservation": {"images_per_class": 2}, "validation_fraction": 0.2},
        {"text_encoder": True, "lora_dropout": 0.2, "prompt_dropout": 0.3, "ema_decay": 0.9, "samples": 2},
    ],
)
def test_a_training_that_was_cut_off_ends_as_the_one_that_was_not(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = settings(**changes)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    losses = trained(whole, model, parents)
    assert [loss["step"] for loss in losses] == [4, 8, 12]
    trained(cut, model, parents, stop=10)  # a checkpoint at 8
    kind = generator_of(model, Generate(), class_names=parents.source.class_names, shape=(8, 8, 1))
    assert kind.fit_done(cut) == 8
    again = trained(cut, model, parents)
    for one, other in zip(losses, again, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert one["validation_loss"] == pytest.approx(other["validation_loss"], abs=1e-6)
    assert cut.read(adapter_file("")) == whole.read(adapter_file(""))
    assert not cut.exists("generator/checkpoint.safetensors")
    if "samples" in changes:
        assert cut.list("generator/samples") == ["all-000004.png", "all-000008.png", "all-000012.png"]
        assert cut.read("generator/samples/all-000012.png") == whole.read("generator/samples/all-000012.png")
    shown = scalars(cut, "validation_loss")
    assert shown == pytest.approx({loss["step"]: loss["validation_loss"] for loss in again if loss["validation_loss"]})


def test_training_lowers_the_loss_of_held_out_images(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path
) -> None:
    model = settings(steps=60, checkpoint_steps=20, learning_rate=5e-3, validation_fraction=0.2)
    losses = [loss["validation_loss"] for loss in trained(RunFolder(tmp_path), model, parents)]
    assert losses[-1] < 0.97 * losses[0]


def test_plain_diffusers_loads_it_and_makes_the_same_image(
    settings: Callable[..., StableDiffusion], parents: Parents, pipeline: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler

    model = settings(steps=20, learning_rate=2e-2, text_encoder=True)
    folder = RunFolder(tmp_path / "run")
    trained(folder, model, parents)
    generate = Generate(num_inference_steps=4, guidance_scale=2.0)
    kind = generator_of(model, generate, class_names=parents.source.class_names, shape=(8, 8, 1))
    batch = {
        "label": [1, 1], "class_name": ["1", "1"], "seed": [5, 6], "prompt": ["a photo of a 1"] * 2,
        "negative_prompt": ["", ""], "parent": [None, None],
    }  # fmt: skip
    ours = np.stack(kind.sampler(folder, None, "cpu")(batch)["image"]).astype(int)
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None, requires_safety_checker=False)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    plain = {
        "num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "np",
        "generator": [torch.Generator().manual_seed(seed) for seed in (5, 6)],
    }  # fmt: skip
    before = pipe("a photo of a 1", num_images_per_prompt=2, **plain).images
    pipe.load_lora_weights(f"{folder.root}/generator")
    plain["generator"] = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    theirs = pipe("a photo of a 1", num_images_per_prompt=2, **plain).images
    assert np.abs(ours - np.round(theirs * 255)).max() <= 1
    assert np.abs(ours - np.round(before * 255)).max() > 4  # the adapter does something


def test_a_class_has_an_adapter_of_its_own_and_the_base_stays_what_it_was(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path
) -> None:
    model, names = settings(adapters="class"), parents.source.class_names
    training, together, alone = (
        AdapterTraining(Path(model.model), model, Generate(num_inference_steps=2)),
        RunFolder(tmp_path),
        RunFolder(tmp_path / "b"),
    )
    for part in ("0", "1"):
        assert [*training.train(together, parents, names, 0, part)][-1] == STEPS
    assert together.read(adapter_file("0")) != together.read(adapter_file("1"))
    trained(alone, model, parents, part="1")
    assert alone.read(adapter_file("1")) == together.read(adapter_file("1"))
    assert not any("lora" in name for name, _ in training.pipe.unet.named_parameters())


def test_visual_guidance_is_trained_and_saved_with_the_adapter(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path
) -> None:
    guided = {"visual_guidance": {"encoder": {"model": "unused"}}}
    model = settings(guided, steps=30, learning_rate=1e-2, guidance_tokens=2, prompt_dropout=0.1)
    folder = RunFolder(tmp_path)
    trained(folder, model, parents)
    state = load_file(f"{folder.root}/{guidance_file('')}")
    assert state["image_embeds.weight"].shape == (2 * 32, 20)  # whatever the width of the embeddings
    generate = Generate(num_inference_steps=2, guidance_scale=2.0)
    kind = generator_of(model, generate, class_names=parents.source.class_names, shape=(8, 8, 1))
    batch = {
        "label": [0], "class_name": ["0"], "seed": [5], "prompt": ["a photo"], "negative_prompt": [""],
        "parent": [None],
    }  # fmt: skip
    zero, one = (np.stack(kind.sampler(folder, real, "cpu")(batch)["image"]).astype(int) for real in (
        parents, Parents(source=parents.source, keys=parents.keys, embeddings=np.roll(parents.embeddings, 1, axis=0)),
    ))  # fmt: skip
    assert np.abs(zero - one).max() > 1  # what is seen of a class matters


def test_embeddings_of_the_parents_take_the_place_of_the_last_token(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path
) -> None:
    guided = {"visual_guidance": {"encoder": {"model": "unused"}, "variant": "released"}}
    instances = np.random.default_rng(0).normal(size=(len(parents.keys), 32)).astype(np.float32)
    seen = Parents(source=parents.source, keys=parents.keys, embeddings=instances)
    folder = RunFolder(tmp_path)
    assert len(trained(folder, settings(guided), seen)) == 3
    assert not folder.exists(guidance_file(""))


@pytest.mark.parametrize("bad", [{3}, {7}, {10, 11}])
def test_a_loss_that_is_not_finite_is_left_out(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    bad: set[int],
) -> None:  # fmt: skip
    """At a checkpoint and at the end too: what is noted then is of the others."""
    _spoil(monkeypatch, bad, float("nan"))
    losses = trained(RunFolder(tmp_path), settings(), parents)
    assert [loss["step"] for loss in losses] == [4, 8, 12]
    assert all(np.isfinite(loss["loss"]) for loss in losses)


def test_too_many_in_a_row_end_the_training_and_images_and_checkpoint_are_named(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, set(range(5, 40)), float("inf"))
    with pytest.raises(
        WorkError, match=r"loss is .* at step 16, at images [0-9a-f]{24}.*last good checkpoint is of step 12"
    ):
        trained(RunFolder(tmp_path), settings(steps=40), parents)
    assert not RunFolder(tmp_path).exists(adapter_file(""))


def _spoil(monkeypatch: pytest.MonkeyPatch, bad: set[int], by: float) -> None:
    from ray_synth.generator import lora

    before = lora._Adapter.loss
    monkeypatch.setattr(lora._Adapter, "loss", lambda self, step: before(self, step) * (by if step in bad else 1))


def test_an_altered_adapter_is_not_used(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path
) -> None:
    model, folder = settings(), RunFolder(tmp_path)
    trained(folder, model, parents)
    data = bytearray(folder.read(adapter_file("")))
    data[-3] ^= 1
    folder.write(adapter_file(""), bytes(data))
    kind = generator_of(model, Generate(), class_names=parents.source.class_names, shape=(8, 8, 1))
    with pytest.raises(Spoiled, match="pytorch_lora_weights"):
        kind.sampler(folder, None, "cpu")
    with pytest.raises(Spoiled):
        trained(folder, model, parents)


def test_latents_are_kept_by_content_and_torn_ones_made_anew(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray_synth.generator import latents

    monkeypatch.setattr(latents, "PIECE", 5)
    whole = RunFolder(tmp_path / "whole")
    losses = trained(whole, settings(), parents)
    pieces = sorted((tmp_path / "cache/ray_synth/latents").iterdir())
    assert len(pieces) == 4
    looked: list[int] = []
    before = latents.Latents._encoded
    monkeypatch.setattr(latents.Latents, "_encoded", lambda self, x: looked.append(len(x)) or before(self, x))
    pieces[0].write_bytes(pieces[0].read_bytes()[:-9])
    pieces[1].unlink()
    assert trained(RunFolder(tmp_path / "again"), settings(), parents) == losses
    assert len(looked) == 2  # and no more than these
    assert trained(RunFolder(tmp_path / "without"), settings(cache_latents=False), parents)[-1][
        "loss"
    ] == pytest.approx(losses[-1]["loss"], abs=1e-4)


def test_batches_of_one_class_and_every_image_once_an_epoch(
    settings: Callable[..., StableDiffusion], parents: Parents
) -> None:
    from ray_synth.generator.lora import _Adapter

    model = settings(batches="class", batch_size=4, steps=None, epochs=3, validation_fraction=0.2)
    adapter = _Adapter(
        AdapterTraining(Path(model.model), model, Generate(num_inference_steps=2)),
        parents,
        parents.source.class_names,
        0,
        "",
    )
    assert adapter.updates == num_updates(model.finetune, parents.source.counts)  # type: ignore[arg-type]
    batches = [adapter._batch(step) for step in range(adapter.updates)]
    assert all(len(set(parents.labels[batch])) == 1 for batch in batches)
    seen = np.concatenate(batches)
    assert sorted(np.bincount(seen)[np.unique(seen)].tolist()) == [3] * len(adapter.trained_on)
    assert not set(seen.tolist()) & set(adapter.held_out.tolist())
    assert len(adapter.held_out) == 3


def test_a_class_of_one_image_is_trained_on_and_not_held_out(
    settings: Callable[..., StableDiffusion], parents: Parents, tmp_path: Path
) -> None:
    alone = Parents.of(parents.source.take(np.array([0, 7, 8])))
    losses = trained(RunFolder(tmp_path), settings(validation_fraction=0.5, steps=4), alone)
    assert losses[-1]["validation_loss"] is not None


def test_what_does_not_go_together_is_refused(settings: Callable[..., StableDiffusion]) -> None:
    for more, changes, words in (
        ({"lora": "other.safetensors"}, {}, "either finetune .* or lora"),
        ({}, {"mmd": {}, "batch_size": 1}, r"batch_size must be >= 2 then, got 1"),
        ({"compile": True}, {"adapters": "class", "text_encoder": True}, "generator.compile=false"),
    ):
        with pytest.raises(ValidationError, match=words):
            settings(more, **changes)
    with pytest.raises(ValidationError, match="means nothing to a model that was not trained with it"):
        StableDiffusion(model="m", visual_guidance={"encoder": {"model": "e"}})  # type: ignore[arg-type]


def test_a_preset_is_a_papers_recipe_and_what_is_said_goes_first() -> None:
    of_paper = StableDiffusion(model="m", finetune={"preset": "real_fake", "epochs": 2}).finetune  # type: ignore[arg-type]
    assert of_paper is not None
    assert (of_paper.epochs, of_paper.batch_size, of_paper.learning_rate) == (2, 64, 1e-4)
    assert of_paper.mmd is not None
    assert (
        StableDiffusion.model_validate(StableDiffusion(model="m", finetune=of_paper).model_dump()).finetune == of_paper
    )


def test_no_more_is_held_out_than_is_looked_at_quickly() -> None:
    training = StableDiffusion(model="m", finetune={"batch_size": 8, "epochs": 1}).finetune  # type: ignore[arg-type]
    assert training is not None
    assert num_updates(training, np.full(10, 100)) == (1000 - 64) / 8
    assert num_updates(training, np.full(10, 10)) == 12  # of 90


def test_layers_that_are_not_there_and_what_training_does_not_see_are_refused_before_it_starts(
    settings: Callable[..., StableDiffusion], pipeline: Path, tmp_path: Path
) -> None:
    import shutil

    def check(more: dict[str, Any] | None = None, **changes: Any) -> None:
        model = settings(more, **changes)
        generator_of(model, Generate(), class_names=("a", "b"), shape=(16, 16, 3)).check()

    check()
    with pytest.raises(InputError, match=r"no layer 'to_nope'; (did you mean|known: )"):
        check(target_modules=["to_q", "to_nope"])
    with pytest.raises(InputError, match="clip_skip: adapters are trained on all layers"):
        check({"pipeline_args": {"clip_skip": 1}})
    other = shutil.copytree(pipeline, tmp_path / "other")
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"_class_name": "DDPMScheduler", "prediction_type": "sample"})
    )
    with pytest.raises(InputError, match="prediction_type=sample"):
        check({"model": str(other)})
