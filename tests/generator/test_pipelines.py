"""One suite for every pipeline class that has a row: tiny models of random weights, against diffusers by hand."""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ray_synth.config import Diffusers, Experiment, Generate, StableDiffusion
from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.generator import generator_of, pretrained
from ray_synth.generator.base import Batch, Parents
from ray_synth.generator.diffusers_pipeline import DiffusersSampler, cut_prompts
from ray_synth.generator.pretrained import check_lora, check_pipeline
from ray_synth.generator.tiny_pipelines import tiny_of
from ray_synth.text_to_image import ROWS, STABLE_DIFFUSION, Pipeline, row_in, row_named

from .tiny_models import edit_json, tiny_lora

STEPS, GUIDANCE = 2, 2.0
SIDE = {"SanaPipeline": 32}
# How the same is said to each class: its scheduler (none: as it lies there), and what else its call must be given.
UNIPC, FLOW_EULER = "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
BY_HAND: dict[str, tuple[str, dict[str, Any]]] = {
    "StableDiffusionPipeline": (UNIPC, {"guidance_scale": GUIDANCE}),
    "StableDiffusionXLPipeline": (UNIPC, {"guidance_scale": GUIDANCE}),
    "StableDiffusion3Pipeline": (FLOW_EULER, {"guidance_scale": GUIDANCE}),
    "FluxPipeline": (FLOW_EULER, {"true_cfg_scale": GUIDANCE}),
    "SanaPipeline": ("DPMSolverMultistepScheduler", {"guidance_scale": GUIDANCE, "use_resolution_binning": False}),
    "PixArtSigmaPipeline": (
        UNIPC,
        {"guidance_scale": GUIDANCE, "use_resolution_binning": False, "clean_caption": False},
    ),
    "ZImagePipeline": (FLOW_EULER, {"guidance_scale": GUIDANCE}),
    "QwenImagePipeline": (FLOW_EULER, {"true_cfg_scale": GUIDANCE}),
}
NAMES = [row.name for row in ROWS]
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny pipeline of a class, made once."""
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = tiny_of(name, tmp_path_factory.mktemp("models") / name)
        return made[name]

    return find


@pytest.fixture
def copy(model: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """One to break."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(model(name), tmp_path / name))

    return make


def batch_of(seeds: list[int]) -> Batch:
    """Prompts of different lengths."""
    count = len(seeds)
    return {
        "key": [str(seed) for seed in seeds],
        "label": [0] * count,
        "class_name": ["cat"] * count,
        "seed": seeds,
        "prompt": [f"photo of a cat{' and a dog' * (seed % 2)}, {seed}" for seed in seeds],
        "negative_prompt": ["blurry"] * count,
        "parent": [seed % 3 for seed in seeds],
    }


def sampling(name: str, **changes: Any) -> Generate:
    return Generate(num_inference_steps=STEPS, guidance_scale=GUIDANCE, scheduler=BY_HAND[name][0], **changes)


def sampler(folder: Path, name: str, parents: Parents | None = None, **settings: Any) -> DiffusersSampler:
    section = Diffusers(model=str(folder), image_size=SIDE.get(name, 16), **settings)
    return DiffusersSampler(folder, section, sampling(name), class_names=("cat",), parents=parents)


def images(made: Batch) -> np.ndarray:
    assert made["rejected"] == [""] * len(made["image"])
    return np.stack(made["image"]).astype(int)


def by_hand(kind: str, folder: Path, name: str, batch: Batch, **arguments: Any) -> np.ndarray:
    scheduler, own = BY_HAND[name]
    pipe = getattr(diffusers, kind).from_pretrained(folder)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    sized = "height" in inspect.signature(pipe.__call__).parameters
    side = {"height": SIDE.get(name, 16), "width": SIDE.get(name, 16)} if sized else {}
    made = pipe(
        prompt=list(batch["prompt"]),
        negative_prompt=list(batch["negative_prompt"]) if batch["negative_prompt"][0] else None,
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(seed) for seed in batch["seed"]],
        output_type="np",
        **{**own, **side, **arguments},
    ).images
    return (made * 255).round().astype(int)


def check(folder: Path, name: str, generate: Generate | None = None, **settings: Any) -> list[str]:
    section = Diffusers(model=str(folder), **settings)
    generator = generator_of(section, generate or sampling(name), class_names=("cat", "dog"), shape=(16, 16, 3))
    return generator.check()


