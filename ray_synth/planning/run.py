"""Counted work, rates and a number of nodes in; the seconds of each stage out, a value for each draw of the rates.

Nodes are paid for while a stage uses them: a pool that grows and shrinks is what sampling and sweep are made for.
"""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np

from ray_synth.classifier.diagnostics import images_read
from ray_synth.classifier.train import num_diagnoses
from ray_synth.errors import InputError
from ray_synth.evaluators.context import MOST_LOOKED_AT
from ray_synth.generator.generate import IN_FLIGHT
from ray_synth.nodes import fitting
from ray_synth.planning.rates import STRAGGLER, UNMEASURED, Measure, Rates
from ray_synth.planning.simulate import Pool, in_slots, simulate, with_restarts
from ray_synth.planning.work import SweepWork, Training, Work
from ray_synth.seeding import derive_seed
from ray_synth.sweep.places import WINDOW

REPETITIONS = 60
HOUR = 3600.0
LISTED, LIST_EVERY = 1000, 20.0  # names that a request lists; seconds between two looks of an actor at the folder
SEGMENT = 60.0  # seconds of a training between two checkpoints, at least
LIVES = 3.0  # of a node that a piece of work may take, which is then begun twenty times until it is through
PACE = 0.1  # log standard deviation of a machine's speed between a calibration and the run: own, nine pairs


class Draws:
    """Every rate as an array of repetitions: its value, times what its uncertainty gave."""

    def __init__(self, rates: Rates, seed: int):
        self.rates, self.seed = rates, seed
        pace = np.random.default_rng(derive_seed("plan", seed, "pace")).standard_normal(REPETITIONS)
        self.pace = np.exp((PACE if rates.measured_for else 0.0) * pace)
        self.values: dict[str, np.ndarray] = {}
        for source in (rates, rates.limits):
            for one in fields(source):
                measure = getattr(source, one.name)
                if isinstance(measure, Measure) and measure != UNMEASURED:
                    rng = np.random.default_rng(derive_seed("plan", seed, one.name))
                    self.values[one.name] = measure.value * np.exp(measure.sigma * rng.standard_normal(REPETITIONS))

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.__dict__["values"][name]  # type: ignore[no-any-return]
        except KeyError:
            if "rates" in self.__dict__ and self.rates.lacks(name):
                raise InputError(
                    f"this plan needs {name!r}, and the rates hold nothing for it: what takes it was left out, or was "
                    "done already, when they were measured; measure again without --until, and with an --out in which "
                    "nothing is done"
                ) from None
            raise AttributeError(name) from None

    def random(self, name: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed("plan", self.seed, "draw", name))


