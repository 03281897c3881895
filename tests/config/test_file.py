"""Whatever stands in an experiment file, the loader gives an Experiment or one clear line per problem."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ray_synth import cli
from ray_synth.config import (
    Classifier,
    Data,
    Experiment,
    PartitionSettings,
    digest,
    load_experiment,
    parse_assignments,
    with_absolute_paths,
)
from ray_synth.config.yaml import as_yaml, read_yaml
from ray_synth.data import readers
from ray_synth.errors import InputError
from ray_synth.generator import generator_of
from ray_synth.runs import RunFolder

from ..conftest import DIGITS


def test_a_space_says_what_differs_and_reads_back_as_it_was(tmp_path: Path) -> None:
    overrides = {
        "sweep.space.lambda_1": {"tied_to": "lambda_2", "factor": 0.1},
        "sweep.space.lambda_2.high": 100,
        "sweep.space.num_clusters": {"choices": [10, 20]},
        "sweep.space.augment.flip": {"low": 0, "high": 1},
        "sweep.space.learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"},
    }
    sweep = load_experiment(DIGITS, overrides).sweep
    assert list(sweep.searched) == ["lambda_1", "lambda_2", "num_clusters", "augment.flip", "learning_rate"]
    assert sweep.searched["lambda_2"].low == 0.1  # the default's
    assert load_experiment(DIGITS, {"sweep.space.lambda_1": None}).sweep.searched.keys() == {
        "lambda_2",
        "clusters_per_class",
    }
    resolved = tmp_path / "experiment.yaml"
    resolved.write_text(as_yaml(load_experiment(DIGITS, overrides).model_dump(mode="json")))
    assert load_experiment(resolved) == load_experiment(DIGITS, overrides)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"data.shot": 5}, ["unknown key data.shot", "did you mean data.shots?"]),
        ({"swep.num_trials": 5}, ["unknown key swep", "did you mean sweep?"]),
        ({"data.shots": "ten"}, ["data.shots", "'ten'", "integer", "--set data.shots=10"]),
        ({"data.shots": 0}, ["data.shots", "got 0", "greater than or equal to 1"]),
        ({"data.shots": True}, ["data.shots", "True"]),
        ({"sweep.num_trials": 2.5}, ["sweep.num_trials", "2.5"]),
        ({"classifier.lambda_1": -1}, ["classifier.lambda_1", "-1"]),
        ({"classifier.lambda_1": float("nan")}, ["classifier.lambda_1", "nan"]),
        ({"classifier.model": "resnet"}, ["classifier.model", "'small_cnn'", "'resnet'"]),
        ({"classifier.model": "open_clip:ViT-B-16"}, ["open_clip needs a local file", "--set classifier.weights=FILE"]),
        ({"classifier.lora.r": 4}, ["lora must be empty for model: small_cnn"]),
        ({"classifier.augment.resized_crop": [0.9, 0.5]}, ["0 < low <= high <= 1", "0.9"]),
        ({"classifier.schedule.milestones": [30, 60]}, ["shares of the training", "got 30", "[0.25, 0.5, 0.75]"]),
        ({"classifier.algorithm": "lightweight", "classifier.gather": False}, ["gather must be true"]),
        ({"partition.features": "dino"}, ["partition.features", "dino"]),
        ({"sweep.space.lambda_1": {"low": 2, "high": 1}}, ["sweep.space.lambda_1", "low=2", "high=1"]),
        ({"sweep.space.lambda_1": {"low": 0, "high": 1, "scale": "log"}}, ["must be > 0 on a log scale", "log1p"]),
        ({"sweep.space.lambda_2": {"low": 600}}, ["sweep.space.lambda_2.low must be <= high", "swap them"]),
        ({"sweep.space.lambda_1": {"low": 2}}, ["sweep.space.lambda_1.high is missing: a range needs low and high"]),
        (
            {"sweep.space.lambda_2": {"tied_to": "lambda_1"}},
            ["space.lambda_2: tied_to must name one of clusters_per_class, got 'lambda_1'"],
        ),
        (
            {"sweep.space.allocation": "fill"},
            [
                "sweep.space.allocation must be a range, choices or null, got 'fill'",
                "type --set 'sweep.space.allocation.choices=[fill]'",
            ],
        ),
        ({"sweep.space.synthetic_ratio": [0, 2.5]}, ["type --set 'sweep.space.synthetic_ratio.choices=[0, 2.5]'"]),
        ({"sweep.space.lambda_2": [None]}, ["sweep.space.lambda_2 must be a range", "lambda_2.choices=[...]'"]),
        ({"sweep.space.weight_decay": {"low": 2}}, ["sweep.space.weight_decay.high is missing"]),
        ({"sweep.space.lambda_1.choices": []}, ["sweep.space.lambda_1.choices must hold a value, got none"]),
        ({"sweep.space.lambda_1.choices": [1, 1]}, ["choices must differ, got [1, 1]"]),
        ({"sweep.space.lambda_1": {"low": 1, "high": 2, "tied_to": "lambda_2"}}, ["either low and high, or choices"]),
        ({"sweep.space.lambda_1": {"tied_to": "lamda_2"}}, ["tied_to must name one of lambda_2", "'lamda_2'"]),
        ({"sweep.space.lamda_1": {"low": 1, "high": 2}}, ["unknown key sweep.space.lamda_1; did you mean lambda_1?"]),
        ({"sweep.space.lambda_1.hihg": 3}, ["unknown key sweep.space.lambda_1.hihg", "lambda_1.high?"]),
        ({"sweep.space.learning_rate": {"low": 1, "high": 20}}, ["sweep.space.learning_rate: 20.0 does not do"]),
        ({"sweep.space.batch_size.choices": [7]}, ["sweep.space.batch_size: 7 does not do", "multiple of 2"]),
        ({"sweep.space.num_workers.choices": [1, 2]}, ["unknown key sweep.space.num_workers"]),
        ({"sweep.space.real_weight": {"low": 2, "high": 3}}, ["no effect with classifier.weighting: uniform"]),
        ({"sweep.space.synthetic_ratio.choices": [0, "all"]}, ["numbers above 0", "'all'"]),
        ({"sweep.sampler": "grid"}, ["space.lambda_2: sampler: grid needs choices", "=null to keep it fixed"]),
        ({"sweep.metric": "f1"}, ["sweep.metric", "accuracy and balanced_accuracy", "'f1'"]),
        ({"sweep.space.synthetic_ratio.choices": [float("nan"), 1]}, ["sweep.space.synthetic_ratio", "got nan"]),
        (
            {"sweep.space.batch_size": {"low": 16, "high": 64}},
            ["sweep.space.batch_size: 17 does not do", "multiple of"],
        ),
        (
            {"sweep.space.optimizer.choices": ["sgd"], "sweep.space.lambda_1.tied_to": "optimizer"},
            ["sweep.space.lambda_1: tied_to must name numbers, and optimizer may be 'sgd'"],
        ),
        (
            {"sweep.space.num_clusters.choices": [5], "sweep.space.clusters_per_class.choices": [1]},
            ["either num_clusters or clusters_per_class"],
        ),
        (
            {"sweep.workers_per_trial": 3},
            ["multiple of 2 x sweep.workers_per_trial (6), got 64", "--set classifier.batch_size=66"],
        ),
        (
            {"sweep.workers_per_trial": 2, "sweep.space.batch_size.choices": [64, 66]},
            ["multiple of 2 x sweep.workers_per_trial (4), got 66"],
        ),
        ({"data.kind": "folder"}, ["data.path is missing", "--set data.path=FOLDER"]),
        ({"data.kind": "npz", "data.path": "s3://b/x.npz"}, ["data.path must be a file or folder", "ray rsync-up"]),
        ({"data.test_fraction": 0.9}, ["must be < 1", "1.48"]),
        (
            {"data.generator_split": "shared", "data.test_fraction": 0.8},
            ["validation_fraction + test_fraction must be < 1", "1.05", "--set data.validation_fraction="],
        ),
        (
            {"data.generator_split": "shared", "data.max_generator": 5},
            ["data.max_generator must be empty for generator_split: shared, got 5"],
        ),
        ({"generate.num_inference_steps": 600, "generator.num_train_timesteps": 500}, ["<= ", "500", "got 600"]),
        (
            {"generator": {"kind": "folder", "path": "x"}, "generate.noise_variance": 0.5},
            ["generate.noise_variance must be 0 for generator.kind: folder, got 0.5"],
        ),
        (
            {"generator": {"kind": "stable_diffusion", "model": "x"}, "generate.noise_variance": 1},
            ["generate.noise_variance must be 0 for generator.kind: stable_diffusion"],
        ),
        ({"generate.noise_variance": -1}, ["generate.noise_variance", "greater than or equal to 0", "-1"]),
        ({"generator.block_out_channels": [30]}, ["multiples of 8", "got 30"]),
        ({"name": "../elsewhere"}, ["name", "../elsewhere"]),
        ({"data": 5}, ["data", "5"]),
        ({"classifier.batch_size": 7}, ["multiple of 2 x num_workers (2)", "got 7", "--set classifier.batch_size="]),
        ({"seed": 10**5000}, ["seed", "huge"]),
    ],
)
def test_an_error_names_the_key_the_value_and_the_cure(override: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load_experiment(DIGITS, override)
    for words in expected:
        assert words in str(error.value)


def test_a_fraction_that_is_not_used_does_not_count() -> None:
    wide = {"data.validation_fraction": 0.4, "data.test_fraction": 0.4}
    assert load_experiment(DIGITS, {"data.generator_split": "shared", **wide}).data.test_fraction == 0.4
    with pytest.raises(InputError, match=r"must be < 1 .* 1\.13"):
        load_experiment(DIGITS, wide)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "stands twice"),
        ("name: &n a\nseed: *n\n", "aliases"),
        ("name: !!python/object/apply:os.system ['true']\n", "not a plain YAML file"),
        ("name: [unclosed\n", "not a plain YAML file"),
        ("- just\n- a list\n", "must hold sections"),
        ("", "must hold sections"),
        ("seed: 3\n", "name is missing"),
        ("? [1, 2]\n: 3\n", "not a plain YAML file"),
        ("name: !!bool x\n", "not a plain YAML file"),
        ("name: !!timestamp x\n", "not a plain YAML file"),
        ("name: a\ndata: {shots: 1:30}\n", "shots"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=expected):
        load_experiment(file)


@pytest.mark.parametrize("variance", [0.0, 0.5, 1.0])
def test_the_cifar10_experiment_is_the_papers(variance: float) -> None:
    experiment = load_experiment(DIGITS.with_name("cifar10.yaml"), {"generate.noise_variance": variance})
    data, sweep = experiment.data, experiment.sweep
    taken = [int(fraction * 5000) for fraction in (data.generator_fraction, data.validation_fraction)]
    assert taken == [4450, 500]
    assert data.shots == 5000 - sum(taken)  # and nothing is left over
    assert sweep.searched["synthetic_ratio"].choices == (0, 0.5, 1, 3, 9)
    assert list(sweep.searched) == ["synthetic_ratio"]
    assert experiment.generate.images_per_class == sweep.top_ratio * (data.shots or 0)
    generator = generator_of(experiment.generator, experiment.generate, class_names=("a",), shape=(32, 32, 3))
    assert not generator.check()


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean .*digits\.yaml"):
        load_experiment(DIGITS.with_name("digit.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="cannot be read"):
        load_experiment(tmp_path / "binary.yaml")


def test_assignments_are_read_as_yaml() -> None:
    assert parse_assignments(["a.b=5", "c=[1, 2]", "d=null", "e=x=y"]) == {"a.b": 5, "c": [1, 2], "d": None, "e": "x=y"}
    assert parse_assignments(["a=1e-3", "b=010", "c=no", "d=1:30", "e=true"]) == {
        "a": 0.001,
        "b": 10,
        "c": "no",
        "d": "1:30",
        "e": True,
    }
    with pytest.raises(InputError, match=r"key\.path=value"):
        parse_assignments(["data.shots"])
    with pytest.raises(InputError, match="has no value"):
        parse_assignments(["data.shots="])


PAIRS = ((0.1, 1), (2, 20), (20, 200), (50, 500))  # Nguyen et al., 2025, appendix B


def test_the_default_space_holds_the_papers_pairs() -> None:
    space = load_experiment(DIGITS).sweep.searched
    assert list(space) == ["lambda_1", "lambda_2", "clusters_per_class"]
    lambda_1, lambda_2 = space["lambda_1"], space["lambda_2"]
    assert lambda_1.tied_to == "lambda_2"
    for first, second in PAIRS:
        assert (lambda_2.low or 0) <= second <= (lambda_2.high or 0)
        assert first == pytest.approx(lambda_1.factor * second)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lambda_2.high": 10}, {"lambda_2": {"low": 0.1, "high": 10, "scale": "log"}}),  # of the default's form
        ({"lambda_1.factor": 0.2}, {"lambda_1": {"tied_to": "lambda_2", "factor": 0.2}}),
        ({"lambda_1.low": 1, "lambda_1.high": 2}, {"lambda_1": {"low": 1, "high": 2, "scale": "linear"}}),  # of another
        ({"lambda_1.choices": [1, 2]}, {"lambda_1": {"choices": (1, 2)}}),
        ({"lambda_1": {"tied_to": "learning_rate"}, "learning_rate.choices": [0.1]}, {"lambda_1": {"factor": 1}}),
        ({"lambda_2": None}, {"lambda_1": None, "lambda_2": None}),  # what is tied to it goes with it
        ({"lambda_2": None, "lambda_1.choices": [1, 2]}, {"lambda_1": {"choices": (1, 2)}, "lambda_2": None}),
        ({"lambda_2.choices": [1, 20]}, {"lambda_1": {"tied_to": "lambda_2"}, "lambda_2": {"choices": (1, 20)}}),
        (
            {"lambda_1.choices": [1, 2], "lambda_2": {"tied_to": "lambda_1", "factor": 10}},
            {"lambda_1": {"choices": (1, 2)}, "lambda_2": {"tied_to": "lambda_1", "factor": 10, "low": None}},
        ),
    ],
)
def test_what_is_given_is_laid_over_the_default_space(given: dict[str, Any], expected: dict[str, Any]) -> None:
    experiment = load_experiment(DIGITS, {f"sweep.space.{key}": value for key, value in given.items()})
    for name, keys in expected.items():
        found = experiment.sweep.space[name]
        if keys is None:
            assert found is None
        else:
            assert found is not None
            assert {key: getattr(found, key) for key in keys} == keys
    again = type(experiment).model_validate(experiment.model_dump(mode="json"))
    assert again.sweep == experiment.sweep


def test_the_settings_of_a_run_can_be_run_again(tmp_path: Path) -> None:
    experiment = load_experiment(DIGITS, {"data.shots": 3})
    RunFolder(tmp_path).open_for(experiment)
    assert load_experiment(tmp_path / "experiment.yaml") == experiment


def written(folder: Path, **texts: str) -> Path:
    """Files by name; the path of the first one."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