@every
def test_an_image_is_what_diffusers_makes_whatever_its_batch(name: str, model: Callable[[str], Path]) -> None:
    sample, batch = sampler(model(name), name), batch_of([3, 4, 1, 6])
    ours = images(sample(batch))
    assert ours.shape == (4, SIDE.get(name, 16), SIDE.get(name, 16), 3)
    assert np.abs(ours - by_hand(name, model(name), name, batch)).max() <= 1
    again = sampler(model(name), name)  # as a run that goes on loads it
    alone = np.concatenate([images(again(batch_of([seed]))) for seed in (3, 4)])
    assert np.abs(ours[:2] - alone).max() <= 1
    other = {**batch, "prompt": ["nothing of the kind"] * 4}
    assert np.abs(ours - images(sample(other))).max() > 2  # the prompt is heard
    negative = {**batch, "negative_prompt": ["something else altogether"] * 4}
    assert np.abs(ours - images(sample(negative))).max() > 2


@pytest.mark.parametrize("row", [row for row in ROWS if row.image_to_image], ids=lambda row: row.name)
def test_an_image_that_starts_from_a_real_one_is_what_diffusers_makes(
    row: Pipeline, model: Callable[[str], Path]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    parents = Parents(source=ImageSet(pixels=pixels, labels=np.zeros(3, int), class_names=("cat",)), keys=list("abc"))
    batch = batch_of([3, 4, 1])
    sample = sampler(model(row.name), row.name, parents, strength=0.75)
    real = torch.from_numpy(pixels[batch["parent"]]).permute(0, 3, 1, 2).float() / 255
    ours = images(sample(batch))
    hand = by_hand(str(row.image_to_image), model(row.name), row.name, batch, image=real, strength=0.75)
    assert np.abs(ours - hand).max() <= 1
    assert np.abs(ours[:1] - images(sample(batch_of([3])))).max() <= 1


@every
def test_a_whole_folder_passes_and_what_is_wrong_is_named(
    name: str, model: Callable[[str], Path], copy: Callable[[str], Path]
) -> None:
    assert check(model(name), name) == []
    row = row_named(name)
    assert row is not None
    folder = copy(name)
    for part in row.components:
        (folder / part).rename(folder / "aside")
        with pytest.raises(InputError, match=f"incomplete: no folder {part}/"):
            check(folder, name)
        (folder / "aside").rename(folder / part)
    encoder = row.with_weights[2]
    edit_json(folder / "model_index.json", **{encoder: ["transformers", "BertModel"]})
    with pytest.raises(InputError, match=rf"{encoder} must be transformers\..*, got \['transformers', 'BertModel'\]"):
        check(folder, name)
    shutil.copy(model(name) / "model_index.json", folder)
    edit_json(folder / "vae" / "config.json", decoder_block_out_channels=[8, 16], block_out_channels=[16, 24], z_dim=8)
    with pytest.raises(InputError, match="vae"):
        check(folder, name)
    shutil.copy(model(name) / "vae" / "config.json", folder / "vae")
    weights = next((folder / row.denoiser).glob("*.safetensors"))
    tensors = load_file(weights)
    first = next(key for key, tensor in tensors.items() if tensor.ndim == 2)
    save_file({**tensors, first: tensors[first][:, :1].contiguous()}, weights)
    with pytest.raises(InputError, match=f"{row.denoiser} is of another architecture: .* has shape"):
        check(folder, name)


@every
def test_what_a_pipeline_cannot_take_is_refused_by_name(name: str, model: Callable[[str], Path]) -> None:
    row, folder = row_named(name), model(name)
    assert row is not None
    calls = inspect.signature(getattr(diffusers, name).__call__).parameters
    with pytest.raises(InputError, match=r"pipeline_args\.colour"):
        check(folder, name, pipeline_args={"colour": 1})
    for argument in ("prompt_embeds", row.guidance, "latents", "negative_prompt"):
        with pytest.raises(InputError, match=f"{argument} is set by other settings"):
            check(folder, name, pipeline_args={argument: 1})
    if "clip_skip" not in calls:
        with pytest.raises(InputError, match=r"unknown key generator\.pipeline_args\.clip_skip"):
            check(folder, name, pipeline_args={"clip_skip": 1})
    if row.distilled_guidance:
        with pytest.raises(InputError, match="does not take the scale of its own guidance"):
            check(folder, name, pipeline_args={"guidance_scale": 3.5})
    if row.image_to_image is None:
        with pytest.raises(InputError, match=rf"generator\.strength: .*{name}"):
            check(folder, name, strength=0.5)
    if row is not STABLE_DIFFUSION:
        with pytest.raises(InputError, match=rf"generator\.visual_guidance: .*{name}"):
            check(folder, name, visual_guidance={"encoder": {"model": "unused"}, "untrained": True})
        with pytest.raises(InputError, match=rf"generator\.finetune trains adapters of Stable Diffusion .*a {name}"):
            check(folder, name, finetune={})
    if not row.compiles:
        with pytest.raises(
            InputError, match=rf"a {name} cannot be compiled whole; type --set generator\.compile=false"
        ):
            check(folder, name, compile=True)
    if row.multiple > 8:
        with pytest.raises(InputError, match=rf"multiple of {row.multiple} for a {name}, got 72; .*image_size="):
            check(folder, name, image_size=72)
    with pytest.raises(InputError, match=r"generate\.scheduler=\w+ does not fit this model; choose one of"):
        check(folder, name, Generate(scheduler="DDIMScheduler" if row.is_flow else "FlowMatchEulerDiscreteScheduler"))


@every
def test_a_row_says_what_the_call_of_its_class_takes(name: str) -> None:
    """Steps and guidance are those of the call, but for Stable Diffusion's (Real-Fake's)."""
    row = row_named(name)
    assert row is not None
    for kind in row.classes:
        call = inspect.signature(getattr(diffusers, kind).__call__).parameters
        names = {one for one in row.embeddings if one is not None}
        assert names | {f"negative_{one}" for one in names} | {row.guidance} <= set(call)
        assert ("negative_prompt" in call) == row.negative_prompt
    init = inspect.signature(getattr(diffusers, name).__init__).parameters
    assert set(row.components) <= set(init)
    assert set(row.given) | set(row.loads_with) <= set(init)
    call = inspect.signature(getattr(diffusers, name).__call__).parameters
    assert set(row.call) <= set(call)
    if row is not STABLE_DIFFUSION:
        assert row.sampling["num_inference_steps"] == call["num_inference_steps"].default
        assert row.sampling["guidance_scale"] == call[row.guidance].default
    mixin = getattr(diffusers, name)
    assert set(row.lora) == set(getattr(mixin, "_lora_loadable_modules", ()))


@every
def test_a_lora_of_this_base_is_heard_and_one_of_another_refused(
    name: str, model: Callable[[str], Path], tmp_path: Path
) -> None:
    row, folder = row_named(name), model(name)
    assert row is not None
    lora = tiny_lora(tmp_path / "lora.safetensors", folder, part=row.denoiser, size=0.5)
    if not row.lora:
        with pytest.raises(InputError, match=f"diffusers loads no LoRA into a {name}"):
            check_lora(lora, folder, allow_pickle=False)
        return
    assert check(folder, name, lora=str(lora)) == []
    batch = batch_of([3, 4])
    ours = images(sampler(folder, name, lora=str(lora), lora_scale=0.5)(batch))
    assert np.abs(ours - images(sampler(folder, name)(batch))).max() > 2
    tensors = load_file(lora)
    for key in tensors:
        if "lora_A" in key:
            tensors[key] = torch.ones(2, 7)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=rf"of another base: {row.denoiser}\..* has width 7"):
        check(folder, name, lora=str(tmp_path / "other.safetensors"))
    base = "FluxPipeline" if name != "FluxPipeline" else "StableDiffusion3Pipeline"
    other = tiny_lora(tmp_path / "base.safetensors", model(base), part="transformer")
    with pytest.raises(InputError, match=r"generator\.lora=.*(of another base: it adapts|is not one for a)"):
        check(folder, name, lora=str(other))


