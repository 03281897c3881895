"""Overrides are laid over a file's sections key by key, however they are written; nothing of either is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_synth.config import Data, Experiment, StableDiffusion, load_experiment, parse_assignments
from ray_synth.errors import InputError

FILE = """
name: x
data: {kind: npz, path: photos.npz, shots: 5}
generator: {steps: 7, block_out_channels: [8, 16]}
classifier: {augment: {flip: 0.5}}
sweep: {space: {lambda_1: {low: 1, high: 2}, augment.flip: {low: 0, high: 0.5}}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(FILE)
    return path


def test_a_section_keeps_what_is_not_given(file: Path) -> None:
    for overrides in ({"data": {"shots": 3}}, {"data": Data(shots=3)}, parse_assignments(["data={shots: 3}"])):
        data = load_experiment(file, overrides).data
        assert (data.kind, data.path, data.shots) == ("npz", "photos.npz", 3)


@pytest.mark.parametrize(
    ("overrides", "place", "expected"),
    [
        ({"generator": {"steps": 9}}, "generator.block_out_channels", (8, 16)),
        ({"generator": {"block_out_channels": [32]}}, "generator.block_out_channels", (32,)),  # a list is one value
        ({"generator.path": "y", "generator.kind": "folder"}, "generator.path", "y"),  # another kind has other keys
        ({"generator": {"kind": "folder", "path": "y"}}, "generator.path", "y"),
        ({"classifier": {"augment.blur": 0.1}}, "classifier.augment.flip", 0.5),
        ({"classifier": {"augment": {"blur": 0.1}}, "classifier.augment.blur": 0.2}, "classifier.augment.blur", 0.2),
        ({"sweep": {"space": {"augment.flip.high": 0.3}}}, "sweep.space", {"lambda_1": 2, "augment.flip": 0.3}),
        ({"sweep.space": {"augment": {"flip": {"high": 1}}}}, "sweep.space", {"lambda_1": 2, "augment.flip": 1}),
        ({"sweep.space.lambda_1.choices": [1, 2]}, "sweep.space", {"lambda_1": None, "augment.flip": 0.5}),
        ({"sweep": {}, "data": {}}, "sweep.space", {"lambda_1": 2, "augment.flip": 0.5}),
        ({"data.shots": 4, "data": {"image_size": 8}}, "data.shots", 4),
    ],
)
def test_sections_are_merged_and_values_replaced(
    file: Path, overrides: dict[str, Any], place: str, expected: Any
) -> None:
    found: Any = load_experiment(file, overrides)
    for name in place.split("."):
        found = getattr(found, name)
    if place == "sweep.space":
        found = {name: found[name].high for name in expected}
    assert found == expected


def test_a_person_s_own_words_are_merged_too_and_may_hold_dots(file: Path) -> None:
    overrides = {
        "generator": StableDiffusion(model="m"),
        "generator.class_words": {"st. bernard": "dog"},
        "generator.class_words.mr.x": "man",
        "generator.pipeline_args.clip_skip": 2,
    }
    generator = load_experiment(file, overrides).generator.model_dump()
    assert generator["class_words"] == {"st. bernard": "dog", "mr.x": "man"}
    assert generator["pipeline_args"] == {"clip_skip": 2}
    cleared = {"generator": StableDiffusion(model="m", class_words={"a": "b"}), "generator.class_words": {}}
    assert load_experiment(file, cleared).generator.model_dump()["class_words"] == {}


def test_paths_and_numpy_s_numbers_are_values(file: Path, tmp_path: Path) -> None:
    overrides = {
        "data.path": tmp_path / "x.npz",
        "data": {"shots": np.int64(3), "test_fraction": np.float32(0.25), "use_real": np.bool_(False)},
        "classifier.augment.resized_crop": np.array([0.5, 1.0]),
        "sweep.space.lambda_1": {"choices": (np.float64(1), np.float64(2))},
    }
    found = load_experiment(file, overrides, seed=np.int32(4))  # type: ignore[arg-type]
    assert (found.data.path, found.data.shots, found.seed) == (str(tmp_path / "x.npz"), 3, 4)
    assert (found.data.test_fraction, found.data.use_real) == (0.25, False)
    assert found.classifier.augment.resized_crop == (0.5, 1.0)
    assert found.sweep.choices_of("lambda_1") == (1.0, 2.0)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.shots=5"], "overrides must be a mapping such as {'data.shots': 5}, got ['data.shots=5']"),
        ({5: 3}, "a key must be text such as 'data.shots', got 5"),
        ({"data.shots.x": 3}, "--set data.shots.x: data.shots is 5, not a section"),
        ({"data": 5, "data.shots": 3}, "--set data.shots: data is 5, not a section"),
        ({"data": {"shot": 5}}, "unknown key data.shot; did you mean data.shots?"),
        ({"data.kind": "digits"}, "type --set data.path=null, or --set data.kind=folder"),
        ({"data": None}, "data: input should be"),
        ({"generator": {"path": "x"}}, "unknown key generator.path"),
    ],
)
def test_what_cannot_be_laid_over_is_said(file: Path, overrides: Any, expected: str) -> None:
    with pytest.raises(InputError) as error:
        load_experiment(file, overrides)
    assert expected in str(error.value)