BASE = """
seed: 3
data: {shots: 4, test_fraction: 0.2}
generator: {steps: 50, block_out_channels: [8, 16, 32]}
classifier: {augment: {flip: 0.5, blur: 0.1}}
sweep:
  space:
    lambda_1: {low: 0.5, high: 2}
    learning_rate: {low: 1e-4, high: 1e-2, scale: log}
    augment: {flip: {low: 0, high: 0.5}}
"""


def test_a_file_lies_over_its_base(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        top="base: middle.yaml\nname: top\ndata: {shots: 2}\nclassifier: {augment: {blur: 0.3}}\n",
        middle="base: below/base.yaml\ngenerator: {block_out_channels: [8]}\nsweep: {space: {lambda_1: {high: 9}}}\n",
    )
    written(tmp_path / "below", base=BASE)
    experiment = load_experiment(file)
    assert (experiment.name, experiment.seed, experiment.data.shots, experiment.data.test_fraction) == (
        "top",
        3,
        2,
        0.2,
    )
    assert experiment.generator.model_dump(include={"steps", "block_out_channels"}) == {
        "steps": 50,
        "block_out_channels": (8,),
    }
    assert (experiment.classifier.augment.flip, experiment.classifier.augment.blur) == (0.5, 0.3)
    assert (experiment.sweep.space["lambda_1"].low, experiment.sweep.space["lambda_1"].high) == (0.5, 9)
    assert experiment.sweep.space["augment.flip"].high == 0.5
    assert load_experiment(file, {"data.shots": 1}).data.shots == 1
    RunFolder(tmp_path / "run").open_for(experiment)
    resolved = read_yaml((tmp_path / "run" / "experiment.yaml").read_text())
    assert "base" not in resolved
    assert load_experiment(tmp_path / "run" / "experiment.yaml") == experiment


