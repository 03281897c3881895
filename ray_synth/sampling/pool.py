"""Descriptions of work in, their results out as they finish: Ray Data over an elastic pool of actors."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from ray_synth.errors import InputError, Spoiled, WorkError
from ray_synth.nodes import Nodes, cluster_nodes
from ray_synth.torch_ops import keep_freed_memory

MAX_BLOCKS = 20_000  # what a block gives is seen when all of it is done; more of them are a burden to the driver


def num_slots(nodes: Nodes, gpus_per_actor: float = 1.0) -> tuple[int, int]:
    """How many actors find room now, and at most when an autoscaler has added the nodes that it may.

    Raises:
        InputError: no machine has, or could have, as many GPUs as one actor asks for.
    """
    if not nodes.on_gpus:
        return max(1, int(nodes.cpus)), max(1, int(nodes.most_cpus))
    most = nodes.gpu_slots(gpus_per_actor, most=True)
    if not most:
        raise InputError(
            f"generate.gpus_per_actor must be <= {max(nodes.most_gpus)}, the GPUs of one machine, got "
            f"{gpus_per_actor:g}; type --set generate.gpus_per_actor=1"
        )
    return max(1, nodes.gpu_slots(gpus_per_actor)), most


def over_pool(
    items: Sequence[dict[str, Any]],
    worker: type,
    arguments: Sequence[Any],
    shared: Any,
    *,
    pool: tuple[int, int] | None = None,
    gpus_per_actor: float = 1.0,
    concurrent: int = 1,
) -> Iterator[Any]:
    """What `worker(*arguments, shared, device)(item)` gives for each item, as they finish. Ray must be up.

    Args:
        shared: lies once in each machine's memory, whatever the number of actors.
        pool: least and most actors; default one for each CPU, or for each share of a GPU.
        concurrent: calls at once in an actor; above 1 the worker guards what must not overlap.

    Raises:
        InputError, WorkError: what a worker raised; any other error of it as a WorkError, with its trace as a note.
    """
    import ray

    nodes = cluster_nodes()
    gpus, (now, most) = nodes.on_gpus, num_slots(nodes, gpus_per_actor)
    # Actors that find no room wait without a word. Where nodes can be added their waiting is what brings them, all at
    # once; the pool begins with those that are there.
    room = most if nodes.grows else now
    low, high = pool or (room, most)
    low, high = min(low, room, len(items)), min(high, len(items))
    texts = [{"item": json.dumps(item)} for item in items]
    dataset = ray.data.from_items(texts, override_num_blocks=min(len(items), MAX_BLOCKS)).map_batches(
        _Worker,
        fn_constructor_args=(worker, tuple(arguments), ray.put(shared), "cuda" if gpus else "cpu"),
        batch_size=1,
        num_cpus=0 if gpus else 1,
        num_gpus=gpus_per_actor if gpus else 0,
        compute=ray.data.ActorPoolStrategy(
            min_size=low,
            max_size=high,
            # No more: what is handed to an actor waits for it where its machine dies.
            max_tasks_in_flight_per_actor=concurrent,
            max_concurrent_calls_per_actor=concurrent,
            enable_true_multi_threading=concurrent > 1,
        ),
    )
    for row in dataset.iter_rows():
        if row["error"]:
            known = {"InputError": InputError, "Spoiled": Spoiled}
            error: Exception = known.get(row["kind"], WorkError)(row["error"], *json.loads(row["result"] or "[]"))
            error.add_note(row["trace"])
            raise error
        yield json.loads(row["result"])


class _Worker:
    """Fetches what is shared, and is the worker from there on.

    An error is a result like any other: Ray would wrap it until nobody knows what it was.
    """

    def __init__(self, worker: type, arguments: tuple[Any, ...], shared: Any, device: str):
        import ray

        keep_freed_memory()
        self.failed: dict[str, str] | None = None
        try:
            self.call = worker(*arguments, ray.get(shared), device)
        except Exception as error:
            self.failed = _told(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        row = self.failed
        if row is None:
            try:
                result = self.call(json.loads(batch["item"][0]))
                row = {"result": json.dumps(result), "error": "", "kind": "", "trace": ""}
            except Exception as error:
                row = _told(error)
        return {name: [text] for name, text in row.items()}


def _told(error: Exception) -> dict[str, str]:
    kind = type(error).__name__
    known = isinstance(error, InputError | WorkError)
    text = str(error) if known else f"{kind}: {(str(error).splitlines() or [''])[0]}"
    names = json.dumps(error.names) if isinstance(error, Spoiled) else ""
    return {"result": names, "error": text or kind, "kind": kind, "trace": traceback.format_exc()}