def test_two_sections_of_one_name_are_both_kept() -> None:
    assert parse_assignments(["data={shots: 3}", "data={image_size: 8}"]) == {"data": {"shots": 3, "image_size": 8}}


SETTINGS = {
    "data.shots": [1, 2], "data.image_size": [8, 16], "generator.steps": [1, 2], "classifier.augment.flip": [0.1, 0.2],
    "classifier.augment.blur": [0.1], "classifier.targets.mixup": [0.5], "sweep.space.lambda_1.high": [3, 4],
    "sweep.num_trials": [2], "evaluate.repeats": [1], "seed": [5],
}  # fmt: skip


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nested_and_dotted_are_the_same_in_any_order(data: st.DataObject, file: Path) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(SETTINGS)), unique=True))
    dotted = {key: data.draw(st.sampled_from(SETTINGS[key])) for key in chosen}
    mixed: dict[str, Any] = {}
    for key in data.draw(st.permutations(chosen)):
        names = key.split(".")
        cut = data.draw(st.integers(1, len(names)))
        value: Any = dotted[key]
        for name in reversed(names[cut:]):
            value = {name: value}
        place = ".".join(names[:cut])
        before = mixed.get(place)
        mixed[place] = parse_assignments([f"a={before}", f"a={value}"])["a"] if before else value
    assert load_experiment(file, mixed) == load_experiment(file, dotted)
    assert load_experiment(file, {}) == load_experiment(file)


@pytest.mark.parametrize(
    "key",
    [
        "data.path", "classifier.weights", "generator.model", "generator.lora", "generate.filter.clip.weights",
        "generator.captions.path", "generator.visual_guidance.encoder.model",
    ],
)  # fmt: skip
def test_home_is_written_out(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    raw: dict[str, Any] = {
        "name": "x",
        "data": {"kind": "folder", "path": "~/a"},
        "classifier": {"weights": "~/a"},
        "generator": {
            "kind": "stable_diffusion",
            "model": "~/a",
            "lora": "~/a",
            "prompt": "{caption}",
            "captions": {"path": "~/a"},
            "visual_guidance": {"encoder": {"model": "~/a"}, "untrained": True},
        },
        "generate": {"filter": {"clip": {"model": "x", "weights": "~/a"}}},
    }
    found: Any = Experiment.model_validate(raw)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == "/home/somebody/a"


def test_home_is_written_out_in_words_for_models(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    overrides = {
        "partition.features": "open_clip:ViT-B-32:~/w",
        "classifier.model": "timm:resnet18:~/w",
        "sweep.space.weights.choices": ["~/w", "random"],
    }
    found = load_experiment(file, overrides)
    assert found.partition.encoder == ("ViT-B-32", "/home/somebody/w")
    assert found.classifier.weights == "/home/somebody/w"
    assert found.sweep.choices_of("weights") == ("/home/somebody/w", "random")
