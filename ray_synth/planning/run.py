"""Tasks of stages, rates and a number of nodes in; the seconds of each stage out, a value for each draw of the rates.

Nodes are paid for while a stage uses them: a pool that grows and shrinks is what sampling and sweep are made for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ray_synth.errors import InputError
from ray_synth.nodes import fitting
from ray_synth.planning.rates import STRAGGLER, Rates
from ray_synth.planning.simulate import Pool, simulate, with_restarts
from ray_synth.planning.work import StageWork, Work
from ray_synth.seeding import derive_seed
from ray_synth.tasks import ON_DEVICE, ByTeam, InPool, InSlots, OnHead, Task, Tasks, in_slots

REPETITIONS = 60
HOUR = 3600.0
LISTED, LIST_EVERY = 1000, 20.0  # names that a request lists; seconds between two looks of an actor at the folder
SEGMENT = 60.0  # seconds of a trial between two checkpoints, at least
LIVES = 3.0  # of a node that a piece of work may take, which is then begun twenty times until it is through
PACE = 0.1  # log standard deviation of a machine's speed between a calibration and the run: own, nine pairs


class Draws:
    """Every rate as an array of repetitions [R]: its value, times what its uncertainty gave."""

    def __init__(self, rates: Rates, seed: int):
        self.rates, self.seed = rates, seed
        pace = self.random("pace").standard_normal(REPETITIONS)
        self.pace = np.exp((PACE if rates.measured_for else 0.0) * pace)
        self.values = {
            name: measure.value * np.exp(measure.sigma * self.random(name).standard_normal(REPETITIONS))
            for name, measure in rates.measures().items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.values:
            raise InputError(
                f"this plan needs {name!r}, and the rates hold nothing for it: what takes it was left out, or was "
                "done already, when they were measured; measure again without --until, and with an --out in which "
                "nothing is done"
            )
        return self.values[name]

    def seconds(self, takes: Mapping[str, float], *, on_device: bool | None = None) -> np.ndarray:
        """Of a task. on_device: of its units that a GPU works on alone, or of the others alone."""
        units = [unit for unit in takes if on_device is None or (unit in ON_DEVICE) == on_device]
        return sum((takes[unit] * self[unit] for unit in units), np.zeros(REPETITIONS))

    def random(self, name: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed("plan", self.seed, name))


class PlannedRun:
    """A run on a number of nodes, stage by stage: `wall`, `worker` seconds and `paid` node-seconds, [R] each."""

    def __init__(self, work: Work, draws: Draws, nodes: int, *, spot: bool):
        self.work, self.draws, self.rates, self.nodes = work, draws, draws.rates, nodes
        # Interruptions a node and second: none where nobody takes the node away.
        self.kills = draws["interruptions"] / HOUR if spot else np.zeros(REPETITIONS)
        self.wall: dict[str, np.ndarray] = {}
        self.worker: dict[str, np.ndarray] = {}
        self.paid: dict[str, np.ndarray] = {}
        self.lost: dict[str, np.ndarray] = {}  # cause -> seconds of wall time that more nodes do not shorten
        self.given_up = 0.0  # interruptions that are expected of a team's tasks, where they are more than it survives
        self.kept: dict[str, float] = {}  # stage -> part of its work that is left after early stops
        self.ray_is_up = False
        self.seen: set[str] = set()  # tasks that are done once
        wall = draws["start"] + draws["node_start"]
        self._add("start", wall, np.zeros(REPETITIONS))
        self._blame("start-up", wall)
        for stage in work.stages:
            self._stage(stage)

    @property
    def total(self) -> np.ndarray:
        return sum(self.wall.values(), np.zeros(REPETITIONS))

    @property
    def hours(self) -> np.ndarray:
        return sum(self.worker.values(), np.zeros(REPETITIONS)) / HOUR

    @property
    def node_hours(self) -> np.ndarray:
        return sum(self.paid.values(), np.zeros(REPETITIONS)) / HOUR

    def _stage(self, stage: StageWork) -> None:
        for group in stage.groups:
            tasks = [task for task in group.tasks if not group.once or task.name not in self.seen]
            self.seen |= {task.name for task in tasks} if group.once else set()
            if not tasks:
                continue
            match group.way:
                case OnHead():
                    self._on_head(stage.name, group)
                case InPool() as way:
                    self._in_pool(stage.name, group, way)
                case InSlots() as way:
                    self._in_slots(stage.name, group, way)
                case ByTeam() as way:
                    self._by_team(stage.name, group, way)

    def _add(
        self,
        name: str,
        wall: np.ndarray,
        worker: np.ndarray | None = None,
        *,
        nodes_used: float = 1,
        paid: np.ndarray | None = None,
    ) -> None:
        used = min(self.nodes, max(1, math.ceil(nodes_used)))
        seconds = {
            "wall": wall,
            "worker": wall if worker is None else worker,
            "paid": wall * used if paid is None else paid,
        }
        for kind, more in seconds.items():
            sums = getattr(self, kind)
            sums[name] = sums.get(name, 0.0) + more * self.draws.pace

    def _blame(self, cause: str, seconds: np.ndarray) -> None:
        self.lost[cause] = self.lost.get(cause, 0.0) + np.maximum(seconds, 0.0)

    def _ray(self) -> np.ndarray:
        """Ray is started by the first stage that needs it."""
        first, self.ray_is_up = not self.ray_is_up, True
        return self.draws["ray_start"] if first else np.zeros(REPETITIONS)

    def _on_head(self, name: str, group: Tasks) -> None:
        wall = self.draws.seconds(group.starts) + np.sum([self.draws.seconds(t.takes) for t in group.tasks], axis=0)
        self._add(name, wall)
        self._blame("head node", wall)

    # Chunks over a pool.

    def _in_pool(self, name: str, group: Tasks, way: InPool) -> None:
        d, chunks = self.draws, len(group.tasks)
        room, each = self._actors_per_node(way), self.actor_holds(way)
        actors = min(self.nodes * room, way.most_actors or chunks, chunks)
        used = math.ceil(actors / room)
        images = group.total("image")
        begin = d.seconds(group.starts)
        mean = {unit: group.total(unit) / chunks for unit in group.tasks[0].takes}
        seconds = d.seconds(mean, on_device=False) + d.seconds(mean, on_device=True) * self.slowed(each, actors)
        lives = float(np.max(self.kills * (begin + seconds)))
        if lives > LIVES:
            share = float(np.min((LIVES / self.kills - begin) / seconds))
            size = math.floor(share * images / chunks)
            smaller = f", or --set generate.chunk_size={size}" if size >= 1 else ""
            raise self._hopeless(lives, "a chunk", smaller)
        rows = [
            self._pool(r, chunks, (used, room, actors), float(seconds[r]), float(begin[r]), way.in_flight)
            for r in range(REPETITIONS)
        ]
        wall, paid, redone = (np.array(column) for column in zip(*rows, strict=True))
        limits = self._limits(group, way, actors, chunks * seconds / actors)
        slowest = max(limits, key=lambda limit: float(np.median(limits[limit])))
        limited = np.maximum(wall, limits[slowest] + begin)
        started = self._ray()
        paid = paid + used * (started + limited - wall)  # a node that is gone is not paid
        total, capped = chunks * seconds, actors == way.most_actors
        self._add(name, started + limited, (total + redone) * held(each), paid=paid)
        self._blame("start-up", started + begin)
        self._blame("actors" if capped else "data", total / actors - total / (self.nodes * room))
        self._blame("data", wall - begin - total / actors)
        self._blame("head node" if slowest == "head_tasks" else "storage", limited - wall)

    def actor_holds(self, way: InPool) -> float:
        """A share of a GPU, several of them, or a CPU."""
        return way.gpus_per_actor if self.rates.kind == "gpu" else 1.0

    def slowed(self, each: float, at_once: int) -> float:
        """How much longer work on a GPU takes that is shared with others, who make no more of it together."""
        return float(max(1, min(fitting(1, each), at_once))) if self.rates.shares else 1.0

    def _actors_per_node(self, way: InPool) -> int:
        """Raises InputError where an actor finds no room on a node."""
        slots, each = self.rates.slots, self.actor_holds(way)
        room = fitting(slots, each)
        if not room:
            raise InputError(
                f"generate.gpus_per_actor must be <= {slots}, the GPUs of a node, got {each:g}; type "
                f"--gpus-per-node {each:g}, or --set generate.gpus_per_actor={slots}"
            )
        return room

    def _hopeless(self, lives: float, piece: str, cure: str) -> InputError:
        """For work that is hardly ever through before its node goes. lives: of a node that it takes."""
        rate = float(np.median(self.draws["interruptions"]))
        allowed = math.floor(100 * rate * LIVES / lives) / 100
        return InputError(
            f"--spot-interruptions must be <= {allowed:g} per node and hour for {piece} to end before its node does, "
            f"got {rate:.3g}; type --spot-interruptions {allowed:g}{cure}"
        )

    def _pool(
        self, r: int, chunks: int, room: tuple[int, int, int], seconds: float, begin: float, in_flight: int
    ) -> tuple[float, float, float]:
        """room: nodes, workers of a node, and workers in all."""
        d = self.draws
        pool = Pool(
            chunks=chunks,
            seconds=seconds,
            nodes=room[0],
            workers_per_node=room[1],
            most_workers=room[2],
            in_flight=in_flight,
            worker_start=begin,
            jitter=float(d["jitter"][r]),
            stragglers=min(1.0, float(d["stragglers"][r])),
            straggler_factor=STRAGGLER,
            interruptions=float(self.kills[r]),
            replacement=float(d["replacement"][r]),
        )
        out = simulate(pool, 1, d.random(f"draw chunks {r}"))
        return float(out.wall[0]), float(out.paid[0]), float(out.redone[0])

    def _limits(self, group: Tasks, way: InPool, actors: int, busy: np.ndarray) -> dict[str, np.ndarray]:
        """Seconds in which all chunks could be made if nothing but this held them up. busy: seconds of each actor."""
        d, chunks = self.draws, len(group.tasks)
        files = (way.files_there + chunks / 2) / LISTED  # requests of one look, on average
        lists = actors * max(1.0, files) / LIST_EVERY  # a second
        return {
            "head_tasks": chunks / d["head_tasks"],
            "storage_bytes": bytes_of(group, way) / d["storage_bytes"],
            "storage_puts": chunks / d["storage_puts"],
            "storage_lists": busy * np.maximum(0.0, lists / d["storage_lists"] - 1),
        }

    # Trials in slots, trainings by a team.

    def trial_holds(self, way: InSlots) -> float:
        """GPUs, or CPUs where there are none."""
        if way.workers > 1:
            return float(way.workers)
        return way.gpus if self.rates.kind == "gpu" else 1.0

    def slots_of(self, way: InSlots) -> int:
        """Trials at once, as a sweep has it."""
        units = self.nodes * self.rates.slots
        slots = units // way.workers if way.workers > 1 else fitting(units, self.trial_holds(way))
        return min(slots, way.most or slots)

    def training_seconds(self, task: Task, *, workers: int, slowed: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """All of a training, and of that what the optimizer's updates take. [R], [R]"""
        shared = 1.0 if workers == 1 else workers * self.draws["data_parallel"]
        updates = self.draws.seconds(task.takes, on_device=True) / shared * slowed
        return self.draws.seconds(task.takes, on_device=False) + updates, updates

    def trial_seconds(self, tasks: Sequence[Task], way: InSlots, slots: int) -> np.ndarray:
        """[R, trials]: what each takes, some of them stopped early."""
        slowed = self.slowed(self.trial_holds(way), slots)
        each = [self.training_seconds(task, workers=way.workers, slowed=slowed) for task in tasks]
        whole, updates = (np.stack(column, axis=1) for column in zip(*each, strict=True))
        rng = self.draws.random("draw early stops")
        kept = rng.uniform(*way.kept, REPETITIONS)
        share = np.ones(whole.shape)
        for rung in reversed(way.rungs):
            share = np.where(rng.random(whole.shape) < kept[:, None], share, rung)
        share[:, : way.free(slots)] = 1.0
        return np.asarray(whole - (1 - share) * updates)

    def _in_slots(self, name: str, group: Tasks, way: InSlots) -> None:
        self._check_room(way)
        slots = self.slots_of(way)
        seconds = self.trial_seconds(group.tasks, way, slots)
        disturbed = self._interrupted(way, seconds, np.maximum(SEGMENT, seconds / way.segments))
        running = in_slots(disturbed, slots, window=way.window * slots)
        started = self._ray() + self.draws.seconds(group.starts)
        each = held(self.trial_holds(way))
        busy = min(slots, len(group.tasks)) * each / self.rates.slots
        worker = disturbed.sum(axis=1) * each
        self._add(name, started + running, worker, nodes_used=busy)
        self._blame("start-up", started)
        self._blame("data", running - worker / (self.nodes * self.rates.slots))
        if way.rungs:
            whole = np.stack([self.training_seconds(t, workers=way.workers)[0] for t in group.tasks], axis=1)
            slowed = self.slowed(self.trial_holds(way), slots)
            self.kept[name] = float(np.median(seconds.sum(axis=1) / np.maximum(whole.sum(axis=1) * slowed, 1e-12)))

    def _by_team(self, name: str, group: Tasks, way: ByTeam) -> None:
        self._check_room(way)
        each = np.stack([self.training_seconds(task, workers=way.workers)[0] for task in group.tasks], axis=1)
        disturbed = self._interrupted(way, each, each / way.segments)
        interruptions = float(np.median(each.sum(axis=1) * self.kills)) * math.ceil(way.workers / self.rates.slots)
        self.given_up += interruptions if interruptions > way.deaths else 0.0
        wall = self.draws.seconds(group.starts) + disturbed.sum(axis=1)
        used = way.workers / self.rates.slots
        self._add(name, self._ray() + wall, wall * way.workers, nodes_used=used)
        self._blame(way.cause, wall)

    def _interrupted(self, way: InSlots | ByTeam, seconds: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """[R, k]: what trainings take when any of the nodes of their workers may go. segment: between checkpoints.

        Raises:
            InputError: no checkpoint is ever reached.
        """
        rates = self.kills * math.ceil(way.workers / self.rates.slots)
        lives = float(np.max(rates[:, None] * segment))
        if lives > LIVES:
            more = math.ceil(way.segments * lives / LIVES)
            cure = f", or --set classifier.evaluations={more}"
            raise self._hopeless(lives, f"what {way.name} does between two checkpoints", cure)
        rng = self.draws.random(f"draw interrupted {way.name}")
        rows = zip(seconds, segment, rates.tolist(), self.draws["replacement"].tolist(), strict=True)
        return np.stack(
            [with_restarts(row, rate, segment=part, replacement=wait, rng=rng) for row, part, rate, wait in rows]
        )

    def _check_room(self, way: InSlots | ByTeam) -> None:
        """Raises InputError for more workers than there are GPUs or CPUs."""
        slots = self.nodes * self.rates.slots
        if way.workers > slots:
            raise InputError(
                f"{way.name} takes {way.workers_key}={way.workers} and there are {slots} {self.rates.kind.upper()}s; "
                f"type --nodes {math.ceil(way.workers / self.rates.slots)}"
            )


def held(each: float) -> float:
    """GPUs that one keeps from others who asks for so many: of a GPU that three share, a third."""
    return 1 / fitting(1, each) if each < 1 else each


def bytes_of(group: Tasks, way: InPool) -> float:
    """Bytes of the files that a group writes."""
    return group.total("image") * way.image_bytes + len(group.tasks) * way.file_bytes
