"""A cluster that begins without GPUs: what cluster.yaml allows counts, and work that asks for them brings them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from ray_synth.config import Diffusion
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError, WorkError
from ray_synth.generator.artifacts import WEIGHTS
from ray_synth.generator.finetune import finetune, finetuning
from ray_synth.nodes import CLUSTER_FILE, cluster_nodes, nodes_of, on_gpu_node
from ray_synth.runs import RunFolder
from ray_synth.runtime import ray_session
from tests.conftest import ROOT

PORT = 6379  # where Ray's pretended machines look for their head
HEAD = {"CPU": 8.0}


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    """cluster.yaml as Ray hands it to its autoscaler."""
    from ray.autoscaler._private.util import prepare_config

    return dict(prepare_config(YAML(typ="safe").load(ROOT / "cluster.yaml")))


def test_what_cluster_yaml_allows_counts(aws: dict[str, Any]) -> None:
    nodes = nodes_of([HEAD], aws)
    assert (nodes.gpus, nodes.most_gpus, nodes.grows) == ((0,), (0, *[1] * 8), True)
    assert (nodes.cpus, nodes.most_cpus) == (8, 8 + 8 * 4)
    full = nodes_of([HEAD, *[{"CPU": 4.0, "GPU": 1.0}] * 8], aws)
    assert (full.gpus, full.grows) == ((0, *[1] * 8), False)


def test_all_kinds_together_have_a_limit_of_their_own(aws: dict[str, Any]) -> None:
    assert nodes_of([HEAD], {**aws, "max_workers": 3}).most_gpus == (0, 1, 1, 1)
    kinds = {**aws["available_node_types"], "eight": {"resources": {"GPU": 8}, "max_workers": 1, "node_config": {}}}
    assert nodes_of([HEAD], {**aws, "max_workers": 3, "available_node_types": kinds}).most_gpus == (0, 8, 1, 1)


def test_a_cluster_of_machines_that_one_has_grows_to_all_of_them() -> None:
    from ray.autoscaler._private.util import prepare_config

    local = {
        "cluster_name": "local",
        "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
        "auth": {"ssh_user": "ubuntu"},
    }
    config = prepare_config(local)
    assert nodes_of([HEAD], config).grows
    assert not nodes_of([HEAD] * 3, config).grows
    assert nodes_of([HEAD] * 3, config).most_cpus == 24


def test_a_ray_without_an_autoscaler_is_what_it_is() -> None:
    nodes = nodes_of([HEAD, {"CPU": 4.0, "GPU": 2.0}], {})
    assert (nodes.most_cpus, nodes.most_gpus, nodes.grows) == (12, (0, 2), False)


def test_only_a_head_that_names_its_file_may_grow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    here: dict[str, Any] = {"NodeID": "n", "Alive": True, "Resources": HEAD, "Labels": {}}
    monkeypatch.setattr(ray, "nodes", lambda: [here])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n"))
    monkeypatch.setenv("HOME", str(tmp_path))
    kinds = {"head": {"resources": HEAD}, "gpu": {"resources": {"GPU": 1}}}
    config = {"max_workers": 3, "head_node_type": "head", "available_node_types": kinds}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
    assert not cluster_nodes().grows  # of another Ray on this machine
    here["Labels"] = {CLUSTER_FILE: "ray_bootstrap_config.yaml"}
    assert cluster_nodes().most_gpus == (0, 1, 1, 1)
    here["NodeID"] = "other"  # and we are on a machine that it built
    assert not cluster_nodes().grows
    here |= {"NodeID": "n", "Labels": {CLUSTER_FILE: "missing.yaml"}}
    with pytest.raises(InputError, match=r"missing\.yaml cannot be read: .*--autoscaling-config"):
        cluster_nodes()


@pytest.fixture(scope="module")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A head without CPUs and GPUs, and Ray's own autoscaler, which may start two pretended machines with a GPU."""
    with socket.socket() as one:
        if one.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"somebody's Ray holds port {PORT}")
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 5},
    }
    provider = {
        "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }  # fmt: skip
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
             "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
             "rsync_filter")  # fmt: skip
    config = {
        **{name: [] for name in lists}, **{name: {} for name in ("auth", "docker", "file_mounts")},
        "cluster_name": "pretended", "max_workers": 2, "upscaling_speed": 4.0, "idle_timeout_minutes": 5,
        "provider": provider, "available_node_types": kinds, "head_node_type": "ray.head.default",
        "file_mounts_sync_continuously": False,
    }  # fmt: skip
    file = tmp_path_factory.mktemp("pretended") / "bootstrap.yaml"
    file.write_text(json.dumps(config))
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    head = subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={PORT}", "--num-cpus=0",
            "--num-gpus=0", "--include-dashboard=false", "--object-store-memory=100000000",
            f"--autoscaling-config={file}", f"--labels={CLUSTER_FILE}={file.name}",
        ],
        env={**environment, "RAY_FAKE_CLUSTER": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", PORT)) == 0:
                    break
            time.sleep(0.2)
        time.sleep(3)  # the autoscaler's own process comes after the port
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "disabled")
            patch.setenv("HOME", str(file.parent))
            patch.setenv("RAY_ADDRESS", f"127.0.0.1:{PORT}")
            yield
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]  # its machines too
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        head.wait()


