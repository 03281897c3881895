"""Several nodes: three, of which one dies in each stage, make what one makes, and a folder must be seen by all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_synth.errors import InputError
from ray_synth.nodes import Nodes, lacking, on_network
from ray_synth.runs import RunFolder
from tests.test_pipeline import command, contents, keys, trials, wait_for

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


@pytest.mark.parametrize(
    ("asked", "up", "said"),
    [
        ([[{"CPU": 1.0}]], [{"memory": 1e9}], "waiting for 1 CPU: this Ray has 0 CPUs and 0 GPUs; give it more"),
        ([[{"CPU": 1.0, "GPU": 1.0}]], [{"CPU": 8.0}], "waiting for 1 CPU and 1 GPU: this Ray has 8 CPUs and 0 GPUs"),
        ([[{"CPU": 4.0}]], [{"CPU": 2.0}, {"CPU": 2.0}], "waiting for 4 CPUs: this Ray has 2 x 2 CPUs and 0 GPUs;"),
        ([[{"CPU": 1.0}] * 3], [{"CPU": 2.0}], "waiting for 3 CPUs in 3 parts: this Ray has 2 CPUs and 0 GPUs;"),
        ([[{"CPU": 1.0}], [{"GPU": 0.5}]], [{"CPU": 2.0, "GPU": 1.0}], None),
        ([[{"CPU": 0.01}, {"CPU": 1.0}]], [{"CPU": 1.0}, {"CPU": 1.0}], None),
        ([[{"memory": 1e12}]], [{"CPU": 1.0}], None),  # Ray's own business
    ],
)
def test_what_no_machine_has_is_said(asked: Any, up: Any, said: str | None) -> None:
    found = lacking(asked, up)
    assert [sentence[: len(said or "")] for sentence in found] == ([] if said is None else [said])
    assert lacking(asked, up, grows=True) == []


def lines_of(script: str) -> list[str]:
    """What a Python of its own prints, without what a Ray of an earlier test had set for its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr
    return said.stdout.splitlines()


@pytest.mark.slow
def test_work_that_a_users_own_ray_has_no_room_for_is_said_while_it_waits() -> None:
    script = (
        "import ray; from ray_synth import runtime; from ray_synth.nodes import told_by_workers\n"
        "runtime.usable_cpus = lambda: 0\n"
        "with runtime.ray_session():  # not whatever cluster another test has up on this machine\n"
        "    waiting = ray.remote(lambda: 1).remote()\n"
        "    with told_by_workers(lambda sentence: print(sentence, flush=True)): ray.wait([waiting], timeout=12)"
    )
    assert lines_of(script) == lacking([[{"CPU": 1.0}]], [{}])


@pytest.mark.slow
def test_what_workers_say_reaches_who_watches_the_run() -> None:
    script = (
        "import ray, time; from ray_synth import runtime; from ray_synth.nodes import tell, told_by_workers\n"
        "def work():\n"
        "    for number in range(3): tell(f'packing {number} of 3')\n"
        "with runtime.ray_session(), told_by_workers(lambda sentence: print(sentence, flush=True)):\n"
        "    for _ in range(2): ray.get(ray.remote(work).remote()); time.sleep(6)"
    )
    assert lines_of(script) == ["packing 2 of 3"] * 2  # the latest


def busiest(nodes: list[Any]) -> Any:
    """The node whose workers have done most so far in what they do now."""

    def seconds(node: Any) -> float:
        found = 0.0
        for worker in psutil.Process(node.all_processes["raylet"][0].process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                if any(name in worker.cmdline()[0] for name in ("MapWorker", "TrainWorker", "ImplicitFunc")):
                    found += sum(worker.cpu_times()[:2])
        return found

    return max(nodes, key=seconds)


@pytest.mark.slow
@pytest.mark.long
def test_three_nodes_of_which_one_dies_in_each_stage_make_what_one_makes(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    alone, out = tmp_path / "alone", tmp_path / "run"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run(command(alone, "train", **TWO_AT_ONCE), env=environment, check=True, capture_output=True)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})  # so that workers do all the work
    try:
        workers = [cluster.add_node(**NODE) for _ in range(2)]
        # A Ray that ran in this process before may have turned the token on.
        environment |= {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}
        words = command(out, "train", **TWO_AT_ONCE)
        with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            for stage in ("generate", "sweep", "train"):
                wait_for(stage, process, out)
                assert process.poll() is None, f"over before a node died in {stage}: {process.communicate()[1]!r}"
                victim = busiest(workers)
                cluster.remove_node(victim, allow_graceful=False)
                assert not json.loads((out / "stages" / f"{stage}.json").read_text())["complete"]
                workers.remove(victim)
                workers.append(cluster.add_node(**NODE))
            _, errors = process.communicate(timeout=600)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, errors.decode()
    assert sorted(keys(out)) == sorted(keys(alone))
    for part in ("generator/", "synthetic/", "estimate.json"):
        found, expected = ({k: v for k, v in contents(run).items() if k.startswith(part)} for run in (out, alone))
        assert found == expected, part
    assert trials(out) == trials(alone)
    runs = [sorted(file.name for file in (run / "model" / "runs").glob("*.safetensors")) for run in (out, alone)]
    assert runs[0] == runs[1]
