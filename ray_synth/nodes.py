"""The Ray cluster in, what it has and may come to have out; work put where GPUs are, and what it says from there."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError, WorkError
from ray_synth.runs import RunFolder

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "9p", "fuse")
SEEN_WITHIN = 120.0  # seconds for a node to look
LACKS_FOR = 8.0  # seconds until it is said what no machine has
MACHINE_DEATHS = 3  # of the machine of one piece of work
CLUSTER_FILE = "ray-synth/autoscaling-config"  # the label of a head: a file of its home folder; cluster.yaml sets it
AHEAD = 2  # pieces of work that wait for each CPU
Given = TypeVar("Given")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """CPUs and GPUs: of the nodes that are up, and at most, with those that an autoscaler may add."""

    cpus: float
    gpus: tuple[int, ...]  # of each node that is up
    most_cpus: float
    most_gpus: tuple[int, ...]  # of each node that there may be
    grows: bool  # nodes may be added

    def gpu_slots(self, each: float, *, most: bool = False) -> int:
        """How many find room that hold so many GPUs: each lies on one node, and shares of a GPU on one GPU."""
        gpus = self.most_gpus if most else self.gpus
        return sum(fitting(number, each) for number in gpus)

    @property
    def on_gpus(self) -> bool:
        return any(self.most_gpus)


def fitting(gpus: int, each: float) -> int:
    """How many find room on one node that hold so many of its GPUs; shares of a GPU lie on one GPU."""
    return gpus * int(1 / each + 1e-6) if each < 1 else int(gpus / each)


def cluster_nodes() -> Nodes:
    """What Ray, which must be up, has and may have."""
    return nodes_of([node["Resources"] for node in _alive()], _cluster_file())


def tell(line: str) -> None:
    """Say something from wherever work is done: to who watches the run (`told_by_workers`), whose terminal workers do
    not write to; without Ray on standard error. Of a machine's lines the latest waits to be read."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        print(line, file=sys.stderr, flush=True)
        return
    from ray.experimental.internal_kv import _internal_kv_put

    with suppress(Exception):  # Ray goes; the work itself will say so
        _internal_kv_put(socket.gethostname(), line.encode(errors="replace"), overwrite=True, namespace=_lines())


def _told() -> Iterator[str]:
    """What workers have said since this was asked last."""
    from ray.experimental import internal_kv as kv

    for machine in kv._internal_kv_list("", namespace=_lines()):
        line = kv._internal_kv_get(machine, namespace=_lines())
        kv._internal_kv_del(machine, namespace=_lines())
        if line is not None:
            yield line.decode()


def _lines() -> str:
    """Where the lines of this run's workers lie: another run may be on the same cluster."""
    import ray

    return f"ray_synth-lines-{ray.get_runtime_context().get_job_id()}"


@contextmanager
def told_by_workers(say: Callable[[str], None]) -> Iterator[None]:
    """While work is done on Ray, which must be up: what workers `tell`, and of work that no machine has room for,
    which would wait without a word."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, say), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1)


def _watch(over: threading.Event, say: Callable[[str], None]) -> None:
    before, told = set[str](), set[str]()
    while not over.wait(LACKS_FOR / 2):
        lines = list[str]()
        try:
            lines += _told()
            lack = set(lacking(_asked_for(), [node["Resources"] for node in _alive()], grows=cluster_nodes().grows))
        except Exception:  # Ray comes or goes; the work itself will say so
            lack = set()
        new = sorted((lack & before) - told)
        for line in (*lines, *new):
            say(line)
        told |= set(new)
        before = lack


def _asked_for() -> list[list[dict[str, float]]]:
    """What waits for room: alone, or several that must find room at once."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    found = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands
    alone = [[each.bundle] for demand in found.ray_task_actor_demand for each in demand.bundles_by_count]
    together = [
        [each.bundle for each in demand.bundles_by_count for _ in range(each.count)]
        for demand in found.placement_group_demand
    ]
    return alone + together