def test_what_is_of_another_kind_replaces_the_base_s(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        top="base: base.yaml\nname: top\ngenerator: {kind: folder, path: images}\n"
        "sweep: {space: {learning_rate: {choices: [1e-3]}, lambda_1: null, augment: {flip: {choices: [0, 1]}}}}\n",
        base=BASE,
    )
    experiment = load_experiment(file)
    assert experiment.generator.model_dump() == {"kind": "folder", "path": "images"}
    space = experiment.sweep.space
    assert space["learning_rate"].choices == (1e-3,)
    assert space["augment.flip"].choices == (0, 1)
    assert space["lambda_1"] is None
    file.write_text("base: base.yaml\nname: top\ngenerator: {kind: diffusion, steps: 9}\n")
    assert load_experiment(file).generator.block_out_channels == (8, 16, 32)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            {"a": "base: b.yaml\n", "b": "base: a.yaml\n"},
            [r"b\.yaml: base: a\.yaml leads back", r"a\.yaml -> .*b\.yaml"],
        ),
        ({"a": "base: ./a.yaml\n"}, [r"a\.yaml: base: \./a\.yaml leads back"]),
        ({"a": "base: ful.yaml\n", "full": "seed: 1\n"}, [r"a\.yaml: base not found", r"did you mean .*full\.yaml"]),
        ({"a": "base: [b.yaml]\n"}, [r"a\.yaml: base must be the path", r"\['b\.yaml'\]"]),
        ({"a": "base: b.yaml\n", "b": "seed: 1\nseed: 2\n"}, [r"b\.yaml is not a plain YAML file", "stands twice"]),
        ({"a": "base: b.yaml\n", "b": "name: x\nseed: no\n"}, [r"a\.yaml \(base b\.yaml\): seed"]),
        ({"a": "base: b.yaml\n", "b": "seed: 1\n"}, ["name is missing"]),
    ],
)
def test_a_base_that_will_not_do_is_named(tmp_path: Path, texts: dict[str, str], expected: list[str]) -> None:
    file = written(tmp_path, **texts)
    for pattern in expected:
        with pytest.raises(InputError, match=pattern):
            load_experiment(file)