@every
def test_steps_and_guidance_follow_the_row(name: str, model: Callable[[str], Path]) -> None:
    row = row_named(name)
    assert row is not None
    for kind in ("diffusers", "stable_diffusion"):
        experiment = Experiment(name="x", generator={"kind": kind, "model": str(model(name))})
        expected = row.sampling_of(model(name))
        assert experiment.generate.num_inference_steps == expected["num_inference_steps"]
        assert experiment.generate.guidance_scale == expected["guidance_scale"]
        assert experiment.generate.scheduler == expected.get("scheduler", UNIPC)
        assert experiment.generate.batch_size == expected["batch_size"]
    given = Experiment(
        name="x",
        generator={"kind": "diffusers", "model": str(model(name))},
        generate={"num_inference_steps": 7, "guidance_scale": 1.25},
    )
    assert (given.generate.num_inference_steps, given.generate.guidance_scale) == (7, 1.25)


def test_a_model_for_few_steps_is_told_from_its_folder(copy: Callable[[str], Path]) -> None:
    turbo, flux = copy("StableDiffusionXLPipeline"), copy("FluxPipeline")
    edit_json(turbo / "scheduler" / "scheduler_config.json", timestep_spacing="trailing")
    generate = Experiment(name="x", generator={"kind": "diffusers", "model": str(turbo)}).generate
    assert (generate.num_inference_steps, generate.guidance_scale) == (4, 0.0)
    assert generate.scheduler == "EulerAncestralDiscreteScheduler"
    schnell = Experiment(name="x", generator={"kind": "diffusers", "model": str(flux)}).generate
    edit_json(flux / "transformer" / "config.json", guidance_embeds=True)
    dev = Experiment(name="x", generator={"kind": "diffusers", "model": str(flux)}).generate
    assert (schnell.num_inference_steps, dev.num_inference_steps) == (4, 28)


