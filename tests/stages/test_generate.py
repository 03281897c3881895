"""Generation from the outside: the command line, Ray, and files. Batches and pools, refills, deaths, a full disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import ray_synth as rs
from ray_synth.config import load_experiment
from ray_synth.data.readers import read_digits, read_folder
from ray_synth.generator.tiny import tiny_captioner, tiny_pipeline, tiny_vision_encoder
from ray_synth.generator.tiny_pipelines import tiny_of
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages import Finetune, Generate

from ..conftest import DIGITS, write_folder
from ..generator.conftest import loras, model_copy, stable_diffusion  # noqa: F401
from ..generator.tiny_models import tiny_lora

SMALL: dict[str, Any] = {
    "data.kind": "folder",
    "data.shots": 4,
    "generate.images_per_class": 12,
    "generate.chunk_size": 5,
    "generate.num_actors": 1,
}


@pytest.fixture
def settings(stable_diffusion: Path, image_folder: Path) -> dict[str, Any]:  # noqa: F811
    """Three classes of real digits, and a tiny Stable Diffusion."""
    return small(image_folder, stable_diffusion)


def small(images: Path, model: Path) -> dict[str, Any]:
    return {
        **SMALL,
        "data.path": str(images),
        "generate.num_inference_steps": 3,
        "generator": {"kind": "stable_diffusion", "model": str(model)},
    }


@pytest.fixture(scope="module")
def undisturbed(stable_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """What `settings` make when nothing happens."""
    root = tmp_path_factory.mktemp("undisturbed")
    images = write_folder(root / "photos", read_digits(), classes=(0, 1, 2), each=30)
    generate(root / "run", small(images, stable_diffusion))
    return root / "run"


def generate(
    out: Path, settings: dict[str, Any], *words: str, env: dict[str, str] | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    done = subprocess.run(
        [sys.executable, "-m", "ray_synth.cli", "generate", str(DIGITS), "--out", str(out), *changes, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def rows(out: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((out / "synthetic").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            assert row["key"] not in found
            found[row["key"]] = row
    return found


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]))).astype(int)


def digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (out / "synthetic").glob("*.parquet")}


def in_workers(tmp_path: Path, code: str) -> dict[str, str]:
    """An environment in which Ray's workers run `code` when they start."""
    place = tmp_path / "witness"
    place.mkdir()
    body = "".join(f"    {line}\n" for line in code.splitlines())
    (place / "sitecustomize.py").write_text(
        f"import os, signal, sys\nif any('default_worker' in word for word in sys.orig_argv):\n{body}"
    )
    return {"PYTHONPATH": str(place)}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["FluxPipeline", "QwenImagePipeline"])
def test_a_run_of_another_class_goes_on_where_it_was_left(name: str, image_folder: Path, tmp_path: Path) -> None:
    model = tiny_of(name, tmp_path / "model")
    settings = small(image_folder, model)
    settings |= {"generate.images_per_class": 4, "generate.batch_size": 2}
    settings["generate.scheduler"] = "FlowMatchEulerDiscreteScheduler"
    settings["generator"] = {"kind": "diffusers", "model": str(model), "image_size": 16}
    generate(tmp_path / "run", settings)
    made = digests(tmp_path / "run")
    lost = sorted((tmp_path / "run" / "synthetic").glob("*.parquet"))[1]
    lost.unlink()
    generate(tmp_path / "run", settings)
    assert digests(tmp_path / "run") == made
    assert {row["model_license"] for row in rows(tmp_path / "run").values()} == {"mit"}