def test_the_seed_option_wins_and_defaults_are_enough() -> None:
    assert load_experiment(DIGITS, seed=7).seed == 7
    assert Experiment(name="x").data == Data()


def test_digest_ignores_order_and_sees_every_value() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(Experiment(name="x")) != digest(Experiment(name="x", seed=1))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["digits", "folder", "log", "0", "1e-3", "/", "é\n", "runs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def _paths(tree: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict):
        return [prefix]
    below = [path for key, value in tree.items() for path in _paths(value, (*prefix, key))]
    return [*below, prefix] if prefix else below


DEFAULTS = Experiment(name="mutant").model_dump(mode="json")


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """Sections of an experiment with up to three places replaced, removed or added, then perhaps a broken byte."""
    named = draw(st.sets(st.sampled_from(sorted(DEFAULTS)), max_size=3))
    kept = {key: value for key, value in DEFAULTS.items() if key in named or not isinstance(value, dict)}
    tree = copy.deepcopy(kept)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(_paths(kept)))
        here = tree
        for key in path[:-1]:
            here = here[key] if isinstance(here.get(key), dict) else here.setdefault(f"{key}_", {})
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove":
            here.pop(path[-1], None)
        else:
            here[path[-1] if action == "replace" else draw(st.text(max_size=8))] = draw(VALUES)
    text = as_yaml(tree).encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=4)) + text[at + draw(st.integers(0, 3)) :]
    return text