def test_a_hub_id_that_is_not_here_asks_for_what_follows_its_class(tmp_path: Path) -> None:
    section = {"kind": "diffusers", "model": "owner/name", "revision": "0123456789" * 4}
    with pytest.raises(ValueError, match=r"owner/name is not on this machine; download it first \(hf download owner"):
        Experiment(name="x", generator=section)
    said = {"scheduler": UNIPC, "num_inference_steps": 3, "guidance_scale": 1.0}
    assert Experiment(name="x", generator=section, generate=said).generate.num_inference_steps == 3
    older = Experiment(name="x", generator={**section, "kind": "stable_diffusion"})
    assert older.generate.num_inference_steps == 30


def test_both_names_of_the_kind_mean_the_same_images(model: Callable[[str], Path]) -> None:
    found = []
    for kind in (Diffusers, StableDiffusion):
        section = kind(model=str(model("StableDiffusionPipeline")), prompt="a {class}")
        generator = generator_of(section, Generate(), class_names=("cat",), shape=(16, 16, 3))
        found.append((generator.pixel_settings(), generator.origin("")))
    assert found[0] == found[1]
    assert found[0][0] == {"kind": "stable_diffusion", "prompt": ["a {class}"]}  # nothing that older digests lack


def test_what_changes_pixels_is_given_and_recorded(model: Callable[[str], Path]) -> None:
    folder = model("StableDiffusionXLPipeline")
    generator = generator_of(Diffusers(model=str(folder)), Generate(), class_names=("cat",), shape=(16, 16, 3))
    assert generator.pixel_settings()["given"] == {"add_watermarker": False}
    assert sampler(folder, "StableDiffusionXLPipeline").pipe.watermark is None


def test_no_negative_prompt_is_zeros_where_the_model_says_so(model: Callable[[str], Path]) -> None:
    name = "StableDiffusionXLPipeline"
    batch = {**batch_of([3, 4]), "negative_prompt": ["", ""]}
    assert np.abs(images(sampler(model(name), name)(batch)) - by_hand(name, model(name), name, batch)).max() <= 1


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "StableDiffusion3Pipeline"])
def test_clip_skip_is_for_the_prompt_alone(name: str, model: Callable[[str], Path]) -> None:
    batch = batch_of([3, 4])
    ours = images(sampler(model(name), name, pipeline_args={"clip_skip": 1})(batch))
    assert np.abs(ours - images(sampler(model(name), name)(batch))).max() > 0


def test_a_denoiser_with_guidance_of_its_own_takes_its_scale(tmp_path: Path) -> None:
    """FLUX.1-dev: `guidance_scale` of the call is no classifier-free guidance, and is an argument like others."""
    from ray_synth.generator.tiny_pipelines import _flux

    torch.manual_seed(0)
    diffusers.FluxPipeline(**_flux(32, guidance_embeds=True)).save_pretrained(tmp_path / "dev")
    assert check(tmp_path / "dev", "FluxPipeline", pipeline_args={"guidance_scale": 30.0}) == []
    batch = batch_of([3])
    own, usual = (
        images(sampler(tmp_path / "dev", "FluxPipeline", pipeline_args=args)(batch))
        for args in ({"guidance_scale": 30.0}, {})
    )
    hand = by_hand("FluxPipeline", tmp_path / "dev", "FluxPipeline", batch, guidance_scale=30.0)
    assert np.abs(own - hand).max() <= 1
    assert np.abs(own - usual).max() > 0


