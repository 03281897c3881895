"""Any experiment in small: it stays valid, it stays its kind, and nothing of it is large or somewhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ray_synth as rs
from ray_synth.config import Experiment, load_experiment
from ray_synth.errors import InputError
from ray_synth.smoke import models_folder, shrunk, smoke_name, tiny_models

from .conftest import DIGITS
from .test_cli import ray_synth

ODD: dict[str, dict[str, Any]] = {
    "folder": {"generator": {"kind": "folder", "path": "nowhere"}, "data.kind": "folder", "data.path": "nowhere"},
    "deep diffusion": {"generator.block_out_channels": [64, 64, 64, 64], "data.image_size": 512},
    "weak prior": {"generator": {"kind": "stable_diffusion", "model": "o/n", "strength": 0.1, "dtype": "float16"}},
    "captions": {
        "generator": {
            "kind": "stable_diffusion",
            "model": "nowhere",
            "prompt": "{caption}",
            "captions": {"path": "nowhere.csv"},
            "class_words": {"cat": "kitten"},
            "lora": "loras/{class}.safetensors",
            "visual_guidance": {"encoder": {"model": "nowhere"}, "variant": "released", "untrained": True},
        }
    },
    "timm": {"classifier.model": "timm:vit_base_patch16_224", "classifier.image_size": 224, "classifier.weights": "no"},
    "encoder": {"partition.features": "open_clip:ViT-L-14:nowhere", "partition.num_clusters": 1000},
    "many workers": {"classifier.num_workers": 8, "classifier.batch_size": 1024, "sweep.workers_per_trial": 8},
    "one shot": {"data.shots": 1, "generate.images_per_class": 3},
    "all images": {"data.shots": None, "data.kind": "imagenet", "data.path": "nowhere", "data.class_list": "no.txt"},
    "sizes": {
        "sweep.space": {
            "batch_size": {"choices": [64, 128]},
            "epochs": {"tied_to": "batch_size"},
            "num_clusters": {"low": 100, "high": 1000, "scale": "log"},
            "model": {"choices": ["resnet50", "timm:resnet10t"]},
            "lambda_1": {"low": 0.5, "high": 2, "scale": "linear"},
            "augment": {"flip": {"low": 0, "high": 0.5}},
        }
    },
    "grid": {
        "sweep.sampler": "grid",
        "sweep.space": {
            "synthetic_ratio": {"choices": [4, 8, 16]},
            "lambda_1": {"tied_to": "lambda_2"},
            "lambda_2": {"choices": [1, 10]},
            "clusters_per_class": {"choices": [8, 16]},
        },
    },
}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_any_experiment_has_a_small_one(changes: dict[str, Any]) -> None:
    experiment = load_experiment(DIGITS, changes)
    small = shrunk(experiment, Path("models"))
    assert small.generator.kind == experiment.generator.kind
    assert small.data.kind == "digits"
    assert small.data.shots is not None
    assert small.generate.images_per_class * 10 <= 80
    assert small.sweep.num_trials <= 4
    assert small.sweep.repeats == small.evaluate.repeats == small.classifier.num_workers == 1
    assert small.sweep.top_ratio <= small.generate.images_per_class / small.data.shots
    assert set(small.sweep.searched) <= set(experiment.sweep.searched)
    assert "nowhere" not in str(small)
    assert shrunk(small, Path("models")) == small


def test_a_scale_and_an_end_are_kept_where_they_fit() -> None:
    space = shrunk(load_experiment(DIGITS, ODD["sizes"]), Path("models")).sweep.searched
    assert set(space) == {"lambda_1", "lambda_2", "num_clusters", "augment.flip"}
    assert (space["lambda_1"].low, space["lambda_1"].scale) == (0.5, "linear")
    assert (space["num_clusters"].low, space["num_clusters"].high) == (20, 20)
    grid = shrunk(load_experiment(DIGITS, ODD["grid"]), Path("models")).sweep
    assert (grid.num_trials, grid.searched["synthetic_ratio"].choices) == (1, (2.0,))
    assert grid.searched["lambda_1"].tied_to == "lambda_2"


def test_the_name_is_another_and_stays_short_enough() -> None:
    assert smoke_name("aircraft") == smoke_name("aircraft-smoke") == "aircraft-smoke"
    assert Experiment(name=smoke_name("x" * 100)).name.endswith("x-smoke")


def test_the_models_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    experiment = load_experiment(DIGITS, ODD["captions"])
    folder = tiny_models(experiment)
    assert folder == models_folder()
    assert sorted(path.name for path in folder.iterdir()) == ["captioner", "stable-diffusion", "vision-encoder"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    tiny_models(experiment)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_s_images_are_none_of_the_real_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert rs.run(DIGITS, overrides=ODD["folder"], smoke=True, dry_run=True)["name"] == "digits-smoke"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="XDG_CACHE_HOME=DIR"):
        tiny_models(load_experiment(DIGITS, ODD["folder"]))


def test_two_folders_have_no_small_version() -> None:
    done = ray_synth("estimate", "--real", "a", "--synthetic", "b", "--smoke")
    assert done.returncode == 2
    assert "--smoke belong to an experiment file" in done.stderr