@pytest.fixture(scope="module")
def read_once() -> Any:
    """The digits are read once; everything after that is done each time."""
    known = {}
    kept = dict(readers.READERS)

    def cached(data: Data) -> Any:
        if data.image_size is not None and data.image_size > 64:
            raise InputError(f"data.image_size {data.image_size}: left out of this test, it only takes long")
        return (
            known.setdefault(data.image_size, None)
            or known.__setitem__(data.image_size, kept["digits"](data))
            or known[data.image_size]
        )

    readers.READERS["digits"] = cached
    yield
    readers.READERS.update(kept)


@st.composite
def overrides(draw: st.DrawFn) -> dict[str, Any]:
    """Values for up to three places: dotted, nested, or dotted so far and nested from there."""
    found: dict[str, Any] = {}
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(_paths(DEFAULTS)) | st.lists(st.text(max_size=6), min_size=1, max_size=3))
        value = draw(VALUES)
        cut = draw(st.integers(1, len(path)))
        for name in reversed(path[cut:]):
            value = {name: value}
        found[".".join(path[:cut])] = value
    return found


def read_through(file: Path, text: bytes, given: dict[str, Any]) -> None:
    """A file and overrides give an experiment or one line per problem, in Python and on the command line."""
    file.write_bytes(text)
    outcome = 0
    try:
        load_experiment(file, given)
    except InputError:
        outcome = 2
    words = [f"--set={key}={json.dumps(value)}" for key, value in given.items()]
    result = CliRunner().invoke(cli.app, ["run", str(file), "--dry-run", *words])
    assert result.exit_code in (0, 2), (text, words, result.output, result.exception)
    assert "Traceback" not in result.output
    if result.exit_code == 2:
        assert "ray-synth: " in result.output
    elif all(isinstance(value, int) for value in given.values()):
        assert outcome == 0, (text, words)  # what is not text in JSON may be text in YAML


