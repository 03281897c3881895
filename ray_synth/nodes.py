"""The Ray cluster in, what it has and may come to have out; and whether all its nodes see the run folder."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from ray_synth.errors import InputError
from ray_synth.runs import RunFolder

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "9p", "fuse")
SEEN_WITHIN = 120.0  # seconds for a node to look


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
    import ray

    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = sum(node.get("CPU", 0) for node in up), tuple(int(node.get("GPU", 0)) for node in up)
    groups = list(_groups())
    possible = tuple(int(group.resources.get("GPU", 0)) for group, count in groups for _ in range(count))
    most_cpus = sum(group.resources.get("CPU", 0) * count for group, count in groups)
    return Nodes(
        cpus=cpus,
        gpus=gpus,
        most_cpus=max(cpus, most_cpus),
        most_gpus=possible if sum(possible) > sum(gpus) else gpus,
        grows=sum(count for _, count in groups) > len(up),
    )


def _groups() -> Iterable[tuple[object, int]]:
    """Kinds of nodes that the autoscaler knows, and how many there may be of each."""
    from ray._private.state import state

    config = state.get_cluster_config()  # as Ray Data's own autoscaler reads it
    for group in config.node_group_configs if config is not None else ():
        yield group, max(0, int(group.max_count))


def check_shared(folder: RunFolder) -> None:
    """Raise InputError for a run folder on one node's disk where there are, or may be, other nodes."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not folder.is_local:
        return
    here = ray.get_runtime_context().get_node_id()
    others = {
        node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here
    }
    if cluster_nodes().grows and not on_network(folder.root):
        raise InputError(
            f"output folder {folder.url} is on {socket.gethostname()}'s own disk, and this cluster adds nodes that do "
            "not see it; type --out s3://BUCKET/runs/NAME, or a folder of a disk that all nodes share"
        )
    name, look = f".seen-{uuid.uuid4().hex}", ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
    folder.write(name, b"")
    try:
        for node, address in others.items():
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            try:
                seen = ray.get(
                    look.options(scheduling_strategy=strategy).remote(folder.path(name)), timeout=SEEN_WITHIN
                )
            except ray.exceptions.RayError:
                continue  # a node that is going; who works on it looks again
            if not seen:
                raise InputError(
                    f"output folder {folder.url} is not shared: the node {address} does not see it; "
                    "type --out s3://BUCKET/runs/NAME, or a folder of a disk that all nodes share"
                )
    finally:
        folder.remove(name)


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
