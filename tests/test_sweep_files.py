"""Every file under sweeps/: it loads, its header says what it is for and costs, and it runs in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import ray_synth as rs
from ray_synth.catalog import CATALOG
from ray_synth.config import ClipFilter, load_experiment
from ray_synth.progress import Reporter
from ray_synth.smoke import WARNING, shrunk

from .conftest import ROOT

SWEEPS = ROOT / "sweeps"
FILES = sorted(SWEEPS.rglob("*.yaml"))
TEN = ["imagenet", "caltech101", "dtd", "eurosat", "aircraft", "pets", "cars", "sun397", "food101", "flowers102"]
SEVEN = ["imagenette", "imagenet100", "imagenet", "cub200", "cars", "pets", "eurosat", "celeba"]
SLOW = (
    "digits.yaml",
    pytest.param("few_shot/pets_lightweight.yaml", marks=pytest.mark.long),
    pytest.param("real_fake/imagenette.yaml", marks=pytest.mark.long),
)

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SWEEPS)))


class Listening(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models are kept: made by the first that needs them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def elsewhere(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with nothing in it: no data, no models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path


@every_file
def test_clusters_are_searched_wherever_regions_are_used(file: Path) -> None:
    experiment = load_experiment(file)
    classifier, searched = experiment.classifier, experiment.sweep.searched
    regions = classifier.lambda_1 > 0 or classifier.lambda_2 > 0 or {"lambda_1", "lambda_2"} & set(searched)
    assert bool(regions) == bool({"clusters_per_class", "num_clusters"} & set(searched))


@every_file
def test_a_file_loads_and_its_header_says_what_it_takes(file: Path) -> None:
    assert load_experiment(file).name
    header = file.read_text().split("\n\n")[0]
    assert header.startswith("# ")
    for word in ("Command:", "Hardware:", "Cost:", "Expect:"):
        assert f"# {word}" in header
    assert all(len(line) <= 120 for line in file.read_text().splitlines())


def test_each_data_set_of_the_papers_has_its_files_and_each_file_its_name() -> None:
    for name in TEN:
        full = load_experiment(SWEEPS / "few_shot" / f"{name}.yaml")
        light = load_experiment(SWEEPS / "few_shot" / f"{name}_lightweight.yaml")
        for experiment, algorithm, images in ((full, "full", 500), (light, "lightweight", 64)):
            assert (experiment.data.kind, experiment.data.shots) == (name, 16)
            assert (experiment.classifier.algorithm, experiment.generate.images_per_class) == (algorithm, images)
            assert experiment.classifier.real_weight == CATALOG[name].real_weight
    for name in SEVEN:
        assert load_experiment(SWEEPS / "real_fake" / f"{name}.yaml").data.kind == name
    names = Counter(load_experiment(file).name for file in FILES)
    assert max(names.values()) == 1


@every_file
def test_a_file_has_the_images_for_its_ratios(file: Path) -> None:
    """Where the size of a class is known beforehand: the shots."""
    experiment = load_experiment(file)
    if experiment.data.shots is not None and experiment.generate.images_per_class is not None:
        assert experiment.generate.images_per_class >= experiment.sweep.top_ratio * experiment.data.shots
    assert experiment.sweep.max_ratio >= experiment.sweep.top_ratio


@every_file
def test_a_file_is_checked_in_small(file: Path, elsewhere: Path) -> None:
    reporter = Listening()
    assert rs.run(file, smoke=True, dry_run=True, reporter=reporter)["name"].endswith("-smoke")
    assert reporter.said[0] == WARNING
    assert not list(elsewhere.iterdir())


def test_what_a_file_is_made_of_stays() -> None:
    small = shrunk(load_experiment(SWEEPS / "few_shot" / "aircraft_lightweight.yaml"), Path("models"))
    assert isinstance(small.generate.filter.clip, ClipFilter)
    assert (small.generator.kind, small.generator.model_dump()["strength"]) == ("stable_diffusion", 0.75)
    assert small.classifier.model.startswith("open_clip:")
    assert (small.classifier.algorithm, small.classifier.targets.cutmix) == ("lightweight", 1.0)
    assert set(small.sweep.searched) == {"synthetic_ratio", "clusters_per_class", "learning_rate", "weight_decay"}
    grid = shrunk(load_experiment(SWEEPS / "real_fake" / "imagenet100.yaml"), Path("models"))
    assert (grid.sweep.sampler, grid.sweep.searched["synthetic_ratio"].choices) == ("grid", (0, 1, 2))
    assert (grid.classifier.optimizer, grid.classifier.num_workers, grid.sweep.workers_per_trial) == ("sgd", 1, 1)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", SLOW)
def test_a_file_runs_in_small_to_its_report(name: str, elsewhere: Path) -> None:
    command = [sys.executable, "-m", "ray_synth.cli", "run", str(SWEEPS / name), "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines()[0] == WARNING
    (folder,) = (elsewhere / "runs").iterdir()
    assert folder.name == f"{load_experiment(SWEEPS / name).name}-smoke"
    assert (folder / "report.html").stat().st_size > 0
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    assert summary["name"] == folder.name