def lacking(
    asked: Iterable[Sequence[Mapping[str, float]]], up: Sequence[Mapping[str, float]], *, grows: bool = False
) -> list[str]:
    """A sentence for each thing asked for that the machines which are up could not give even if nothing else ran.

    asked: resources that must find room at once, each on one machine. grows: more machines come when asked for.
    """
    sentences = []
    for parts in asked:
        kinds = {kind for part in parts for kind, amount in part.items() if amount and kind in ("CPU", "GPU")}
        fits = all(any(all(node.get(kind, 0) >= part.get(kind, 0) for kind in kinds) for node in up) for part in parts)
        wanted = {kind: sum(part.get(kind, 0) for part in parts) for kind in sorted(kinds)}
        enough = all(sum(node.get(kind, 0) for node in up) >= amount for kind, amount in wanted.items())
        if grows or (fits and enough):
            continue
        one = "" if len(parts) == 1 else f" in {len(parts)} parts"
        sentences.append(
            f"waiting for {_amounts(wanted)}{one}: this Ray has {_machines(up)}; give it more (ray.init(num_cpus=...), "
            "ray start --num-cpus=...), or end it (ray.shutdown()) and run again: then one is started here"
        )
    return sentences


def _amounts(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}{'' if amount == 1 else 's'}" for kind, amount in amounts.items())


def _machines(up: Sequence[Mapping[str, float]]) -> str:
    of_each = [_amounts({kind: node.get(kind, 0) for kind in ("CPU", "GPU")}) for node in up]
    return "; ".join(f"{of_each.count(one)} x {one}" for one in dict.fromkeys(of_each)) if len(up) > 1 else of_each[0]


