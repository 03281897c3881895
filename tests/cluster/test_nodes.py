"""Several nodes: three make what one makes, a node that dies loses nothing, and a folder must be seen by all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_synth.errors import InputError
from ray_synth.nodes import Nodes, on_network
from ray_synth.runs import RunFolder
from tests.test_run import command, contents, keys, trials, wait_for

TWO_AT_ONCE = {"sweep.concurrency": 2}  # what a sweep proposes depends on how many trials run at once
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.mark.parametrize(
    ("each", "now", "most"), [(1.0, 2, 10), (0.5, 4, 20), (0.4, 4, 20), (2.0, 1, 5), (8.0, 0, 1), (16.0, 0, 0)]
)
def test_what_lies_on_one_node(each: float, now: int, most: int) -> None:
    nodes = Nodes(cpus=8, gpus=(2, 0), most_cpus=80, most_gpus=(2, 8), grows=True)
    assert (nodes.gpu_slots(each), nodes.gpu_slots(each, most=True)) == (now, most)


def test_a_worker_on_a_machine_without_the_run_folder_says_so(tmp_path: Path) -> None:
    assert RunFolder.on_worker(str(tmp_path)).root == str(tmp_path)
    with pytest.raises(InputError, match=r"is not on .*, where a part of the work is done; type --out s3://"):
        RunFolder.on_worker(str(tmp_path / "elsewhere"))
    assert not RunFolder.on_worker("memory://elsewhere").is_local


def test_a_disk_of_this_machine_is_no_network_disk(tmp_path: Path) -> None:
    assert not on_network(str(tmp_path))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run(command(out, "train", **TWO_AT_ONCE), env=environment, check=True, capture_output=True)
    return out


@pytest.fixture
def three() -> Iterator[SimpleNamespace]:
    """A cluster of three nodes, and the environment of a driver on its head."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    workers = [cluster.add_node(**NODE) for _ in range(2)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
    try:
        yield SimpleNamespace(cluster=cluster, workers=workers, environment=environment)
    finally:
        cluster.shutdown()


def same(out: Path, alone: Path) -> None:
    assert sorted(keys(out)) == sorted(keys(alone))
    for part in ("generator/", "synthetic/", "estimate.json"):
        found, expected = ({k: v for k, v in contents(run).items() if k.startswith(part)} for run in (out, alone))
        assert found == expected, part
    assert trials(out) == trials(alone)


@pytest.mark.slow
def test_three_nodes_make_what_one_makes(three: SimpleNamespace, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run(
        command(out, "train", **TWO_AT_ONCE), env=three.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    same(out, alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["generate", "sweep", "train"])
def test_a_node_that_dies_loses_nothing(stage: str, three: SimpleNamespace, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    later = ["generate", "estimate", "sweep", "train"]
    outputs = {"generate": ["synthetic", "generation.json"], "estimate": ["estimate.json"], "sweep": ["sweep"],
               "train": ["model"]}  # fmt: skip
    for name in later[later.index(stage) :]:
        (out / "stages" / f"{name}.json").unlink()
        for output in outputs[name]:
            path = out / output
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = command(out, stage, **TWO_AT_ONCE)
    with subprocess.Popen(words, env=three.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for(stage, process, out)
        assert process.poll() is None, "over before the node died"
        three.cluster.remove_node(three.workers[0], allow_graceful=False)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()
    if stage != "train":
        subprocess.run(command(out, "sweep", **TWO_AT_ONCE), env=three.environment, check=True, capture_output=True)
    same(out, alone)
    if stage == "train":
        runs = sorted(p.name for p in (alone / "model" / "runs").glob("*.safetensors"))
        assert sorted(p.name for p in (out / "model" / "runs").glob("*.safetensors")) == runs
