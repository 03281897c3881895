"""Counted work, rates and a number of nodes in; hours, wall time, storage and money with their intervals out.

Every rate is drawn from its uncertainty, the same draws for every number of nodes, and the work is then simulated.
Nodes are paid for while a stage uses them: a pool that grows and shrinks is what sampling and sweep are made for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from ray_synth.classifier.train import MOST_DIAGNOSES
from ray_synth.errors import InputError
from ray_synth.planning.rates import STRAGGLER, Measure, Rates
from ray_synth.planning.simulate import Pool, in_slots, simulate, with_restarts
from ray_synth.planning.work import SweepWork, Training, Work
from ray_synth.seeding import derive_seed

REPETITIONS = 60
HOUR = 3600.0
BEND = 0.5  # of what a node brings while everything scales: below it the curve has bent
LISTED, LIST_EVERY = 1000, 20.0  # names that a request lists; seconds between two looks of an actor at the folder
SEGMENT = 60.0  # seconds of a training between two checkpoints, at least
WINDOW = 2  # trials' results that a proposal does not wait for, per slot (sweep.tuner)
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
    """One stage: what it does, the hours of its workers and its wall seconds."""

    name: str
    work: str
    hours: Interval
    wall: Interval


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
    """Where more nodes bring less than half of what they should, and why: data, head node, storage, training or
    start-up."""

    nodes: int
    cause: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What training once at the predicted ratio saves against the full sweep: of training, and with the images."""

    trainings: float
    everything: float
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
    bytes_each = rates.image_bytes if rates.image_bytes and not work.images_there else work.image_bytes
    work = replace(work, image_bytes=bytes_each)
    draws = _Draws(rates, seed)
    runs = [_Run(work, draws, count, spot=False) for count in sorted(set(nodes))]
    on_spot = [_Run(work, draws, count, spot=True) for count in sorted(set(nodes))]
    points = tuple(_point(each, spot, runs[0]) for each, spot in zip(runs, on_spot, strict=True))
    first = runs[0]
    return Plan(
        name=work.name,
        hardware=rates.hardware,
        kind=rates.kind,
        nodes=first.nodes,
        slots=rates.slots,
        images=work.images,
        chunks=work.chunks,
        bytes_written=work.bytes_written,
        bytes_in_all=work.bytes_in_all,
        complete=work.complete,
        stages=tuple(first.stage_plans()),
        hours=Interval.of(first.hours),
        scaling=points,
        bend=_bend(runs),
        saving=_saving(work, draws, first),
        prices_read=rates.prices_read,
        notes=(*work.notes, *_rate_notes(rates)),
        origins=_origins(rates),
    )


def check_nodes(nodes: Sequence[int]) -> None:
    wrong = [count for count in nodes if not 1 <= count <= MOST_NODES]
    if not nodes or wrong:
        got = wrong[0] if wrong else "none"
        raise InputError(f"--nodes takes whole numbers from 1 to {MOST_NODES:,}, got {got}; type --nodes 1,2,4,8")


