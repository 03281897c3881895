"""Stages and a GPU's name, a file or a calibration in; seconds per unit of their tasks, with uncertainty, out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ray_synth.config import digest
from ray_synth.errors import InputError
from ray_synth.hardware.gpus import gpu_named, table
from ray_synth.hardware.measure import NOTHING, Measure
from ray_synth.stages.stage import Stage

STRAGGLER = 3.0
NOT_FAR = 0.05  # part by which numbers of images may differ from those that were measured on


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds of one worker (a GPU, or a CPU where there is none) per unit of the tasks of one experiment.

    slots: GPUs or CPUs of a node. limits: what does not grow with the nodes, a second over all of them.
    """

    hardware: str
    kind: str  # gpu | cpu
    slots: int
    seconds: Mapping[str, Measure]  # unit -> what one takes
    limits: Mapping[str, Measure]
    start: Measure
    ray_start: Measure
    node_start: Measure
    replacement: Measure
    interruptions: Measure  # of a node, per hour
    jitter: Measure  # standard deviation of the logarithm of one chunk's time
    stragglers: Measure  # share of chunks that take STRAGGLER times as long
    data_parallel: Measure  # what each of several workers of one training is worth
    price: Measure | None = None  # of a node, per hour, in dollars
    spot_price: Measure | None = None
    image_bytes: float | None = None  # of an image file, where it was measured
    prices_read: str = ""
    measured_for: Mapping[str, str | int] = field(default_factory=dict)  # what they hold for; nothing: published

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def shares(self) -> bool:
        """Whether what works on a GPU at once shares its speed. Published rates are those of one process with a GPU to
        itself; measured ones are of a machine with all slots busy, and hold this already."""
        return not self.measured_for

    def measures(self) -> dict[str, Measure]:
        """Every number, by name."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**{k: v for k, v in own.items() if isinstance(v, Measure)}, **self.limits, **self.seconds}

    def holding_for(self, stages: Iterable[Stage]) -> Rates:
        """The same, when they were measured on what these stages train and sample.

        Raises:
            InputError: they were measured on something else.
        """
        cure = "leave --rates out to measure again, or type --gpu NAME for published ones"
        for name, value in measured_with(stages).items():
            measured = self.measured_for.get(name, value)
            if isinstance(value, int) and isinstance(measured, int):
                if abs(measured - value) > NOT_FAR * max(measured, value):
                    raise InputError(
                        f"these rates were measured with {measured:,} {name}, and there are {value:,}; {cure}"
                    )
            elif measured != value:
                raise InputError(f"these rates were measured with another {name}; {cure}")
        return self


def measured_with(stages: Iterable[Stage]) -> dict[str, str | int]:
    """What measured rates hold for."""
    found: dict[str, str | int] = {}
    for stage in stages:
        found["image shape"] = digest(list(stage.inputs.shape))
        found |= stage.measured_with()
    return found


# Files.


def load_rates(path: str | Path) -> Rates:
    """Raises InputError for a file that holds no rates."""
    try:
        raw = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"rates file not found: {path}; make one with --calibrate --save-rates {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"rates file {path} cannot be read: {error}; make one with --calibrate --save-rates") from None
    try:
        values: dict[str, Any] = {name: _read(value) for name, value in raw.items()}
        missing = [name for name in ("seconds", "limits", "start", "slots") if name not in values]
        if missing or not all(isinstance(each, Measure) for each in values["seconds"].values()):
            raise ValueError(f"no {missing[0]}" if missing else "seconds of a unit are not a measure")
        return Rates(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"rates file {path} does not hold rates ({error}); make one with --calibrate --save-rates {path}"
        ) from None


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return Measure.read(value) if "origin" in value else {name: _read(each) for name, each in value.items()}
    return value


def save_rates(rates: Rates, path: str | Path) -> None:
    """Raises InputError where the file cannot be written."""
    try:
        Path(path).write_text(json.dumps(rates.to_dict(), indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another with --save-rates FILE") from None


# What is published, and what was measured.


def gpu_rates(name: str, stages: Iterable[Stage], *, gpus_per_node: int | None = None) -> Rates:
    """The published rates of a GPU, scaled to what stages do.

    Raises:
        InputError: a GPU that is not in the table.
    """
    gpu = gpu_named(name)
    slots = gpus_per_node or gpu.gpus_per_node
    seconds: dict[str, Measure] = {}
    for stage in stages:
        seconds |= stage.published(gpu)
    share, over = slots / gpu.gpus_per_node, gpu.overheads
    return Rates(
        hardware=gpu.name,
        kind="gpu",
        slots=slots,
        seconds=seconds,
        limits=table()["limits"],
        data_parallel=gpu.flops["data_parallel"],
        interruptions=gpu.rates["interruptions"],
        price=gpu.rates["price"].times(share),
        spot_price=gpu.rates["spot_price"].times(share),
        prices_read=table()["prices_read"],
        start=over["start"],
        ray_start=over["ray_start"],
        node_start=over["node_start"],
        replacement=over["replacement"],
        jitter=over["jitter"],
        stragglers=over["stragglers"],
    )


def measured_rates(
    found: Mapping[str, Measure], stages: Iterable[Stage], *, cpus: int, gpus: int, image_bytes: float | None
) -> Rates:
    """What a calibration found; what it cannot measure is the table's, or nothing."""
    seconds, known = dict(found), table()
    return Rates(
        hardware=f"{gpus} GPUs here" if gpus else f"{cpus} CPUs here",
        kind="gpu" if gpus else "cpu",
        slots=gpus or cpus,
        start=seconds.pop("start", NOTHING),
        ray_start=seconds.pop("ray_start", NOTHING),
        jitter=seconds.pop("jitter", NOTHING),
        seconds=seconds,
        limits=known["limits"],
        replacement=known["overheads"]["replacement"],
        data_parallel=known["flops"]["data_parallel"],
        node_start=NOTHING,
        interruptions=NOTHING,
        stragglers=NOTHING,
        image_bytes=image_bytes,
        measured_for=measured_with(stages),
    )


def priced(
    rates: Rates, *, price: float | None, spot_interruptions: float | None, gpus_per_node: int | None = None
) -> Rates:
    """The same with what the command line says of money, interruptions and nodes.

    Raises:
        InputError: numbers that do not do.
    """
    if price is not None:
        if not 0 <= price < math.inf:
            raise InputError(f"--price must be >= 0 dollars an hour and node, got {price:g}; type --price 1.2")
        given = Measure(value=price, sigma=0.0, origin="--price")
        spot = rates.spot_price and rates.price and given.times(rates.spot_price.value / rates.price.value)
        rates = replace(rates, price=given, spot_price=spot or None)
    if spot_interruptions is not None:
        if not 0 <= spot_interruptions <= 60:
            raise InputError(
                f"--spot-interruptions must be between 0 and 60 per node and hour, got {spot_interruptions:g}; "
                "type --spot-interruptions 0.05"
            )
        given = Measure(value=spot_interruptions, sigma=0.0, origin="--spot-interruptions")
        rates = replace(rates, interruptions=given)
    if gpus_per_node is not None and rates.slots != gpus_per_node:
        rates = replace(rates, slots=gpus_per_node)
    return rates