def _alive() -> list[Mapping[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def nodes_of(up: Sequence[Mapping[str, float]], cluster: Mapping[str, Any]) -> Nodes:
    """up: resources of each node that is up. cluster: what cluster.yaml became, or nothing."""
    cpus, gpus = sum(node.get("CPU", 0) for node in up), tuple(int(node.get("GPU", 0)) for node in up)
    most_cpus = sum(node.get("CPU", 0) for node in _largest(cluster, "CPU"))
    possible = tuple(int(node.get("GPU", 0)) for node in _largest(cluster, "GPU"))
    return Nodes(
        cpus=cpus,
        gpus=gpus,
        most_cpus=max(cpus, most_cpus),
        most_gpus=possible if sum(possible) > sum(gpus) else gpus,
        grows=len(possible) > len(up),
    )


def _largest(cluster: Mapping[str, Any], resource: str) -> list[Mapping[str, float]]:
    """Resources of each node of the cluster with most of a resource that the autoscaler may build: the head and, within
    the limits of each kind and of all kinds together, others."""
    kinds: Mapping[str, Any] = cluster.get("available_node_types") or {}
    head = str(cluster.get("head_node_type") or next(iter(kinds), ""))
    nodes = [kinds[head].get("resources") or {}] if head in kinds else []
    limit = int(cluster.get("max_workers") or 0)
    workers = [kind for name, kind in kinds.items() if name != head or len(kinds) == 1]
    for kind in sorted(workers, key=lambda kind: -(kind.get("resources") or {}).get(resource, 0)):
        count = min(limit, int(kind.get("max_workers", limit)))
        nodes += [kind.get("resources") or {}] * count
        limit -= count
    return nodes


def _cluster_file() -> Mapping[str, Any]:
    """What cluster.yaml became, by which the autoscaler of this cluster works, where this is the head; else nothing.

    Ray tells it nobody but its autoscaler (its own `get_cluster_config` is never filled), so cluster.yaml gives the
    head a label that names the file: a Ray that merely runs on the same machine has none.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    name = next((node["Labels"].get(CLUSTER_FILE) for node in _alive() if node["NodeID"] == here), None)
    if name is None:
        return {}
    file = Path(os.path.expanduser("~"), name)
    try:
        found = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, InputError) as error:
        raise InputError(
            f"{file} cannot be read: {error}; this Ray's head has the label {CLUSTER_FILE}={name}, so that file must "
            "be the one of its --autoscaling-config"
        ) from None
    return found if isinstance(found, dict) else {}


def on_gpu_node(function: Callable[..., Iterator[T]], *arguments: Any) -> Iterator[T]:
    """What a generator function yields: in this process, or, where the cluster has or may have GPUs and this machine
    has none, in one that holds a GPU. When that one's machine dies it begins again, and so does what it yields.

    Raises:
        WorkError: machines died under it more often than MACHINE_DEATHS times.
    """
    import ray
    import torch

    if torch.cuda.is_available() or not ray.is_initialized() or not cluster_nodes().on_gpus:
        yield from function(*arguments)
        return
    shared = [ray.put(argument) for argument in arguments]
    task = ray.remote(num_cpus=0, num_gpus=1, max_retries=0, num_returns="streaming")(function)
    for death in range(MACHINE_DEATHS + 1):
        try:
            for value in task.remote(*shared):
                yield ray.get(value)
            return
        except ray.exceptions.RayTaskError:
            raise  # the function's own
        except ray.exceptions.RayError as error:
            if death == MACHINE_DEATHS:
                raise WorkError(
                    f"machines died under {function.__name__} {MACHINE_DEATHS + 1} times: {error}"
                ) from error


def through_nodes(function: Callable[[Given], T], arguments: Sequence[Given]) -> Iterator[T]:
    """function(argument) of each, in their order, by all CPUs of the cluster, which must be up. What a node that dies
    was given is done again."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=MACHINE_DEATHS, scheduling_strategy="SPREAD")(function)
    waiting: deque[Any] = deque()
    following = iter(arguments)
    while True:
        room = AHEAD * max(1, int(cluster_nodes().cpus)) - len(waiting)
        waiting.extend(task.remote(argument) for argument in itertools.islice(following, room))
        if not waiting:
            return
        try:
            yield ray.get(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # the function's own


def check_shared(folder: RunFolder) -> None:
    """Raise InputError for a run folder on one node's disk where there are, or may be, other nodes."""
    if not folder.is_local:
        return
    if cluster_nodes().grows and not on_network(folder.root):
        raise InputError(
            f"output folder {folder.url} is on {socket.gethostname()}'s own disk, and this cluster adds nodes that do "
            "not see it; type --out s3://BUCKET/runs/NAME, or a folder of a disk that all nodes share"
        )
    name = f".seen-{uuid.uuid4().hex}"
    folder.write(name, b"")
    try:
        address = blind_to(folder.path(name))
    finally:
        folder.remove(name)
    if address is not None:
        raise InputError(
            f"output folder {folder.url} is not shared: the node {address} does not see it; "
            "type --out s3://BUCKET/runs/NAME, or a folder of a disk that all nodes share"
        )


def blind_to(path: str) -> str | None:
    """The address of a node that does not see a file of this one; None where all do. Ray must be up."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = {node["NodeID"]: node["NodeManagerAddress"] for node in _alive() if node["NodeID"] != here}
    look = ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
    for node, address in others.items():
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        try:
            if not ray.get(look.options(scheduling_strategy=strategy).remote(path), timeout=SEEN_WITHIN):
                return str(address)
        except ray.exceptions.RayError:
            continue  # a node that is going; who works on it looks again
    return None


def on_network(path: str) -> bool:
    """Whether a path lies on a network file system. Not known (no /proc/mounts): no."""
    try:
        with open("/proc/mounts", encoding="utf-8") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:
        return False
    real = os.path.realpath(path)
    within = [(place, kind) for place, kind in mounts if f"{real}/".startswith(f"{place.rstrip('/')}/")]
    kind = max(within, key=lambda mount: len(mount[0]), default=("", ""))[1]
    return kind.split(".")[0] in NETWORK
