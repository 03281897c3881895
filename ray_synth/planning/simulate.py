"""Pieces of work, workers and how often these die in; wall times, paid time and redone work out, a value a repetition.

The rule of a resume is that of the run itself: what a dead worker had in hand is done again from its start, and nothing
else is. It waits, with what was handed to that worker besides, until the worker is back. Who has least in hand is
handed the next piece, as Ray Data does it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Equal chunks over the workers of several nodes, most_workers in all at most. Times in seconds.

    jitter: standard deviation of the log of a chunk's time, whose mean is `seconds`. A share `stragglers` of the chunks
    takes `straggler_factor` times as long. interruptions: of a node, per second; another one is there after
    `replacement`, and its workers have loaded their model after `worker_start`. in_flight: chunks that a worker is
    handed at most, the one in hand included.
    """

    chunks: int
    seconds: float
    nodes: int
    workers_per_node: int = 1
    most_workers: int | None = None
    in_flight: int = 1
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
        times = np.full(count, float(self.seconds))
        if self.jitter:
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


def simulate(pool: Pool, repetitions: int, rng: np.random.Generator) -> Outcome:
    rows = np.array([_once(pool, rng) for _ in range(repetitions)]).reshape(-1, 3)
    return Outcome(wall=rows[:, 0], paid=rows[:, 1], redone=rows[:, 2])


def _once(pool: Pool, rng: np.random.Generator) -> tuple[float, float, float]:
    """(wall, paid, redone) of one repetition; chunk by chunk, of the same times, where a node dies before the end."""
    drawn = _drawn(pool, rng)
    first = [next(drawn) for _ in range(pool.nodes)]
    wall, each = undisturbed(pool, rng)
    if pool.node_start + min(first) >= wall:
        return wall, wall * pool.nodes, 0.0
    return exact(pool, rng, lives=[itertools.chain([life], drawn) for life in first], each=each)


def undisturbed(pool: Pool, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Wall time of one repetition in which no node dies, and the times of each worker's chunks. [workers, n]

    Who takes a chunk says nothing about how long it takes. So each worker may draw the times of its own ones: chunk j
    is handed to it when its chunk j - in_flight is through, and those are made of all that are handed out first. The
    same as handing them out one by one, in a few array operations.
    """
    each, ahead = np.zeros((pool.workers, 0)), pool.in_flight
    if pool.chunks == 0:
        return 0.0, each
    while True:
        more = pool.times(pool.workers * (8 + ahead + int(1.1 * pool.chunks / pool.workers)), rng)
        each = np.concatenate([each, more.reshape(pool.workers, -1)], axis=1)
        ends = each.cumsum(axis=1)
        handed = np.empty_like(ends)
        handed[:, :ahead] = np.arange(-ahead, 0)  # at the start, one to each worker before a second to any
        handed[:, ahead:] = ends[:, :-ahead]
        first = np.argpartition(handed, pool.chunks - 1, axis=None)[: pool.chunks]
        if handed.flat[first].max() <= ends[:, -ahead].min():  # else one may be handed more than was drawn
            return pool.start + float(ends.flat[first].max()), each


class _Node:
    """The lives of one node: when it came up and when it dies."""

    def __init__(self, pool: Pool, lives: Iterator[float]):
        self.pool, self.lives = pool, lives
        self.up, self.dies = [pool.node_start], [pool.node_start + next(lives)]

    def life(self, time: float) -> int:
        """The first life that has not ended at a time."""
        i = len(self.dies) - 1
        while self.dies[i] <= time:
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
    each: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """(wall, paid, redone) of one repetition, chunk by chunk.

    A chunk is slow for the machine that it is on, not for what is in it: done again, it takes a time of its own.

    free: when each worker is free, default at its start. lives: seconds that each node lives, one life after the other,
    default drawn. each: of the chunks that each worker begins, one after the other, [workers, n]; then drawn.
    """
    if pool.chunks == 0:
        return 0.0, 0.0, 0.0
    nodes = [_Node(pool, each) for each in lives or [_drawn(pool, rng)] * pool.nodes]
    starts = [pool.start] * pool.workers if free is None else free.tolist()
    drawn = _times(pool, rng)
    times = [drawn if each is None else itertools.chain(each[worker].tolist(), drawn) for worker in range(len(starts))]
    events = [(time, worker, False) for worker, time in enumerate(starts)]
    heapq.heapify(events)
    waiting, handed = pool.chunks, [0] * len(starts)
    end = redone = 0.0
    while events:
        now, available = events[0][0], []
        while events and events[0][0] == now:
            _, worker, through = heapq.heappop(events)
            node = nodes[worker // pool.workers_per_node]
            if through:
                end, handed[worker] = now, handed[worker] - 1
            life = node.life(now)
            ready = node.up[life] + (pool.worker_start if life or free is None else 0.0)
            if now < ready:
                heapq.heappush(events, (ready, worker, False))
            else:
                available.append((worker, node.dies[life]))
        for level in range(pool.in_flight):  # to who has least in hand
            for worker, _ in available:
                if waiting and handed[worker] == level:
                    waiting, handed[worker] = waiting - 1, level + 1
        for worker, dies in available:
            if handed[worker]:
                then = now + next(times[worker])
                redone += dies - now if then > dies else 0.0
                heapq.heappush(events, (min(then, dies), worker, then <= dies))
    paid = sum(end - node.down(end) for node in nodes)
    return end, paid, redone


def _times(pool: Pool, rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from pool.times(pool.chunks, rng).tolist()


def with_restarts(
    seconds: np.ndarray, rate: float, *, segment: np.ndarray, replacement: float, rng: np.random.Generator
) -> np.ndarray:
    """Jobs that go on from their last checkpoint after an interruption: what they take in all.

    segment: seconds between two checkpoints, which is begun until it is through: a geometric number of times that were
    in vain, each as long as an exponential life that ended before it. Their sum is drawn from the gamma distribution of
    its mean and variance.
    """
    if rate == 0:
        return seconds
    segment = np.maximum(segment, 1e-6)  # jobs of no length have none
    through, lost = np.exp(-rate * segment), -np.expm1(-rate * segment)
    kills = rng.negative_binomial(seconds / segment, through) if (seconds > 0).any() else np.zeros(len(seconds))
    mean = 1 / rate - segment * through / lost  # of a time that was in vain, and its variance
    variance = np.maximum(1 / rate**2 - segment**2 * through / lost**2, 1e-12)
    vain = rng.gamma(np.maximum(kills * mean**2 / variance, 1e-12), variance / mean) * (kills > 0)
    return np.asarray(seconds + kills * replacement + vain)