class _Draws:
    """Every rate as an array of repetitions: its value, times what its uncertainty gave."""

    def __init__(self, rates: Rates, seed: int):
        self.rates, self.seed = rates, seed
        self.values: dict[str, np.ndarray] = {}
        for source in (rates, rates.limits):
            for one in fields(source):
                measure = getattr(source, one.name)
                if isinstance(measure, Measure):
                    rng = np.random.default_rng(derive_seed("plan", seed, one.name))
                    self.values[one.name] = measure.value * np.exp(measure.sigma * rng.standard_normal(REPETITIONS))

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.__dict__["values"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None

    def random(self, name: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed("plan", self.seed, "draw", name))


class _Run:
    """A run on a number of nodes, stage by stage: `wall`, `worker` seconds and `paid` node-seconds, [R] each."""

    def __init__(self, work: Work, draws: _Draws, nodes: int, *, spot: bool):
        self.work, self.draws, self.rates, self.nodes = work, draws, draws.rates, nodes
        zero = np.zeros(REPETITIONS)
        # Interruptions a node and second: none where nobody takes the node away.
        self.kills = draws.interruptions / HOUR if spot else zero
        self.wall: dict[str, np.ndarray] = {}
        self.worker: dict[str, np.ndarray] = {}
        self.paid: dict[str, np.ndarray] = {}
        self.lost: dict[str, np.ndarray] = {}  # cause -> seconds of wall time that more nodes do not shorten
        self.ray_is_up = False
        self._start()
        self._finetune()
        self._generate()
        self._read_back()
        self._estimate()
        self._sweep()
        self._train()
        self._results()

    @property
    def total(self) -> np.ndarray:
        return np.sum(list(self.wall.values()), axis=0)

    @property
    def hours(self) -> np.ndarray:
        return np.sum(list(self.worker.values()), axis=0) / HOUR

    @property
    def node_hours(self) -> np.ndarray:
        return np.sum(list(self.paid.values()), axis=0) / HOUR

    def _add(self, name: str, wall: np.ndarray, worker: np.ndarray | None = None, nodes_used: float = 1) -> None:
        used = min(self.nodes, max(1, math.ceil(nodes_used)))
        self.wall[name] = self.wall.get(name, 0.0) + wall
        self.worker[name] = self.worker.get(name, 0.0) + (wall if worker is None else worker)
        self.paid[name] = self.paid.get(name, 0.0) + wall * used

    def _blame(self, cause: str, seconds: np.ndarray) -> None:
        self.lost[cause] = self.lost.get(cause, 0.0) + np.maximum(seconds, 0.0)

    def _ray(self) -> np.ndarray:
        """Ray is started by the first stage that needs it."""
        first, self.ray_is_up = not self.ray_is_up, True
        return self.draws.ray_start if first else np.zeros(REPETITIONS)

    def _start(self) -> None:
        wall = self.draws.start + self.draws.node_start
        self._add("start", wall, np.zeros(REPETITIONS))
        self._blame("start-up", wall)

    def _finetune(self) -> None:
        if self.work.generator_steps:
            wall = self.draws.generator_start + self.work.generator_steps * self.draws.generator_step
            self._add("finetune", wall)
            self._blame("head node", wall)

    def _generate(self) -> None:
        if not self.work.chunks:
            return
        work, d = self.work, self.draws
        room = per_node = self._actors_per_node()
        allowed = min(work.max_actors or math.inf, work.chunks)
        used = min(self.nodes, max(1, math.ceil(allowed / per_node)))
        per_node = min(per_node, max(1, math.floor(allowed / used)))
        seconds = d.chunk + work.images / work.chunks * d.image
        rows = [self._pool(r, used, per_node, float(seconds[r])) for r in range(REPETITIONS)]
        wall, paid, redone = (np.array(column) for column in zip(*rows, strict=True))
        limits = self._limits(used * per_node)
        slowest = max(limits, key=lambda name: float(np.median(limits[name])))
        limited = np.maximum(wall, limits[slowest] + d.pool_start)
        started = self._ray()
        self._add("generate", started + limited, work.chunks * seconds + redone, used)
        self.paid["generate"] = self.paid["generate"] - used * wall + paid  # a node that is gone is not paid
        busy = work.chunks * seconds / (self.nodes * room)
        self._blame("start-up", started + d.pool_start)
        self._blame("data", wall - d.pool_start - busy)
        self._blame("head node" if slowest == "head_tasks" else "storage", limited - wall)

    def _actors_per_node(self) -> int:
        """An actor holds a share of a GPU, several of them, or a CPU."""
        each = self.work.gpus_per_actor if self.rates.kind == "gpu" else 1.0
        return max(1, int(self.rates.slots / each + 1e-9))

    def _pool(self, r: int, nodes: int, per_node: int, seconds: float) -> tuple[float, float, float]:
        d = self.draws
        pool = Pool(
            chunks=self.work.chunks,
            seconds=seconds,
            nodes=nodes,
            workers_per_node=per_node,
            worker_start=float(d.pool_start[r]),
            jitter=float(d.jitter[r]),
            stragglers=min(1.0, float(d.stragglers[r])),
            straggler_factor=STRAGGLER,
            interruptions=float(self.kills[r]),
            replacement=float(d.replacement[r]),
        )
        out = simulate(pool, 1, d.random(f"chunks {r}"))
        return float(out.wall[0]), float(out.paid[0]), float(out.redone[0])

    def _limits(self, actors: int) -> dict[str, np.ndarray]:
        """Seconds in which all chunks could be made if nothing but this held them up."""
        work, d = self.work, self.draws
        files = (work.images_there / work.chunk_size + work.chunks / 2) / LISTED  # requests of one look, on average
        lists = actors * max(1.0, files) / LIST_EVERY  # a second
        rounds = work.chunks * (d.chunk + work.images / work.chunks * d.image) / actors
        return {
            "head_tasks": work.chunks / d.head_tasks,
            "storage_bytes": work.bytes_written / d.storage_bytes,
            "storage_puts": work.chunks / d.storage_puts,
            "storage_lists": rounds * np.maximum(0.0, lists / d.storage_lists - 1),
        }

    def _read_back(self) -> None:
        """The driver decodes all images, one after the other, for the first stage that looks at them."""
        work = self.work
        if work.pilot or work.sweep is not None or work.final or work.tests:
            wall = work.all_images * self.draws.read_image
            self._add("estimate" if work.pilot else "sweep" if work.sweep is not None else "train", wall)
            self._blame("head node", wall)

    def _estimate(self) -> None:
        if self.work.pilot:
            self._add("estimate", self.draws.estimate)
            self._blame("head node", self.draws.estimate)

    def training_seconds(self, one: Training, *, workers: int = 1) -> np.ndarray:
        d = self.draws
        update = d.update if one.both else d.update_one_side
        team = 1.0 if workers == 1 else workers * d.data_parallel
        return d.trial + one.images * d.trial_image + one.updates * update / team

    def _sweep(self) -> None:
        sweep = self.work.sweep
        if sweep is None or not sweep.trials:
            return
        slots = self._checked_slots(sweep)
        seconds = self.trial_seconds(sweep, slots)
        rng = self.draws.random("interrupted trials")
        each = sweep.workers_per_trial
        on_nodes = max(1.0, each / self.rates.slots)
        segment = np.maximum(SEGMENT, seconds / sweep.evaluations)
        disturbed = np.stack(
            [
                with_restarts(row, float(rate) * on_nodes, segment=part, replacement=float(wait), rng=rng)
                for row, rate, part, wait in zip(seconds, self.kills, segment, self.draws.replacement, strict=True)
            ]
        )
        running = in_slots(disturbed, slots, window=WINDOW * slots)
        started = self._ray() + self.draws.tune_start
        busy = min(slots, len(sweep.trials)) * max(each * 1.0, sweep.gpus_per_trial) / self.rates.slots
        self._add("sweep", started + running, disturbed.sum(axis=1) * each, busy)
        self._blame("start-up", started)
        most = self.nodes * self.rates.slots / max(each * 1.0, sweep.gpus_per_trial)
        self._blame("data", running - disturbed.sum(axis=1) / most)

    def slots_of(self, sweep: SweepWork) -> int:
        """Trials at once, as sweep.places has it."""
        units = self.nodes * self.rates.slots
        if sweep.workers_per_trial > 1:
            slots = units // sweep.workers_per_trial
        elif self.rates.kind == "gpu" and sweep.gpus_per_trial < 1:
            slots = units * int(1 / sweep.gpus_per_trial + 1e-9)
        else:
            slots = units
        return min(slots, sweep.concurrency or slots)

    def _checked_slots(self, sweep: SweepWork) -> int:
        """Raises InputError for a sweep that finds no room."""
        slots = self.slots_of(sweep)
        if slots < 1:
            raise InputError(
                f"a trial takes sweep.workers_per_trial={sweep.workers_per_trial} and there are "
                f"{self.nodes * self.rates.slots} {self.rates.kind.upper()}s; type "
                f"--nodes {math.ceil(sweep.workers_per_trial / self.rates.slots)}"
            )
        return slots

    def trial_seconds(self, sweep: SweepWork, slots: int) -> np.ndarray:
        """[R, trials]: what each takes, some of them stopped early."""
        whole = np.stack([self.training_seconds(one, workers=sweep.workers_per_trial) for one in sweep.trials], axis=1)
        rng = self.draws.random("early stops")
        shape = (REPETITIONS, len(sweep.trials))
        kept = rng.uniform(sweep.least_kept, sweep.most_kept, REPETITIONS)
        share = np.ones(shape)
        for rung in reversed(sweep.rungs):
            share = np.where(rng.random(shape) < kept[:, None], share, rung)
        share[:, : sweep.free(slots)] = 1.0
        updates = np.stack(
            [one.updates * (self.draws.update if one.both else self.draws.update_one_side) for one in sweep.trials],
            axis=1,
        )
        team = 1.0 if sweep.workers_per_trial == 1 else sweep.workers_per_trial * self.draws.data_parallel[:, None]
        return np.asarray(sweep.repeats * (whole - (1 - share) * updates / team))

    def _train(self) -> None:
        work, d = self.work, self.draws
        if not work.final:
            return
        wall = d.train_start + np.zeros(REPETITIONS)
        for k, one in enumerate(work.final):
            seconds = self.training_seconds(one, workers=work.final_workers) * d.final
            if (len(work.final) - k) % work.final_repeats == 0:  # the first of each setting is diagnosed
                seconds = seconds + diagnoses(one, self.work) * (one.images + work.validation) * d.diagnosis_image
            wall = wall + seconds
        rng = d.random("interrupted trainings")
        nodes = max(1.0, work.final_workers / self.rates.slots)
        wall = np.array(
            [
                with_restarts(
                    np.array([taken]),
                    float(rate) * nodes,
                    segment=np.array([max(SEGMENT, taken / 50)]),
                    replacement=float(wait),
                    rng=rng,
                )[0]
                for taken, rate, wait in zip(wall, self.kills, d.replacement, strict=True)
            ]
        )
        self._add("train", self._ray() + wall, wall * work.final_workers, work.final_workers / self.rates.slots)
        self._blame("training", wall)

    def _results(self) -> None:
        work, d = self.work, self.draws
        if work.tests:
            self._add("evaluate", d.evaluate + work.tests * d.test_image)
            self._blame("head node", self.wall["evaluate"])
        if work.report:
            self._add("report", d.report)
            self._blame("head node", d.report)

    def stage_plans(self) -> list[StagePlan]:
        said = _said(self.work)
        return [
            StagePlan(
                name=name,
                work=said.get(name, ""),
                hours=Interval.of(self.worker[name] / HOUR),
                wall=Interval.of(wall),
            )
            for name, wall in self.wall.items()
        ]


def diagnoses(one: Training, work: Work) -> int:
    """How often a final training takes the bound's terms: twice an epoch, a hundred times at most."""
    side = work.batch_size // 2 if one.both else work.batch_size
    epoch = math.ceil(max(one.real, one.synthetic) / max(side, 1))
    every = max(1, epoch // 2, math.ceil(one.updates / MOST_DIAGNOSES))
    return one.updates // every


def _said(work: Work) -> dict[str, str]:
    """What each stage does, in counts."""
    said = {
        "start": "imports, reading the data, nodes",
        "finetune": f"{work.generator_steps:,} steps of {work.generator_batch} images",
        "generate": f"{work.images:,} images of {work.steps_per_image} steps in {work.chunks:,} chunks",
        "estimate": f"{work.sizes.train:,} real and {work.pilot:,} synthetic images",
        "train": f"{len(work.final)} trainings"
        + (f" on {work.final_workers} workers" if work.final_workers > 1 else ""),
        "evaluate": f"{work.sizes.test:,} test images",
        "report": "report.html",
    }
    if work.sweep is not None:
        kept = work.sweep.expected(1) / max(work.sweep.bound, 1)
        said["sweep"] = (
            f"{len(work.sweep.trials)} trials of {_span([work.sweep.repeats * t.updates for t in work.sweep.trials])} "
            "updates" + (f", {kept:.0%} of them after early stops" if work.sweep.rungs else "")
        )
    return said


def _span(values: Sequence[int]) -> str:
    """A number, or the least and the most of several."""
    low, high = min(values, default=0), max(values, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _point(run: _Run, on_spot: _Run, fewest: _Run) -> Point:
    d = run.draws
    money = Interval.of(run.node_hours * d.price) if run.rates.price is not None else None
    spot = Interval.of(on_spot.node_hours * d.spot_price) if run.rates.spot_price is not None else None
    return Point(
        nodes=run.nodes,
        wall=Interval.of(run.total),
        wall_spot=Interval.of(on_spot.total),
        money=money,
        spot=spot,
        efficiency=float(np.median(fewest.total) * fewest.nodes / (np.median(run.total) * run.nodes)),
    )


REASONS = {
    "data": "there are too few chunks or trials to keep all of them busy",
    "head node": "the driver and one machine alone train the generator, read the images back, estimate and evaluate",
    "storage": "shared storage takes no more files or bytes a second",
    "training": "the final trainings run on classifier.num_workers workers, one after the other",
    "start-up": "nodes, models, Ray, Tune and Train take their time to start",
}


def _bend(runs: Sequence[_Run]) -> Bend | None:
    """The first number of nodes that brings less than half of what it should, and what holds it up most."""
    fewest = runs[0]
    for run in runs[1:]:
        efficiency = np.median(fewest.total) * fewest.nodes / (np.median(run.total) * run.nodes)
        if efficiency < BEND:
            cause = max(run.lost, key=lambda name: float(np.median(run.lost[name])))
            return Bend(nodes=run.nodes, cause=cause, reason=REASONS[cause])
    return None


def _saving(work: Work, draws: _Draws, run: _Run) -> Saving | None:
    """Against every trial of the sweep, whatever of it is done already."""
    sweep, one = work.whole_sweep, work.one_training
    if sweep is None or one is None or not sweep.trials:
        return None
    slots = max(1, run.slots_of(sweep))
    each = sweep.workers_per_trial
    once = np.median(run.training_seconds(one, workers=each)) * each
    trials = np.median(run.trial_seconds(sweep, slots).sum(axis=1)) * each
    bound = sum(np.median(run.training_seconds(t, workers=each)) for t in sweep.trials) * each * sweep.repeats
    image = float(np.median(draws.image))
    fewer = max(work.images_at_prediction, work.pilot)
    return Saving(
        trainings=float(1 - once / trials),
        everything=float(1 - (once + fewer * image) / (trials + work.all_images * image)),
        trials=len(sweep.trials),
        bound=float(1 - once / bound),
    )


def _rate_notes(rates: Rates) -> list[str]:
    notes = []
    idle = {"replacement"} if not rates.interruptions.value else set()
    guesses = [name for name, origin in _origins(rates).items() if origin.startswith("guess") and name not in idle]
    if guesses:
        notes.append(f"no source was found for {', '.join(guesses)}: guesses (ray_synth/planning/gpus.yaml)")
    if rates.kind == "gpu" and not rates.measured_for:
        notes.append("GPU rates are published ones, scaled; nothing was run on this GPU")
    return notes


def _origins(rates: Rates) -> dict[str, str]:
    named: Mapping[str, Any] = {one.name: getattr(rates, one.name) for one in fields(rates)} | vars(rates.limits)
    return {name: each.origin for name, each in named.items() if isinstance(each, Measure)}
