"""What stages say is left, rates and numbers of nodes in; hours, wall time, storage and money with their intervals out.

Every rate is drawn from its uncertainty, the same draws for every number of nodes, and the work is then simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ray_synth.errors import InputError
from ray_synth.planning.rates import Rates
from ray_synth.planning.run import HOUR, Draws, PlannedRun, bytes_of, held
from ray_synth.planning.work import Work
from ray_synth.tasks import Alternative, InPool, InSlots, Task, Tasks

BEND = 0.5  # of what a node brings while everything scales: below it the curve has bent
MOST_NODES = 100_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The median of the repetitions and what nine in ten of them lie in."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Interval:
        low, median, high = np.percentile(values, [5, 50, 95])
        return cls(median=float(median), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage: what it does, the hours of its workers, its wall seconds and what a worker takes of a GPU's memory,
    where that is known."""

    name: str
    work: str
    hours: Interval
    wall: Interval
    gpu_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of nodes. money, spot: None without prices. efficiency: of the speed-up over the fewest nodes."""

    nodes: int
    wall: Interval
    wall_spot: Interval
    money: Interval | None
    spot: Interval | None
    efficiency: float


@dataclass(frozen=True, kw_only=True)
class Bend:
    """Where more nodes bring less than half of what they should, and why: data, actors, head node, storage, training
    or start-up."""

    nodes: int
    cause: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What training once at the predicted ratio saves against the full sweep: of training, and with the images.

    everything: None where no image was sampled to know what one takes.
    """

    trainings: float
    everything: float | None
    trials: int
    bound: float  # of trainings, if no trial were stopped early


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will cost."""

    name: str
    hardware: str
    kind: str
    nodes: int
    slots: int
    images: int
    chunks: int
    bytes_written: int
    bytes_in_all: int
    complete: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    hours: Interval
    scaling: tuple[Point, ...]
    bend: Bend | None
    saving: Saving | None
    prices_read: str
    notes: tuple[str, ...]
    origins: dict[str, str]

    @property
    def here(self) -> Point:
        """The first number of nodes that was asked for."""
        return self.scaling[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        raw = asdict(self)
        return {**raw, **{name: list(raw[name]) for name in ("complete", "stages", "scaling", "notes")}}


def plan(work: Work, rates: Rates, nodes: Sequence[int] = (1,), *, seed: int = 0) -> Plan:
    """Raises InputError for numbers of nodes that do not do."""
    check_nodes(nodes)
    work = _with_measured_bytes(work, rates)
    draws = Draws(rates, seed)
    runs = [PlannedRun(work, draws, count, spot=False) for count in sorted(set(nodes))]
    on_spot = [PlannedRun(work, draws, count, spot=True) for count in sorted(set(nodes))]
    points = tuple(_point(each, spot, runs[0]) for each, spot in zip(runs, on_spot, strict=True))
    first = runs[0]
    written = sum(bytes_of(group, way) for group, way in work.pools)
    there = sum(way.images_there * way.image_bytes + way.files_there * way.file_bytes for _, way in work.pools[:1])
    return Plan(
        name=work.name,
        hardware=rates.hardware,
        kind=rates.kind,
        nodes=first.nodes,
        slots=rates.slots,
        images=round(sum(group.total("image") for group, _ in work.pools)),
        chunks=sum(len(group.tasks) for group, _ in work.pools),
        bytes_written=round(written),
        bytes_in_all=round(written + there),
        complete=work.complete,
        stages=_stages(first),
        hours=Interval.of(first.hours),
        scaling=points,
        bend=_bend(runs),
        saving=_saving(work.alternative, first) if work.alternative is not None else None,
        prices_read=rates.prices_read,
        notes=(*work.notes, *_rate_notes(rates), *_spot_notes(on_spot[0])),
        origins=_origins(rates),
    )


def _with_measured_bytes(work: Work, rates: Rates) -> Work:
    """Files as large as those that were measured, where the run folder holds none that says better."""
    each = rates.image_bytes
    if not each:
        return work

    def sized(group: Tasks) -> Tasks:
        if not isinstance(group.way, InPool) or group.way.images_there:
            return group
        return replace(group, way=replace(group.way, image_bytes=each))

    return replace(work, stages=tuple(replace(s, groups=tuple(map(sized, s.groups))) for s in work.stages))


def check_nodes(nodes: Sequence[int]) -> None:
    wrong = [count for count in nodes if not 1 <= count <= MOST_NODES]
    if not nodes or wrong:
        got = wrong[0] if wrong else "none"
        raise InputError(f"--nodes takes whole numbers from 1 to {MOST_NODES:,}, got {got}; type --nodes 1,2,4,8")


def _stages(run: PlannedRun) -> tuple[StagePlan, ...]:
    said = {"start": "imports, reading the data, nodes"} | {stage.name: stage.plan for stage in run.work.stages}
    for name, kept in run.kept.items():
        said[name] += f", {kept:.0%} of them after early stops"
    memory = {stage.name: stage.gpu_bytes for stage in run.work.stages}
    return tuple(
        StagePlan(
            name=name,
            work=said[name],
            hours=Interval.of(run.worker[name] / HOUR),
            wall=Interval.of(wall),
            gpu_bytes=memory.get(name),
        )
        for name, wall in run.wall.items()
    )


def _point(run: PlannedRun, on_spot: PlannedRun, fewest: PlannedRun) -> Point:
    d = run.draws
    money = Interval.of(run.node_hours * d["price"]) if run.rates.price is not None else None
    spot = Interval.of(on_spot.node_hours * d["spot_price"]) if run.rates.spot_price is not None else None
    return Point(
        nodes=run.nodes,
        wall=Interval.of(run.total),
        wall_spot=Interval.of(on_spot.total),
        money=money,
        spot=spot,
        efficiency=float(np.median(fewest.total) * fewest.nodes / (np.median(run.total) * run.nodes)),
    )


REASONS = {
    "actors": "generate.num_actors allows no more actors; leave it out for as many as the cluster has room for",
    "data": "there are too few chunks or trials to keep all of them busy",
    "head node": "the driver and one machine alone train the generator, read the images back, estimate and evaluate",
    "storage": "shared storage takes no more files or bytes a second",
    "adapters": "adapters are trained by generator.finetune.num_workers workers, one after the other",
    "training": "the final trainings run on classifier.num_workers workers, one after the other",
    "start-up": "nodes, models, Ray, Tune and Train take their time to start",
}


def _bend(runs: Sequence[PlannedRun]) -> Bend | None:
    """The first number of nodes that brings less than half of what it should, and what holds it up most."""
    fewest = runs[0]
    for run in runs[1:]:
        efficiency = np.median(fewest.total) * fewest.nodes / (np.median(run.total) * run.nodes)
        if efficiency < BEND:
            cause = max(run.lost, key=lambda name: float(np.median(run.lost[name])))
            return Bend(nodes=run.nodes, cause=cause, reason=REASONS[cause])
    return None


def _saving(other: Alternative, run: PlannedRun) -> Saving | None:
    """Against every trial of the sweep, whatever of it is done already; None where no trial was measured."""
    draws, way = run.draws, other.tasks.way
    units = {unit for task in (*other.tasks.tasks, other.instead) for unit in task.takes}
    if not isinstance(way, InSlots) or not other.tasks.tasks or not units <= draws.values.keys():
        return None
    slots, each = max(1, run.slots_of(way)), run.trial_holds(way)
    slowed = run.slowed(each, slots)

    def gpu_seconds(task: Task) -> float:
        return float(np.median(run.training_seconds(task, workers=way.workers, slowed=slowed)[0])) * held(each)

    once = gpu_seconds(other.instead)
    trials = float(np.median(run.trial_seconds(other.tasks.tasks, way, slots).sum(axis=1))) * held(each)
    bound = sum(map(gpu_seconds, other.tasks.tasks))
    if not trials:
        return None
    everything = None
    if "image" in draws.values:
        holds = run.actor_holds(other.pool)
        image = float(np.median(draws["image"])) * run.slowed(holds, run.nodes * run.rates.slots) * held(holds)
        everything = float(1 - (once + other.images_instead * image) / (trials + other.images * image))
    return Saving(
        trainings=float(1 - once / trials),
        everything=everything,
        trials=len(other.tasks.tasks),
        bound=float(1 - once / bound),
    )


def _spot_notes(run: PlannedRun) -> list[str]:
    if not run.given_up:
        return []
    return [
        f"on spot the final trainings are interrupted {run.given_up:,.0f} times: should the run give up, "
        "the same command goes on from their checkpoints"
    ]


def _rate_notes(rates: Rates) -> list[str]:
    notes = []
    idle = {"replacement"} if not rates.interruptions.value else set()
    guesses = [name for name, origin in _origins(rates).items() if origin.startswith("guess") and name not in idle]
    if guesses:
        notes.append(f"no source was found for {', '.join(guesses)}: guesses (ray_synth/hardware/gpus.yaml)")
    if rates.kind == "gpu" and not rates.measured_for:
        notes.append("GPU rates are published ones, scaled; nothing was run on this GPU")
    return notes


def _origins(rates: Rates) -> dict[str, str]:
    return {name: measure.origin for name, measure in rates.measures().items()}