class PlannedRun:
    """A run on a number of nodes, stage by stage: `wall`, `worker` seconds and `paid` node-seconds, [R] each."""

    def __init__(self, work: Work, draws: Draws, nodes: int, *, spot: bool):
        self.work, self.draws, self.rates, self.nodes = work, draws, draws.rates, nodes
        zero = np.zeros(REPETITIONS)
        # Interruptions a node and second: none where nobody takes the node away.
        self.kills = draws.interruptions / HOUR if spot else zero
        self.wall: dict[str, np.ndarray] = {}
        self.worker: dict[str, np.ndarray] = {}
        self.paid: dict[str, np.ndarray] = {}
        self.lost: dict[str, np.ndarray] = {}  # cause -> seconds of wall time that more nodes do not shorten
        self.final_interruptions = 0.0  # that are expected of the final trainings
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
        room, each = self._actors_per_node(), self.actor_holds
        actors = min(self.nodes * room, work.max_actors or work.chunks, work.chunks)
        used = math.ceil(actors / room)
        seconds = d.chunk + work.images / work.chunks * d.image * self.slowed(each, actors)
        lives = float(np.max(self.kills * (d.pool_start + seconds)))
        if lives > LIVES:
            raise self._hopeless(lives, "a chunk", self._smaller_chunks(seconds))
        rows = [self._pool(r, used, room, actors, float(seconds[r])) for r in range(REPETITIONS)]
        wall, paid, redone = (np.array(column) for column in zip(*rows, strict=True))
        limits = self._limits(actors, work.chunks * seconds / actors)
        slowest = max(limits, key=lambda name: float(np.median(limits[name])))
        limited = np.maximum(wall, limits[slowest] + d.pool_start)
        started = self._ray()
        paid = paid + used * (started + limited - wall)  # a node that is gone is not paid
        self._add("generate", started + limited, (work.chunks * seconds + redone) * held(each), paid=paid)
        total, capped = work.chunks * seconds, actors == work.max_actors
        self._blame("start-up", started + d.pool_start)
        self._blame("actors" if capped else "data", total / actors - total / (self.nodes * room))
        self._blame("data", wall - d.pool_start - total / actors)
        self._blame("head node" if slowest == "head_tasks" else "storage", limited - wall)

    @property
    def actor_holds(self) -> float:
        """A share of a GPU, several of them, or a CPU."""
        return self.work.gpus_per_actor if self.rates.kind == "gpu" else 1.0

    def trial_holds(self, sweep: SweepWork) -> float:
        """GPUs, or CPUs where there are none."""
        if sweep.workers_per_trial > 1:
            return float(sweep.workers_per_trial)
        return sweep.gpus_per_trial if self.rates.kind == "gpu" else 1.0

    def slowed(self, each: float, at_once: int) -> float:
        """How much longer work on a GPU takes that is shared with others.

        Published rates are those of one process with a GPU to itself: several share its speed, and make no more of it
        together. Measured ones are of a machine with all slots busy, and hold this already.
        """
        return 1.0 if self.rates.measured_for else float(max(1, min(fitting(1, each), at_once)))

    def _actors_per_node(self) -> int:
        """Raises InputError where an actor finds no room on a node."""
        slots, each = self.rates.slots, self.actor_holds
        room = fitting(slots, each)
        if not room:
            raise InputError(
                f"generate.gpus_per_actor must be <= {slots}, the GPUs of a node, got {each:g}; type "
                f"--gpus-per-node {each:g}, or --set generate.gpus_per_actor={slots}"
            )
        return room

    def _hopeless(self, lives: float, piece: str, cure: str) -> InputError:
        """For work that is hardly ever through before its node goes. lives: of a node that it takes."""
        rate = float(np.median(self.draws.interruptions))
        allowed = math.floor(100 * rate * LIVES / lives) / 100
        return InputError(
            f"--spot-interruptions must be <= {allowed:g} per node and hour for {piece} to end before its node does, "
            f"got {rate:.3g}; type --spot-interruptions {allowed:g}{cure}"
        )

    def _smaller_chunks(self, seconds: np.ndarray) -> str:
        """What to type for chunks that nodes live for, where there are such. seconds: of one as they are."""
        share = float(np.min((LIVES / self.kills - self.draws.pool_start) / seconds))
        size = math.floor(share * self.work.images / self.work.chunks)
        return f", or --set generate.chunk_size={size}" if size >= 1 else ""

    def _pool(self, r: int, nodes: int, per_node: int, actors: int, seconds: float) -> tuple[float, float, float]:
        d = self.draws
        pool = Pool(
            chunks=self.work.chunks,
            seconds=seconds,
            nodes=nodes,
            workers_per_node=per_node,
            most_workers=actors,
            in_flight=IN_FLIGHT,
            worker_start=float(d.pool_start[r]),
            jitter=float(d.jitter[r]),
            stragglers=min(1.0, float(d.stragglers[r])),
            straggler_factor=STRAGGLER,
            interruptions=float(self.kills[r]),
            replacement=float(d.replacement[r]),
        )
        out = simulate(pool, 1, d.random(f"chunks {r}"))
        return float(out.wall[0]), float(out.paid[0]), float(out.redone[0])

    def _limits(self, actors: int, busy: np.ndarray) -> dict[str, np.ndarray]:
        """Seconds in which all chunks could be made if nothing but this held them up. busy: seconds of each actor."""
        work, d = self.work, self.draws
        files = (work.images_there / work.chunk_size + work.chunks / 2) / LISTED  # requests of one look, on average
        lists = actors * max(1.0, files) / LIST_EVERY  # a second
        return {
            "head_tasks": work.chunks / d.head_tasks,
            "storage_bytes": work.bytes_written / d.storage_bytes,
            "storage_puts": work.chunks / d.storage_puts,
            "storage_lists": busy * np.maximum(0.0, lists / d.storage_lists - 1),
        }

    def _read_back(self) -> None:
        """The driver decodes all images for the first stage that looks at them."""
        if self.work.readers:
            wall = self.work.all_images * self.draws.read_image
            self._add(self.work.readers[0], wall)
            self._blame("head node", wall)

    def _estimate(self) -> None:
        if self.work.pilot:
            self._add("estimate", self.draws.estimate)
            self._blame("head node", self.draws.estimate)

    def training_seconds(self, one: Training, *, workers: int = 1, slowed: float = 1.0) -> np.ndarray:
        d = self.draws
        return d.trial + one.images * d.trial_image + self._update_seconds(one, workers) * slowed

    def _update_seconds(self, one: Training, workers: int) -> np.ndarray:
        """Of all updates of a training."""
        d = self.draws
        update = d.update if one.both else d.update_one_side
        return one.updates * update / (1.0 if workers == 1 else workers * d.data_parallel)

    def _sweep(self) -> None:
        sweep = self.work.sweep
        if sweep is None or not sweep.trials:
            return
        self._check_room(sweep.workers_per_trial, "a trial takes sweep.workers_per_trial")
        slots = self.slots_of(sweep)
        seconds = self.trial_seconds(sweep, slots)
        disturbed = self._interrupted(
            "a trial", seconds, np.maximum(SEGMENT, seconds / sweep.evaluations), sweep.workers_per_trial
        )
        running = in_slots(disturbed, slots, window=WINDOW * slots)
        started = self._ray() + self.draws.tune_start
        each = held(self.trial_holds(sweep))
        busy = min(slots, len(sweep.trials)) * each / self.rates.slots
        worker = disturbed.sum(axis=1) * each
        self._add("sweep", started + running, worker, nodes_used=busy)
        self._blame("start-up", started)
        self._blame("data", running - worker / (self.nodes * self.rates.slots))

    def _interrupted(self, name: str, seconds: np.ndarray, segment: np.ndarray, workers: int) -> np.ndarray:
        """[R, k]: what trainings take when any of the nodes of their workers may go. segment: between checkpoints.

        Raises:
            InputError: no checkpoint is ever reached.
        """
        rates = self.kills * math.ceil(workers / self.rates.slots)
        lives = float(np.max(rates[:, None] * segment))
        if lives > LIVES:
            more = math.ceil(self.work.final_evaluations * lives / LIVES)
            raise self._hopeless(
                lives, f"what {name} does between two checkpoints", f", or --set classifier.evaluations={more}"
            )
        rng = self.draws.random(f"interrupted {name}")
        rows = zip(seconds, segment, rates.tolist(), self.draws.replacement.tolist(), strict=True)
        return np.stack(
            [with_restarts(row, rate, segment=part, replacement=wait, rng=rng) for row, part, rate, wait in rows]
        )

    def slots_of(self, sweep: SweepWork) -> int:
        """Trials at once, as sweep.places has it."""
        units = self.nodes * self.rates.slots
        if sweep.workers_per_trial > 1:
            slots = units // sweep.workers_per_trial
        else:
            slots = fitting(units, self.trial_holds(sweep))
        return min(slots, sweep.concurrency or slots)

    def _check_room(self, workers: int, said: str) -> None:
        """Raises InputError for more workers than there are GPUs or CPUs."""
        slots = self.nodes * self.rates.slots
        if workers > slots:
            raise InputError(
                f"{said}={workers} and there are {slots} {self.rates.kind.upper()}s; type "
                f"--nodes {math.ceil(workers / self.rates.slots)}"
            )

    def trial_seconds(self, sweep: SweepWork, slots: int) -> np.ndarray:
        """[R, trials]: what each takes, some of them stopped early."""
        workers, slowed = sweep.workers_per_trial, self.slowed(self.trial_holds(sweep), slots)
        whole = np.stack([self.training_seconds(t, workers=workers, slowed=slowed) for t in sweep.trials], axis=1)
        rng = self.draws.random("early stops")
        shape = (REPETITIONS, len(sweep.trials))
        kept = rng.uniform(sweep.least_kept, sweep.most_kept, REPETITIONS)
        share = np.ones(shape)
        for rung in reversed(sweep.rungs):
            share = np.where(rng.random(shape) < kept[:, None], share, rung)
        share[:, : sweep.free(slots)] = 1.0
        updates = np.stack([self._update_seconds(one, workers) for one in sweep.trials], axis=1)
        return np.asarray(sweep.repeats * (whole - (1 - share) * updates * slowed))

    def _train(self) -> None:
        work, d = self.work, self.draws
        if not work.final:
            return
        self._check_room(work.final_workers, "a final training takes classifier.num_workers")
        rows = []
        for k, one in enumerate(work.final):
            seconds = self.training_seconds(one, workers=work.final_workers) * d.final
            if (len(work.final) - k) % work.final_repeats == 0:  # the first of each setting is diagnosed
                seconds = seconds + diagnosed_images(one, work) * d.diagnosis_image
            rows.append(seconds)
        each = np.stack(rows, axis=1)
        disturbed = self._interrupted("a final training", each, each / work.final_evaluations, work.final_workers)
        nodes = math.ceil(work.final_workers / self.rates.slots)
        self.final_interruptions = float(np.median(each.sum(axis=1) * self.kills)) * nodes
        wall = d.train_start + disturbed.sum(axis=1)
        used = work.final_workers / self.rates.slots
        self._add("train", self._ray() + wall, wall * work.final_workers, nodes_used=used)
        self._blame("training", wall)

    def _results(self) -> None:
        work, d = self.work, self.draws
        if work.tests:
            judged = min(work.all_images, MOST_LOOKED_AT)
            wall = d.evaluate + work.tests * d.test_image + judged * d.judged_image
            self._add("evaluate", wall)
            self._blame("head node", wall)
        if work.report:
            self._add("report", d.report)
            self._blame("head node", d.report)


def held(each: float) -> float:
    """GPUs that one keeps from others who asks for so many: of a GPU that three share, a third."""
    return 1 / fitting(1, each) if each < 1 else each


def diagnosed_images(one: Training, work: Work) -> int:
    """Images that all diagnoses of a final training read."""
    times = num_diagnoses(work.batch_size, one.real, one.synthetic, one.updates)
    return times * images_read(one.real, one.synthetic, work.validation)
