"""The Monte-Carlo against closed forms, and its short cut against following every chunk."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from ray_synth.planning import simulate as s
from ray_synth.planning.simulate import Pool, exact, in_slots, lost_to_restarts, simulate, together, with_restarts

HOUR = 3600.0


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("chunks", "nodes", "each"), [(1, 1, 1), (10, 3, 1), (100, 4, 8), (7, 1, 8), (20_000, 10, 8)])
def test_without_noise_it_is_a_whole_number_of_rounds(chunks: int, nodes: int, each: int) -> None:
    pool = Pool(chunks=chunks, seconds=7.0, nodes=nodes, workers_per_node=each, node_start=50.0, worker_start=5.0)
    out = simulate(pool, 2, rng())
    wall = 55.0 + math.ceil(chunks / (nodes * each)) * 7.0
    assert out.wall == pytest.approx(wall)
    assert out.paid == pytest.approx(wall * nodes)
    assert not out.redone.any()


def test_nothing_to_do_takes_no_time() -> None:
    assert simulate(Pool(chunks=0, seconds=7.0, nodes=2, node_start=50.0), 2, rng()).wall.tolist() == [0.0, 0.0]


def test_a_job_that_is_restarted_takes_the_analytic_time() -> None:
    rate, seconds = 1 / 100, 60.0
    pool = Pool(chunks=400, seconds=seconds, nodes=1, interruptions=rate)
    wall = simulate(pool, 20, rng()).wall.mean()
    assert wall == pytest.approx(400 * lost_to_restarts(seconds, rate), rel=0.03)
    assert lost_to_restarts(seconds, 0.0) == seconds


def test_redone_work_is_what_restarts_cost_beyond_the_work_itself() -> None:
    rate, seconds = 1 / 300, 60.0
    pool = Pool(chunks=1000, seconds=seconds, nodes=4, workers_per_node=2, interruptions=rate, replacement=20.0)
    redone = simulate(pool, 150, rng()).redone.mean()
    assert redone == pytest.approx(1000 * (lost_to_restarts(seconds, rate) - seconds), rel=0.05)


def test_nobody_pays_for_a_node_that_is_gone() -> None:
    pool = Pool(chunks=200, seconds=30.0, nodes=2, interruptions=1 / 200, replacement=100.0)
    out = simulate(pool, 10, rng())
    assert (out.paid < out.wall * 2).all()
    # Alive a share 200 / (200 + 100) of the time.
    assert (out.paid / (out.wall * 2)).mean() == pytest.approx(2 / 3, abs=0.05)


def test_the_mean_of_a_chunk_does_not_depend_on_its_spread() -> None:
    pool = Pool(chunks=1, seconds=10.0, nodes=1, jitter=0.5)
    assert pool.times(200_000, rng()).mean() == pytest.approx(10.0, rel=0.01)


def test_more_nodes_are_never_slower() -> None:
    walls = [
        simulate(Pool(chunks=500, seconds=20.0, nodes=n, node_start=60.0, jitter=0.1), 10, rng()).wall.mean()
        for n in (1, 2, 4, 8, 16, 500, 1000)
    ]
    assert all(later <= before * 1.01 for before, later in itertools.pairwise(walls))
    assert walls[-1] >= 60.0 + 20.0


@pytest.mark.parametrize(
    "changes",
    [
        {"jitter": 0.2},
        {"jitter": 0.05, "stragglers": 0.02, "straggler_factor": 5.0},
        {"jitter": 0.1, "interruptions": 0.5 / HOUR, "replacement": 120.0, "worker_start": 40.0},
        {"jitter": 0.1, "interruptions": 4 / HOUR, "replacement": 300.0},
    ],
)
def test_taking_chunks_together_agrees_with_following_each(changes: dict[str, float]) -> None:
    pool = Pool(chunks=4000, seconds=60.0, nodes=20, workers_per_node=4, node_start=100.0, **changes)  # type: ignore[arg-type]
    followed = np.array([exact(pool, rng(i)) for i in range(12)]).mean(axis=0)
    short_cut = np.array([together(pool, rng(100 + i)) for i in range(12)]).mean(axis=0)
    assert short_cut[:2] == pytest.approx(followed[:2], rel=0.03)
    assert short_cut[2] == pytest.approx(followed[2], rel=0.15)


def test_thirteen_million_images_on_a_thousand_gpus_follow_few_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[int] = []

    def counted(pool: Pool, *rest: object) -> tuple[float, float, float]:
        followed.append(pool.chunks)
        return exact(pool, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(s, "exact", counted)
    pool = Pool(chunks=80_250, seconds=65.0, nodes=125, workers_per_node=8, jitter=0.1, interruptions=0.05 / HOUR)
    out = simulate(replace(pool, replacement=300.0, worker_start=90.0), 20, rng())
    assert sum(followed) == 20 * s.TAIL * 1000
    assert out.wall.mean() == pytest.approx(90 + 80_250 * 65 / 1000, rel=0.05)


def test_chunks_longer_than_any_node_lives_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "MOST_INTERVALS", 50)
    pool = Pool(chunks=3, seconds=HOUR, nodes=1, interruptions=1.0)
    assert math.isinf(simulate(pool, 1, rng()).wall[0])
    assert math.isinf(simulate(replace(pool, chunks=10_000), 1, rng()).wall[0])


def test_jobs_in_slots() -> None:
    equal = np.full((1, 10), 3.0)
    assert in_slots(equal, 2) == pytest.approx(15.0)
    assert in_slots(equal, 20) == pytest.approx(3.0)
    assert in_slots(np.array([[9.0, 1.0, 1.0, 1.0]]), 2) == pytest.approx(9.0)
    assert in_slots(np.zeros((3, 0)), 2).tolist() == [0.0, 0.0, 0.0]


def test_a_slow_trial_keeps_those_waiting_that_need_its_result() -> None:
    slow_first = np.array([[10.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    assert in_slots(slow_first, 2) == pytest.approx(10.0)
    # With a window of 2 the third waits for the first; then two at a time.
    assert in_slots(slow_first, 2, window=2) == pytest.approx(12.0)
    assert in_slots(slow_first, 2, window=4) == pytest.approx(11.0)


def test_a_job_with_checkpoints_loses_half_a_segment() -> None:
    seconds, rate = np.full(4000, 5 * HOUR), 0.5 / HOUR
    taken = with_restarts(seconds, rate, segment=np.full(4000, 600.0), replacement=300.0, rng=rng())
    assert taken.mean() == pytest.approx(5 * HOUR + 2.5 * 600.0, rel=0.01)
    assert (with_restarts(seconds, 0.0, segment=seconds, replacement=1.0, rng=rng()) == seconds).all()


def test_lives_that_are_given_are_lived() -> None:
    """Two chunks are done when the node dies in its third; three seconds later the other two follow."""
    pool = Pool(chunks=4, seconds=2.0, nodes=1, replacement=3.0)
    assert exact(pool, np.random.default_rng(0), lives=[iter([5.0, math.inf])]) == (12.0, 9.0, 1.0)
    # Of two nodes one dies at once: the other does all until it is back, and they share the rest.
    pool = Pool(chunks=5, seconds=2.0, nodes=2, replacement=5.0)
    wall, _, redone = exact(pool, np.random.default_rng(0), lives=[iter([1.0, math.inf]), iter([math.inf])])
    assert (wall, redone) == (8.0, 1.0)