def test_a_model_of_flow_may_be_sampled_by_another_scheduler(model: Callable[[str], Path]) -> None:
    """Told to step along the flow, with the shift that the model came with."""
    name, scheduler = "StableDiffusion3Pipeline", UNIPC
    generate = Generate(num_inference_steps=STEPS, guidance_scale=GUIDANCE, scheduler=scheduler)
    assert check(model(name), name, generate) == []
    sample = DiffusersSampler(model(name), Diffusers(model=str(model(name)), image_size=16), generate)
    config = sample.pipe.scheduler.config
    assert (config.use_flow_sigmas, config.prediction_type, config.flow_shift) == (True, "flow_prediction", 3.0)
    steps = Generate(num_inference_steps=20, guidance_scale=GUIDANCE, scheduler=scheduler)
    fine = DiffusersSampler(model(name), Diffusers(model=str(model(name)), image_size=16), steps)
    euler = steps.model_copy(update={"scheduler": FLOW_EULER})
    plain = DiffusersSampler(model(name), Diffusers(model=str(model(name)), image_size=16), euler)
    batch = batch_of([3])
    assert np.abs(images(fine(batch)) - images(plain(batch))).mean() < 6  # the same flow, other steps


def test_prompts_are_cut_where_the_longest_encoder_stops(model: Callable[[str], Path]) -> None:
    assert cut_prompts(model("FluxPipeline"), ["x" * 300]) == []
    ((_, lost),) = cut_prompts(model("FluxPipeline"), ["x" * 510 + "tail"])
    assert "tail".endswith(lost)
    assert cut_prompts(model("StableDiffusionXLPipeline"), ["x" * 100]) != []


def test_a_pipeline_without_a_row_is_refused_and_those_with_one_are_named(copy: Callable[[str], Path]) -> None:
    folder = copy("FluxPipeline")
    edit_json(folder / "model_index.json", _class_name="KandinskyPipeline")
    assert row_in(folder) is None
    with pytest.raises(InputError) as error:
        check_pipeline(folder, allow_pickle=False)
    assert all(row.name in str(error.value) and row.said in str(error.value) for row in ROWS)


def test_a_wrapped_text_encoder_is_known(copy: Callable[[str], Path]) -> None:
    """transformers has put other words before the names of weights in other versions."""
    folder = copy("ZImagePipeline")
    file = folder / "text_encoder" / "model.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in load_file(file).items()}, file)
    check_pipeline(folder, allow_pickle=False)
    assert pretrained.variant_of(folder, "transformer") is None


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "FluxPipeline"])
def test_a_smoke_run_has_a_tiny_model_of_the_same_class(
    name: str, model: Callable[[str], Path], tmp_path: Path
) -> None:
    section = Diffusers(model=str(model(name)))
    generator = generator_of(section, sampling(name), class_names=("cat",), shape=(16, 16, 3))
    for file, make in generator.tiny_models().items():
        make(tmp_path / file)
    raw = generator.small(tmp_path)
    twin = Diffusers.model_validate(raw)
    assert row_in(Path(twin.model)) is row_named(name)
    assert check(tmp_path / Path(twin.model).name, name, image_size=twin.image_size) == []
    away = Diffusers(model="owner/name", revision="0123456789" * 4)
    for scheduler, flow in ((FLOW_EULER, True), (UNIPC, False)):
        unknown = generator_of(away, Generate(scheduler=scheduler), class_names=("cat",), shape=(16, 16, 3))
        assert unknown.row.is_flow is flow


COMPILED = [row.name for row in ROWS if row.compiles and row is not STABLE_DIFFUSION]
LONG = ("StableDiffusionXLPipeline", "FluxPipeline", "QwenImagePipeline")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.long if one in LONG else ()) for one in COMPILED])
def test_denoiser_and_decoder_are_taken_whole_for_compiling(
    name: str, model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's tracer, which is what can fail for a class; what is made of the graph is left as it is."""
    traced = functools.partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    torch._dynamo.reset()
    batch = batch_of([3, 5])
    compiled, plain = (images(sampler(model(name), name, compile=on)(batch)) for on in (True, False))
    assert np.abs(compiled - plain).max() <= 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_pipeline_makes_the_same_images(name: str, model: Callable[[str], Path]) -> None:
    torch._dynamo.reset()
    batch = batch_of([3, 5])
    compiled, plain = (images(sampler(model(name), name, compile=on)(batch)) for on in (True, False))
    assert np.abs(compiled - plain).max() <= 1
