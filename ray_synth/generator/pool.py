"""Descriptions of work in, their results out as they finish: Ray Data over an elastic pool of actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ray_synth.torch_ops import keep_freed_memory

BLOCKS_PER_ACTOR = 32  # enough to balance the load
ITEMS_PER_BLOCK = 64  # few enough that a block is soon done


def on_gpus() -> bool:
    import ray

    return bool(ray.cluster_resources().get("GPU", 0))


def num_slots(gpus_per_actor: float = 1.0) -> int:
    """How many actors find room now."""
    import ray

    resources = ray.cluster_resources()
    if on_gpus():
        per_gpu = resources["GPU"] / gpus_per_actor
        return max(1, int(per_gpu + 1e-6))
    return max(1, int(resources.get("CPU", 1)))


def over_pool(
    items: Sequence[dict[str, Any]],
    worker: type,
    arguments: Sequence[Any],
    shared: Any,
    *,
    pool: tuple[int, int] | None = None,
    gpus_per_actor: float = 1.0,
    concurrent: int = 1,
) -> Iterator[dict[str, Any]]:
    """Rows that `worker(*arguments, shared, device)` makes of the items. Ray must be up.

    Args:
        shared: lies once in each machine's memory, whatever the number of actors.
        pool: least and most actors; default one for each CPU, or for each share of a GPU.
        concurrent: calls at once in an actor; above 1 the worker guards what must not overlap.
    """
    import ray

    gpus, slots = on_gpus(), num_slots(gpus_per_actor)
    low, high = pool or (slots, slots)
    # More actors than find room would wait for ever, without a word, if the pool had to begin with them.
    low, high = min(low, slots, len(items)), min(high, len(items))
    blocks = min(len(items), max(BLOCKS_PER_ACTOR * high, len(items) // ITEMS_PER_BLOCK))
    dataset = ray.data.from_items(list(items), override_num_blocks=blocks).map_batches(
        _Worker,
        fn_constructor_args=(worker, tuple(arguments), ray.put(shared), "cuda" if gpus else "cpu"),
        batch_size=1,
        num_cpus=0 if gpus else 1,
        num_gpus=gpus_per_actor if gpus else 0,
        compute=ray.data.ActorPoolStrategy(
            min_size=low,
            max_size=high,
            max_tasks_in_flight_per_actor=2 * concurrent,
            max_concurrent_calls_per_actor=concurrent,
            enable_true_multi_threading=concurrent > 1,
        ),
    )
    yield from dataset.iter_rows()


class _Worker:
    """Fetches what is shared, and is the worker from there on."""

    def __init__(self, worker: type, arguments: tuple[Any, ...], shared: Any, device: str):
        import ray

        keep_freed_memory()
        self.call = worker(*arguments, ray.get(shared), device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self.call(batch)
        return result