MUTANTS: Any = settings(
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@settings(MUTANTS, max_examples=250)
@given(text=mutants(), given=overrides())
def test_250_mutants_exit_with_0_or_2_and_no_traceback(
    text: bytes, given: dict[str, Any], read_once: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read_through(tmp_path_factory.getbasetemp() / "mutant.yaml", text, given)


@pytest.mark.slow
@pytest.mark.long
@settings(MUTANTS, max_examples=2000)
@given(text=mutants(), given=overrides())
def test_2000_mutants_exit_with_0_or_2_and_no_traceback(
    text: bytes, given: dict[str, Any], read_once: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read_through(tmp_path_factory.getbasetemp() / "mutant.yaml", text, given)


def test_paths_are_made_absolute_for_workers_and_architectures_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small_cnn").touch()
    (tmp_path / "clip.safetensors").touch()
    classifier = Classifier(weights="clip.safetensors")
    experiment = Experiment(
        name="x", classifier=classifier, partition=PartitionSettings(features="open_clip:ViT-B/32:clip.safetensors")
    )
    absolute = with_absolute_paths(experiment)
    assert absolute.classifier.model == "small_cnn"
    assert absolute.classifier.weights == str(tmp_path / "clip.safetensors")
    assert absolute.partition.encoder == ("ViT-B-32", str(tmp_path / "clip.safetensors"))