@pytest.mark.slow
def test_actors_that_wait_for_gpus_bring_them(pretended: None) -> None:
    from ray_synth.sampling.pool import over_pool

    class Where:  # not of this module, which workers do not find
        def __init__(self, shared: object, device: str):
            self.device = device

        def __call__(self, item: dict[str, int]) -> list[str]:
            import time

            import ray

            time.sleep(1)
            return [ray.get_runtime_context().get_node_id(), self.device]

    def steps(count: int) -> Iterator[tuple[int, bool]]:
        import ray

        for step in range(count):
            yield step, bool(ray.get_gpu_ids())

    with ray_session():
        nodes = cluster_nodes()
        assert (nodes.gpus, nodes.most_gpus, nodes.grows) == ((0,), (0, 1, 1), True)
        # Work of one process too: this one has no GPU.
        assert list(on_gpu_node(steps, 3)) == [(0, True), (1, True), (2, True)]
        seen = list(over_pool([{"n": n} for n in range(80)], Where, (), None))
    assert {device for _, device in seen} == {"cuda"}
    assert len({node for node, _ in seen}) == 2


@pytest.mark.slow
def test_a_generator_trained_where_gpus_are_is_the_one_trained_here(
    pretended: None, tmp_path: Path, splits: Splits
) -> None:
    settings = Diffusion(steps=6, batch_size=8, block_out_channels=(8, 16))
    with ray_session():
        there = RunFolder(tmp_path / "there")
        assert list(on_gpu_node(finetuning, there, splits.generator, settings, 0)) == list(range(7))
    finetune(RunFolder(tmp_path / "here"), splits.generator, settings, seed=0)
    weights = [load_file(tmp_path / name / WEIGHTS) for name in ("there", "here")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name])


@pytest.mark.slow
def test_one_process_of_work_survives_its_death(pretended: None, tmp_path: Path) -> None:
    lives = tmp_path / "lives"

    def steps(most: int, file: str) -> Iterator[int]:
        with open(file, "a") as log:
            log.write("x")
        yield 1
        if os.path.getsize(file) <= most:
            os.kill(os.getpid(), signal.SIGKILL)
        yield 2

    with ray_session():
        values = list(on_gpu_node(steps, 1, str(lives)))
        assert values[-2:] == [1, 2]  # what the first life yielded may have died with it
        assert lives.read_text() == "xx"
        with pytest.raises(WorkError, match="machines died under steps 4 times"):
            list(on_gpu_node(steps, 100, str(tmp_path / "others")))


def test_without_gpus_anywhere_work_stays_here() -> None:
    def steps() -> Iterator[int]:
        yield os.getpid()

    assert list(on_gpu_node(steps)) == [os.getpid()]
