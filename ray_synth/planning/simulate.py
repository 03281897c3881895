"""Pieces of work, workers and how often these die in; wall times, paid time and redone work out, a value a repetition.

The rule of a resume is that of the run itself: what a dead worker had in hand is done again from its start, by whoever
is free, and nothing else is.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

EXACT_CHUNKS = 4000  # up to so many every chunk is followed; beyond, those in the middle are taken together
TAIL = 3  # chunks of each worker that are followed at the end, where it shows who finishes last
SYNCHRONOUS = 1e-9  # spread of a chunk's time, below which workers stay in step
LONGEST = 50.0  # lives of a node that a chunk may take: no such chunk is ever finished
MOST_INTERVALS = 100_000  # lives of one node: more means that no chunk is ever finished


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Equal chunks over the workers of several nodes, most_workers in all at most. Times in seconds.

    jitter: standard deviation of the log of a chunk's time, whose mean is `seconds`. A share `stragglers` of the chunks
    takes `straggler_factor` times as long. interruptions: of a node, per second; another one is there after
    `replacement`, and its workers have loaded their model after `worker_start`.
    """

    chunks: int
    seconds: float
    nodes: int
    workers_per_node: int = 1
    most_workers: int | None = None
    node_start: float = 0.0
    worker_start: float = 0.0
    jitter: float = 0.0
    stragglers: float = 0.0
    straggler_factor: float = 1.0
    interruptions: float = 0.0
    replacement: float = 0.0

    @property
    def workers(self) -> int:
        room = self.nodes * self.workers_per_node
        return room if self.most_workers is None else min(room, self.most_workers)

    @property
    def start(self) -> float:
        return self.node_start + self.worker_start

    def times(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Seconds of so many chunks."""
        times = np.full(count, self.seconds)
        if self.jitter > SYNCHRONOUS:
            times *= rng.lognormal(-(self.jitter**2) / 2, self.jitter, count)
        if self.stragglers:
            times[rng.random(count) < self.stragglers] *= self.straggler_factor
        return times


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """wall: seconds until the last chunk is there; paid: node-seconds; redone: worker-seconds of chunks that were lost.
    Each has a value a repetition."""

    wall: np.ndarray
    paid: np.ndarray
    redone: np.ndarray


def lost_to_restarts(seconds: float, rate: float) -> float:
    """Expected seconds until a job of this length is through without an interruption, where they come at a rate and
    each sends it back to its start: (exp(rate s) - 1) / rate, by conditioning on the first of them."""
    if rate * seconds > LONGEST:
        return math.inf
    return seconds if rate == 0 else math.expm1(rate * seconds) / rate


def simulate(pool: Pool, repetitions: int, rng: np.random.Generator) -> Outcome:
    """Exact for few chunks; for many the middle is taken together, and only the end is followed chunk by chunk."""
    one = exact if pool.chunks <= max(EXACT_CHUNKS, 2 * TAIL * pool.workers) else together
    rows = np.array([one(pool, rng) for _ in range(repetitions)]).reshape(-1, 3)
    return Outcome(wall=rows[:, 0], paid=rows[:, 1], redone=rows[:, 2])


class _Node:
    """The lives of one node: when it came up and when it dies."""

    def __init__(self, pool: Pool, lives: Iterator[float]):
        self.pool, self.lives = pool, lives
        self.up, self.dies = [pool.node_start], [pool.node_start + next(lives)]

    def life(self, time: float) -> int:
        """The first life that has not ended at a time."""
        i = len(self.dies) - 1
        while self.dies[i] <= time:
            if i > MOST_INTERVALS:
                return i
            self.up.append(self.dies[i] + self.pool.replacement)
            self.dies.append(self.up[-1] + next(self.lives))
            i += 1
        while i > 0 and self.dies[i - 1] > time:
            i -= 1
        return i

    def down(self, end: float) -> float:
        """Seconds before a time at which there was no node to pay for, after the first start."""
        return sum(
            max(0.0, min(end, up) - died) for up, died in zip(self.up[1:], self.dies, strict=False) if died < end
        )


def _drawn(pool: Pool, rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield float(rng.exponential(1 / pool.interruptions)) if pool.interruptions else math.inf


def exact(
    pool: Pool,
    rng: np.random.Generator,
    free: np.ndarray | None = None,
    lives: Sequence[Iterator[float]] | None = None,
) -> tuple[float, float, float]:
    """(wall, paid, redone) of one repetition, chunk by chunk.

    free: when each worker is free, default at its start. lives: seconds that each node lives, one life after the other,
    default drawn.
    """
    if pool.chunks == 0:
        return 0.0, 0.0, 0.0
    nodes = [_Node(pool, each) for each in lives or [_drawn(pool, rng)] * pool.nodes]
    starts = [pool.start] * pool.workers if free is None else free.tolist()
    events = [(time, worker) for worker, time in enumerate(starts)]
    heapq.heapify(events)
    times, waiting = pool.times(pool.chunks, rng).tolist(), pool.chunks
    returned: list[tuple[float, float]] = []  # when a chunk of a dead worker can be taken, and what it takes
    end = redone = 0.0
    while waiting or returned:
        now, worker = heapq.heappop(events)
        node = nodes[worker // pool.workers_per_node]
        life = node.life(now)
        ready = node.up[life] + (pool.worker_start if life or free is None else 0.0)
        if now < ready:
            heapq.heappush(events, (ready, worker))
            continue
        if returned and returned[0][0] <= now:
            _, seconds = heapq.heappop(returned)
        elif waiting:
            waiting -= 1
            seconds = times[waiting]
        else:
            heapq.heappush(events, (returned[0][0], worker))
            continue
        dies = node.dies[life]
        if now + seconds <= dies:
            end = max(end, now + seconds)
            heapq.heappush(events, (now + seconds, worker))
        elif life > MOST_INTERVALS:
            return math.inf, math.inf, math.inf  # chunks are longer than nodes live
        else:
            redone += dies - now
            heapq.heappush(returned, (dies, seconds))
            heapq.heappush(events, (dies, worker))
    paid = sum(end - node.down(end) for node in nodes)
    return end, paid, redone


def together(pool: Pool, rng: np.random.Generator) -> tuple[float, float, float]:
    """(wall, paid, redone) of one repetition of many chunks.

    In the middle all workers are busy, so what counts is how much work there is, what interruptions take away from it,
    and that workers fall out of step. The last chunks are followed one by one.
    """
    steady = pool.jitter <= SYNCHRONOUS and not pool.stragglers and not pool.interruptions
    if steady:
        wall = pool.start + math.ceil(pool.chunks / pool.workers) * pool.seconds
        return wall, wall * pool.nodes, 0.0
    last = TAIL * pool.workers
    middle = pool.chunks - last
    mean = pool.seconds * (1 + pool.stragglers * (pool.straggler_factor - 1))
    square = pool.seconds**2 * (1 + pool.stragglers * (pool.straggler_factor**2 - 1)) * math.exp(pool.jitter**2)
    work = rng.normal(middle * mean, math.sqrt(middle * max(square - mean**2, 0.0)))
    busy, redone, down = _with_kills(pool, work, mean, rng)
    if not math.isfinite(busy):
        return math.inf, math.inf, math.inf
    rounds = middle / pool.workers
    step = pool.seconds * math.sqrt(rounds) * math.sqrt(max(square / mean**2 - 1, 0.0))
    apart = rng.uniform(-0.5, 0.5, pool.workers) * pool.seconds if pool.interruptions else None
    drift = rng.normal(0, step, pool.workers) if apart is None else apart
    free = pool.start + busy / pool.workers + ((drift / pool.seconds + 0.5) % 1 - 0.5) * pool.seconds
    ending = replace(pool, chunks=last, node_start=0.0, worker_start=pool.worker_start)
    offset = float(free.min())
    wall, paid, again = exact(ending, rng, free - offset)
    return offset + wall, pool.nodes * offset - down + paid, redone + again


def _with_kills(pool: Pool, work: float, mean: float, rng: np.random.Generator) -> tuple[float, float, float]:
    """Worker-seconds that some work takes with interruptions, those redone, and node-seconds without a node."""
    if not pool.interruptions:
        return work, 0.0, 0.0
    rate, gone = pool.interruptions, pool.replacement + pool.worker_start
    up = work * lost_to_restarts(mean, rate) / mean  # worker-seconds of nodes that are there
    if not math.isfinite(up):
        return math.inf, math.inf, 0.0
    expected = up / pool.workers_per_node * rate
    kills = rng.poisson(expected)
    redone = (up - work) * (kills / expected if expected else 1.0)
    return work + redone + kills * pool.workers_per_node * gone, redone, kills * pool.replacement


def in_slots(seconds: np.ndarray, slots: int, *, window: int | None = None) -> np.ndarray:
    """When the last of some jobs ends that are begun in their order, each when one of the slots is free.

    seconds: [R,k], a row a repetition. window: job k waits for all jobs up to k - window, as the trials of a sweep do,
    which are proposed from the results of those before. Returns [R].
    """
    repetitions, jobs = seconds.shape
    free, ends = np.zeros((repetitions, slots)), np.zeros((repetitions, jobs))
    known = np.zeros(repetitions)  # when the results that the next job needs are there
    rows = np.arange(repetitions)
    for k in range(jobs):
        if window is not None and k - window >= 0:
            known = np.maximum(known, ends[:, k - window])
        slot = free.argmin(axis=1)
        free[rows, slot] = ends[:, k] = np.maximum(free[rows, slot], known) + seconds[:, k]
    return ends.max(axis=1) if jobs else np.zeros(repetitions)


def with_restarts(
    seconds: np.ndarray, rate: float, *, segment: np.ndarray, replacement: float, rng: np.random.Generator
) -> np.ndarray:
    """Jobs that go on from their last checkpoint after an interruption: what they take in all.

    segment: seconds between two checkpoints. Half of one is lost on average, and a new node is waited for.
    """
    if rate == 0:
        return seconds
    kills = rng.poisson(seconds * rate)
    return seconds + kills * (replacement + segment / 2)
