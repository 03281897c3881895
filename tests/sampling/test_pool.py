"""How many actors find room, and what is said of an error in one of them."""

from __future__ import annotations

import json

import pytest
import ray

from ray_synth.errors import InputError, WorkError
from ray_synth.nodes import Nodes
from ray_synth.sampling.pool import _Worker, num_slots


@pytest.mark.parametrize(
    ("nodes", "share", "slots"),
    [([1], 1, 1), ([1], 0.5, 2), ([2], 0.6, 2), ([4, 1], 2, 2), ([8, 8], 1, 16), ([0, 1], 0.25, 4)],
)
def test_an_actor_lies_on_one_machine_and_shares_one_gpu(nodes: list[int], share: float, slots: int) -> None:
    there = Nodes(cpus=8, gpus=tuple(nodes), most_cpus=8, most_gpus=tuple(nodes), grows=False)
    assert num_slots(there, share) == (slots, slots)
    with pytest.raises(InputError, match="gpus_per_actor must be <="):
        num_slots(there, 16)


def test_a_cluster_that_begins_without_gpus_is_one_of_those_that_it_may_add() -> None:
    grows = Nodes(cpus=4, gpus=(0,), most_cpus=36, most_gpus=(0, 8, 8), grows=True)
    assert grows.on_gpus
    assert num_slots(grows, 1) == (1, 16)  # one actor waits, and its waiting brings a node
    assert num_slots(grows, 0.5) == (1, 32)
    assert num_slots(Nodes(cpus=2, gpus=(0,), most_cpus=8, most_gpus=(0,), grows=True)) == (2, 8)


class Failing:
    def __init__(self, error: Exception | None, shared: object, device: str):
        if isinstance(error, InputError):
            raise error
        self.error = error

    def __call__(self, item: dict[str, int]) -> int:
        if self.error is not None and item["n"] == 1:
            raise self.error
        return item["n"] + 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("wrong weights"), "wrong weights"),
        (WorkError("no space"), "no space"),
        (ValueError("odd\nmore"), "ValueError: odd"),
        (ZeroDivisionError(), "ZeroDivisionError: "),
    ],
)
def test_an_error_is_a_result_that_says_what_it_was(
    monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    monkeypatch.setattr(ray, "get", lambda shared: shared)
    row = _Worker(Failing, (error,), None, "cpu")({"item": [json.dumps({"n": 1})]})
    assert row["error"] == [text]
    assert row["kind"] == [type(error).__name__]
    assert "Traceback" in row["trace"][0]
    fine = _Worker(Failing, (None,), None, "cpu")({"item": [json.dumps({"n": 1})]})
    assert (json.loads(fine["result"][0]), fine["error"]) == (2, [""])
