"""The Monte-Carlo against closed forms, and chunks that are handed out together against one by one."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from ray_synth.planning.simulate import Pool, exact, simulate, undisturbed, with_restarts
from ray_synth.tasks import in_slots

from .conftest import lost_to_restarts

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
        simulate(Pool(chunks=500, seconds=20.0, nodes=n, node_start=60.0, jitter=0.1), 100, rng()).wall.mean()
        for n in (1, 2, 4, 8, 16, 500, 1000)
    ]
    assert all(later <= before * 1.01 for before, later in itertools.pairwise(walls))
    assert walls[-1] >= 60.0 + 20.0


@pytest.mark.parametrize(
    ("chunks", "nodes", "each"), [(1, 3, 1), (7, 2, 4), (130, 8, 8), (1000, 20, 4), (4210, 75, 8), (2000, 1, 3)]
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"jitter": 0.02},
        {"jitter": 0.2, "in_flight": 2},
        {"jitter": 0.05, "stragglers": 0.05, "straggler_factor": 5.0},
    ],
)
def test_chunks_together_agree_with_one_by_one(chunks: int, nodes: int, each: int, changes: dict[str, float]) -> None:
    """From less than a round of them to hundreds."""
    pool = Pool(
        chunks=chunks, seconds=60.0, nodes=nodes, workers_per_node=each, node_start=100.0, worker_start=5.0, **changes
    )  # type: ignore[arg-type]
    repetitions = max(40, 4000 // chunks)
    one_by_one = np.array([exact(pool, rng(i))[0] for i in range(repetitions)])
    together = np.array([undisturbed(pool, rng(5000 + i))[0] for i in range(repetitions)])
    noise = 3.5 * math.hypot(one_by_one.std(), together.std()) / math.sqrt(repetitions)
    assert together.mean() == pytest.approx(one_by_one.mean(), abs=max(noise, 1e-9), rel=0.0)
    assert noise < 0.02 * one_by_one.mean() or chunks < 1000


def test_deaths_change_nothing_but_what_they_hit() -> None:
    """Where a node dies in about every other repetition, both ways are gone in turn."""
    pool = Pool(chunks=1250, seconds=60.0, nodes=20, workers_per_node=30, jitter=0.02, interruptions=0.8 / HOUR)
    one_by_one = np.array([exact(pool, rng(i)) for i in range(60)])
    out = simulate(pool, 60, rng(5000))
    hit = out.redone > 0
    assert 10 < hit.sum() < 60
    assert out.wall.mean() == pytest.approx(one_by_one[:, 0].mean(), rel=0.02)
    assert out.paid.mean() == pytest.approx(one_by_one[:, 1].mean(), rel=0.02)
    assert out.redone.mean() == pytest.approx(one_by_one[:, 2].mean(), rel=0.4)
    assert out.wall[hit].mean() > out.wall[~hit].mean()


def test_thirteen_million_images_on_a_thousand_gpus() -> None:
    pool = Pool(
        chunks=80_250,
        seconds=65.0,
        nodes=125,
        workers_per_node=8,
        worker_start=90.0,
        jitter=0.1,
        interruptions=0.05 / HOUR,
        replacement=300.0,
    )
    wall = simulate(pool, 5, rng()).wall.mean()
    busy = 90 + 80_250 * 65 / 1000
    assert busy < wall < busy + 65 + 390  # whose machine dies last is waited for


def test_what_was_handed_to_a_dead_worker_waits_for_it() -> None:
    """Two nodes, ten chunks of a minute, the second dies in the middle of its fourth and comes back after ten."""
    pool = Pool(chunks=10, seconds=60.0, nodes=2, replacement=600.0)
    lives = [iter([math.inf]), iter([210.0, math.inf])]
    assert exact(pool, rng(), lives=lives) == (210 + 600 + 60, pytest.approx(2 * 870 - 600), 30.0)
    lives = [iter([math.inf]), iter([210.0, math.inf])]
    assert exact(replace(pool, in_flight=2), rng(), lives=lives)[0] == 210 + 600 + 120


def test_of_an_odd_number_of_workers_the_last_node_has_fewer() -> None:
    pool = Pool(chunks=90, seconds=10.0, nodes=2, workers_per_node=2, most_workers=3)
    assert simulate(pool, 1, rng()).wall.tolist() == [300.0]
    # The node of one worker dies in its tenth chunk, and comes back for the last ten rounds.
    wall, _, redone = exact(pool, rng(), lives=[iter([math.inf]), iter([95.0, math.inf])])
    assert redone == 5.0
    assert 300.0 < wall <= 320.0


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


def test_a_chunk_goes_to_the_actor_with_the_least_in_hand() -> None:
    """As Ray Data hands them out: one to each before a second to any."""
    pool = Pool(chunks=4, seconds=100.0, nodes=4, in_flight=2)
    assert exact(pool, rng()) == (100.0, 400.0, 0.0)
    assert undisturbed(pool, rng())[0] == 100.0
    assert exact(replace(pool, chunks=5), rng())[0] == undisturbed(replace(pool, chunks=5), rng())[0] == 200.0


def test_whether_a_node_dies_is_asked_once() -> None:
    """A repetition whose chunks take long is hit more often. Its chunks are the same ones, hit or not: drawn anew they
    would be the mean ones, and the wall time 307 s."""
    pool = Pool(
        chunks=8,
        seconds=100.0,
        nodes=4,
        jitter=0.1,
        stragglers=0.05,
        straggler_factor=3.0,
        interruptions=1 / 1000,
        replacement=60.0,
    )
    mean = simulate(pool, 8_000, rng()).wall.mean()
    assert mean == pytest.approx(316.5, abs=3.5)  # three standard errors
    assert mean == pytest.approx(np.mean([exact(pool, rng(i))[0] for i in range(4_000)]), abs=5.5)


def test_restarts_have_their_spread_too() -> None:
    """Ten segments, each begun until it is through: against drawing every life."""
    seconds, segment, rate, replacement = 300.0, 30.0, 1 / 50, 10.0
    taken = with_restarts(
        np.full(100_000, seconds), rate, segment=np.full(100_000, segment), replacement=replacement, rng=rng()
    )
    one_by_one, chance = np.full(20_000, seconds), rng(1)
    for _ in range(10):
        left = np.ones(len(one_by_one), dtype=bool)
        while left.any():
            lives = chance.exponential(1 / rate, len(one_by_one))
            left &= lives < segment
            one_by_one += np.where(left, lives + replacement, 0.0)
    assert taken.mean() == pytest.approx(one_by_one.mean(), rel=0.01)
    assert taken.std() == pytest.approx(one_by_one.std(), rel=0.03)
    assert taken.std() == pytest.approx(94.9, rel=0.03)


def test_a_job_with_checkpoints_loses_half_a_segment() -> None:
    seconds, rate = np.full(4000, 5 * HOUR), 0.5 / HOUR
    taken = with_restarts(seconds, rate, segment=np.full(4000, 600.0), replacement=300.0, rng=rng())
    assert taken.mean() == pytest.approx(5 * HOUR + 2.5 * 600.0, rel=0.01)
    assert (with_restarts(seconds, 0.0, segment=seconds, replacement=1.0, rng=rng()) == seconds).all()
    nothing = np.zeros(3)
    assert with_restarts(nothing, rate, segment=nothing, replacement=1.0, rng=rng()).tolist() == [0.0, 0.0, 0.0]


def test_a_segment_that_takes_a_node_s_life_is_begun_until_it_is_through() -> None:
    rate, segment = 1 / HOUR, 1.5 * HOUR
    seconds = np.full(20_000, 6 * HOUR)
    taken = with_restarts(seconds, rate, segment=np.full(20_000, segment), replacement=0.0, rng=rng())
    assert taken.mean() == pytest.approx(4 * lost_to_restarts(segment, rate), rel=0.01)


def test_lives_that_are_given_are_lived() -> None:
    """Two chunks are done when the node dies in its third; three seconds later the other two follow."""
    pool = Pool(chunks=4, seconds=2.0, nodes=1, replacement=3.0)
    assert exact(pool, np.random.default_rng(0), lives=[iter([5.0, math.inf])]) == (12.0, 9.0, 1.0)
    # Of two nodes one dies at once: the other does all until it is back, and they share the rest.
    pool = Pool(chunks=5, seconds=2.0, nodes=2, replacement=5.0)
    wall, _, redone = exact(pool, np.random.default_rng(0), lives=[iter([1.0, math.inf]), iter([math.inf])])
    assert (wall, redone) == (8.0, 1.0)
