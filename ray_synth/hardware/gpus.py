"""A GPU's name in, its published rates and prices out, from gpus.yaml: every number with its origin."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError
from ray_synth.hardware.measure import Measure

TABLE = Path(__file__).with_name("gpus.yaml")
FORWARD_AND_BACK = 3  # forward passes that a training step costs


FUSES_BFLOAT16 = 8.0  # compute capability from which torch has fused attention in bfloat16


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU: its memory in bytes, and whether attention in bfloat16 keeps no matrix of all tokens by all there."""

    name: str
    memory: int
    fuses_bfloat16: bool


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """rates: seconds, images a second and prices of this GPU; flops: what models cost; overheads: what stages take
    whatever they do, on the CPUs of a node."""

    name: str
    gpus_per_node: int
    rates: Mapping[str, Measure]
    flops: Mapping[str, Measure]
    overheads: Mapping[str, Measure]

    @property
    def card(self) -> Card:
        memory, capability = (self.rates[name].value for name in ("memory", "compute_capability"))
        return Card(name=self.name, memory=round(memory * 2**30), fuses_bfloat16=capability >= FUSES_BFLOAT16)

    def small_network(self, flops: float) -> Measure:
        """Seconds of so many operations of a network of tiny images."""
        step, small = self.rates["step"], self.flops["small_network"]
        note = f"scaled to {flops:.2g} FLOP (counted by torch); {small.origin}"
        return step.times(flops / self.flops["step"].value / small.value, sigma=small.sigma, note=note)


def card_here() -> Card | None:
    """The GPU with the least memory of this machine; None where there is none, or a cluster does the work."""
    import torch

    if os.environ.get("RAY_ADDRESS") or not torch.cuda.is_available():
        return None
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    least = min(found, key=lambda one: one.total_memory)
    capability = least.major + least.minor / 10
    return Card(name=least.name, memory=least.total_memory, fuses_bfloat16=capability >= FUSES_BFLOAT16)


@functools.cache
def table() -> dict[str, Any]:
    """gpus.yaml, its numbers as measures."""

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return Measure.read(value) if "origin" in value else {name: read(each) for name, each in value.items()}
        return value

    read_table: dict[str, Any] = read(read_yaml(TABLE.read_text()))
    return read_table


def gpu_names() -> list[str]:
    return list(table()["gpus"])


def gpu_named(name: str) -> Gpu:
    """Raises InputError for a GPU that is not in the table."""
    known = {gpu.lower(): gpu for gpu in gpu_names()}
    if name.lower() not in known:
        raise InputError(
            f"--gpu must be one of {', '.join(gpu_names())}, got {name!r}; for another one type "
            "--calibrate --save-rates FILE on it, and --rates FILE here"
        )
    row = table()["gpus"][known[name.lower()]]
    return Gpu(
        name=known[name.lower()],
        gpus_per_node=row["gpus_per_node"],
        rates={key: value for key, value in row.items() if isinstance(value, Measure)},
        flops=table()["flops"],
        overheads=table()["overheads"],
    )