@pytest.mark.slow
@pytest.mark.long
def test_batch_size_and_pool_change_nothing_but_rounding(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"generate.images_per_class": 40, "generate.chunk_size": 32}
    settings["generator"] = {**settings["generator"], "strength": 0.75, "prompt": ["photo of {class}", "a {class}"]}
    made = []
    for i, (batch_size, actors) in enumerate(((32, 2), (7, 1))):
        out = tmp_path / str(i)
        generate(out, {**settings, "generate.batch_size": batch_size, "generate.num_actors": actors})
        made.append(rows(out))
    assert len(made[0]) == 120
    for other in made[1:]:
        assert set(other) == set(made[0])
        for key, row in made[0].items():
            for name in ("seed", "prompt", "negative_prompt", "parent_key", "label", "model_id", "model_revision"):
                assert other[key][name] == row[name]
            assert np.abs(pixels(other[key]) - pixels(row)).max() <= 1
    assert {row["parent_key"] is not None for row in made[0].values()} == {True}
    assert len({row["image"] for row in made[0].values()}) == 120


@pytest.mark.slow
@pytest.mark.long
def test_everything_that_conditions_an_image_at_once(
    settings: dict[str, Any],
    stable_diffusion: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """LoRA per class, captions from a model, visual guidance, latent prior, webp, near copies, an export."""
    for label in range(3):
        tiny_lora(tmp_path / "loras" / f"{label}.safetensors", stable_diffusion, seed=label)
    settings["generator"] |= {
        "lora": f"{tmp_path}/loras/{{label}}.safetensors",
        "prompt": "photo of {class}, {caption}",
        "negative_prompt": "distorted, unrealistic, blurry, out of frame",
        "captions": {"model": {"model": str(tiny_captioner(tmp_path / "blip"))}, "max_new_tokens": 4},
        "visual_guidance": {"encoder": {"model": str(tiny_vision_encoder(tmp_path / "clip"))}, "untrained": True},
        "strength": 0.75,
    }
    settings |= {"generate.format": "webp", "generate.quality": 100, "generate.filter": {"near_copies": True}}
    out = tmp_path / "run"
    done = generate(out, settings, "--export", "folder")
    assert "no GPU here" in done.stderr
    found = rows(out)
    assert all(row["prompt"].startswith("photo of digit ") and "," in row["prompt"] for row in found.values())
    assert {row["model_license"] for row in found.values()} == {"creativeml-openrail-m"}
    before = digests(out)
    exported = read_folder(out / "export" / "folder")
    assert exported.class_names == ("digit 0", "digit 1", "digit 2")
    assert np.bincount(exported.labels).tolist() == [12, 12, 12]
    generation = json.loads((out / "generation.json").read_text())
    assert generation["kept"] - generation["asked"] >= 0
    assert generation["made"] == len(found)
    again = generate(out, settings)
    assert "complete" in again.stderr
    assert digests(out) == before


@pytest.mark.slow
@pytest.mark.long
def test_an_image_that_kills_its_worker_is_set_aside_and_the_rest_completes(
    settings: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    plan = Run(load_experiment(DIGITS, settings), RunFolder(tmp_path / "none"), Reporter()).of(Generate).images
    poison = plan.key(1, 7)
    tries = tmp_path / "tries"
    env = in_workers(
        tmp_path,
        f"""
from ray_synth.sampling import batches
whole = batches.InBatches.__call__
def call(self, batch):
    if {poison!r} in batch["key"]:
        with open({str(tries)!r}, "a") as file:
            file.write(f"{{len(batch['key'])}}\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, batch)
batches.InBatches.__call__ = call
""",
    )
    out = tmp_path / "run"
    generate(out, settings, env=env)
    found = rows(out)
    assert [key for key, row in found.items() if row["rejected"]] == [poison]
    assert 36 <= sum(not row["rejected"] for row in found.values()) <= 39  # a few more of its class took its place
    generation = json.loads((out / "generation.json").read_text())
    assert generation["rejected_keys"] == [{"key": poison, "reason": "killed_worker"}]
    assert tries.read_text().split() == ["5", "5", "1", "1", "1"]
    same = rows(undisturbed)
    assert all(
        np.abs(pixels(row) - pixels(same[key])).max() <= 1 for key, row in found.items() if key in same and row["image"]
    )


@pytest.mark.slow
@pytest.mark.long
def test_a_full_disk_stops_with_1_and_the_next_start_continues(settings: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    env = in_workers(
        tmp_path,
        f"""
import errno, glob
whole = os.fsync
def fsync(descriptor):
    if len(glob.glob({str(out / "synthetic" / "*")!r})) >= 4:
        raise OSError(errno.ENOSPC, "No space left on device")
    whole(descriptor)
os.fsync = fsync
""",
    )
    done = generate(out, settings, env=env, code=1)
    assert "no space left for" in done.stderr
    assert "run the same command again to continue" in done.stderr
    there = digests(out)
    assert 0 < len(there) < 9
    generate(out, settings)
    after = digests(out)
    assert len(after) == 9
    assert {name: after[name] for name in there} == there


@pytest.mark.slow
@pytest.mark.long
def test_two_drivers_at_once_write_the_same_files(settings: dict[str, Any], undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "both"
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "ray_synth.cli", "generate", str(DIGITS), "--out", str(out), *changes]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(timeout=300) for one in both] == [0, 0]
    assert digests(out) == digests(undisturbed)
    assert len(rows(out)) == 36


@pytest.mark.slow
@pytest.mark.long
def test_rejected_images_are_replaced_and_a_shortfall_is_told(image_folder: Path, tmp_path: Path) -> None:
    """Real images in a folder, some of them of one colour and one that cannot be read."""
    source = tmp_path / "images"
    for label in range(3):
        place = source / f"digit {label}"
        place.mkdir(parents=True)
        for i in range(20):
            noise = np.random.default_rng(20 * label + i).integers(0, 256, (9, 7, 3), dtype=np.uint8)
            Image.fromarray(noise if i % 4 else np.full_like(noise, 9)).save(place / f"{i:02d}.png")
    (source / "digit 1" / "02.png").write_bytes(b"no image")
    settings = {
        **SMALL,
        "data.path": str(image_folder),
        "generator": {"kind": "folder", "path": str(source)},
        "generate": {"images_per_class": 10, "chunk_size": 4},
    }
    out = tmp_path / "run"
    generate(out, settings)
    found = rows(out)
    for label in range(3):
        mine = [row for row in found.values() if row["label"] == label]
        assert sum(not row["rejected"] for row in mine) >= 10
        assert [row["rejected"] for row in mine][:6] == [
            "blank",
            "",
            "unreadable" if label == 1 else "",
            "",
            "blank",
            "",
        ]
    generation = json.loads((out / "generation.json").read_text())
    assert set(generation["rejected"]) == {"blank", "unreadable"}
    more = {**settings, "generate": {"images_per_class": 18, "chunk_size": 4}}
    done = generate(tmp_path / "short", more, code=1)
    assert "kept 14 of 18" in done.stderr
    assert "blank 15, unreadable 1" in done.stderr
    assert "add images to" in done.stderr
    assert "--set generate.images_per_class=14" in done.stderr
    # And a class in which nothing is kept gives up at once.
    for file in (source / "digit 2").glob("*.png"):
        Image.new("L", (9, 7), 3).save(file)
    done = generate(tmp_path / "none", settings, code=1)
    assert "class 'digit 2' kept 0 of 10" in done.stderr


def refused(settings: dict[str, Any], tmp_path: Path) -> str:
    with pytest.raises(rs.InputError) as error:
        rs.run(DIGITS, out=tmp_path / "refused", overrides=settings, dry_run=True)
    return str(error.value)


def test_what_is_wrong_is_found_before_anything_starts(
    settings: dict[str, Any],
    model_copy: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    generator = settings["generator"]
    wide = tiny_pipeline(tmp_path / "wide", width=64)
    cases = [
        ({"model": str(tmp_path / "none")}, "no folder"),
        ({"model": "owner/name"}, "needs the commit"),
        ({"lora": str(tiny_lora(tmp_path / "wide.safetensors", wide))}, "of another base"),
        ({"pipeline_args": {"clip_skp": 1}}, "did you mean clip_skip"),
        ({"scheduler": "x"}, "unknown key generator.scheduler"),
        ({"strength": 0.1}, "leaves no step"),
        ({"class_words": {"cat": "dog"}}, "no class 'cat'"),
        ({"captions": {"path": str(tmp_path / "none.csv")}, "prompt": "{caption}"}, "cannot be read"),
        (
            {
                "visual_guidance": {
                    "encoder": {"model": str(tiny_vision_encoder(tmp_path / "clip", width=16))},
                    "untrained": True,
                }
            },
            "of width 16, the model's text embeddings have 32",
        ),
    ]
    for changes, words in cases:
        assert words in refused({**settings, "generator": {**generator, **changes}}, tmp_path), words
    assert "is no scheduler" in refused({**settings, "generate.scheduler": "Nothing"}, tmp_path)
    del settings["generate.num_inference_steps"]
    assert "must be <= 30" in refused(
        {**settings, "generator": {"kind": "folder", "path": settings["data.path"]}, "generate.images_per_class": 31},
        tmp_path,
    )
    weights = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "download it again" in refused({**settings, "generator": {**generator, "model": str(model_copy)}}, tmp_path)
    assert not (tmp_path / "refused").exists()


def test_a_long_prompt_is_warned_of_once(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings["generator"] |= {"prompt": "a photo of {class} " + "very " * 40}
    rs.run(DIGITS, out=tmp_path / "run", overrides=settings, dry_run=True)
    said = capsys.readouterr().err
    assert said.count("longer than the text encoder reads") == 1
    assert "will not see" in said


def test_the_digest_covers_what_pixels_depend_on_and_no_more(
    settings: dict[str, Any],
    model_copy: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    def plan(**changes: Any) -> Any:
        changed = {**settings, **changes}
        return Run(load_experiment(DIGITS, changed), RunFolder(tmp_path / "run"), Reporter()).of(Generate).images

    generator, base = settings["generator"], plan()
    for same in (
        {"generator": {**generator, "model": str(model_copy)}},
        {"generator": {**generator, "channels_last": False, "compile": True}},
        {"generate.batch_size": 3, "generate.num_actors": 1, "generate.max_attempts": 7},
        {"data.shots": 2},
    ):
        assert plan(**same).chunk_digest == base.chunk_digest
    for other in ({"generate.filter": {"blank": False}}, {"generate.format": "jpeg"}):
        assert plan(**other).generator_digest == base.generator_digest
        assert plan(**other).chunk_digest != base.chunk_digest
    for other in (
        {"generate.guidance_scale": 3.0},
        {"generate.scheduler": "DDIMScheduler"},
        {"generator": {**generator, "negative_prompt": "x"}},
        {"generator": {**generator, "strength": 0.75}},
        {"generator": {**generator, "dtype": "bfloat16"}},
        {"seed": 1},
    ):
        assert plan(**other).generator_digest != base.generator_digest, other


def test_noise_makes_other_images_of_the_same_generator(tmp_path: Path) -> None:
    def run_of(**changes: Any) -> Run:
        return Run(load_experiment(DIGITS, changes), RunFolder(tmp_path / "run"), Reporter())

    base, noisy = run_of(), run_of(**{"generate.noise_variance": 0.5})
    assert noisy.of(Finetune).origin == base.of(Finetune).origin  # which need not be trained again
    assert noisy.of(Generate).images.generator_digest != base.of(Generate).images.generator_digest
    assert run_of(**{"generate.noise_variance": 0.0}).of(Generate).images == base.of(Generate).images
    assert run_of(**{"generator.warmup_steps": 50}).of(Finetune).origin == base.of(Finetune).origin
    assert run_of(**{"generator.warmup_steps": 500}).of(Finetune).origin != base.of(Finetune).origin
