"""A plan against closed forms: what it says without noise, how it scales, where it bends, what the prediction saves."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from ray_synth.config import load_experiment
from ray_synth.errors import InputError
from ray_synth.pipeline import Run
from ray_synth.planning.plan import Plan, plan
from ray_synth.planning.rates import Rates, gpu_rates, priced
from ray_synth.planning.work import Work, work_of
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.tasks import Alternative, InSlots, Task, Tasks

from ..conftest import DIGITS, ROOT
from .conftest import (
    POOL,
    exactly,
    final_work,
    head_work,
    images_work,
    lost_to_restarts,
    rates_of,
    trials_work,
    work,
)

IMAGENET = ROOT / "sweeps" / "imagenet.yaml"


def described(tmp_path: Path, **changes: object) -> Run:
    """ImageNet, by its published size."""
    return Run(load_experiment(IMAGENET, changes), RunFolder(tmp_path / "out"), Reporter(), described=True)


def walls(found: Plan) -> dict[str, float]:
    return {stage.name: stage.wall.median for stage in found.stages}


def test_a_generation_without_noise_is_a_whole_number_of_rounds() -> None:
    rates = rates_of(slots=3, start=4.0, ray_start=5.0, pool_start=6.0, chunk=1.0, image=0.2)
    found = plan(work(generate=images_work()), rates, [1, 2])
    assert walls(found) == {"start": 4.0, "generate": 5.0 + 6.0 + math.ceil(100 / 3) * 3.0}
    assert found.scaling[1].wall.median == 4.0 + 5.0 + 6.0 + math.ceil(100 / 6) * 3.0
    assert found.here.wall.low == found.here.wall.high
    assert found.hours.median == pytest.approx(100 * 3.0 / 3600)
    assert (found.images, found.chunks) == (1000, 100)
    assert found.bytes_written == 1000 * 50 + 100 * 5000


def test_chunks_go_to_who_has_least_in_hand() -> None:
    four = work(generate=images_work(images=4, chunks=4, in_flight=2))
    assert walls(plan(four, rates_of(slots=1, image=100.0), [4]))["generate"] == 100.0


def test_all_stages_add_up() -> None:
    rates = rates_of(
        slots=2,
        start=1.0,
        ray_start=2.0,
        generator_start=1.0,
        generator_step=0.1,
        image=0.01,
        read_image=0.001,
        estimate=7.0,
        tune_start=3.0,
        trial=0.5,
        update=0.02,
        train_start=4.0,
        training=0.5,
        training_update=0.02,
        evaluate=2.0,
        test_image=0.001,
        judged_image=0.002,
        report=1.5,
    )
    reading = Tasks(tasks=(Task(name="read 1600", takes={"read_image": 1600}),), once="reading")
    found = plan(
        work(
            finetune=Tasks(tasks=(Task(name="g", takes={"generator_step": 50}),), starts={"generator_start": 1}),
            generate=images_work(images=1600, chunks=20),
            estimate=(reading, head_work(estimate=1)),
            sweep=(reading, trials_work({"trial": 1, "update": 100}, 6)),
            train=(reading, final_work({"training": 1, "training_update": 100}, 3)),
            evaluate=(reading, head_work(evaluate=1, test_image=600, judged_image=1600)),
            report=(reading, head_work(report=1)),
        ),
        rates,
    )
    assert walls(found) == pytest.approx(
        {
            "start": 1.0,
            "finetune": 1.0 + 50 * 0.1,
            "generate": 2.0 + 10 * 0.8,
            "estimate": 1600 * 0.001 + 7.0,
            "sweep": 3.0 + 3 * 2.5,  # six trials, two at a time
            "train": 4.0 + 3 * 2.5,
            "evaluate": 2.0 + 200 * 3 * 0.001 + 1600 * 0.002,
            "report": 1.5,
        }
    )
    assert found.here.wall.median == pytest.approx(sum(walls(found).values()))


def test_more_images_are_read_again() -> None:
    def reading(count: int) -> Tasks:
        return Tasks(tasks=(Task(name=f"read {count}", takes={"read_image": count}),), once="reading")

    found = plan(work(estimate=reading(10), sweep=reading(50), train=reading(50)), rates_of(read_image=1.0))
    assert walls(found) == {"start": 0.0, "estimate": 10.0, "sweep": 50.0}


def test_early_stops_shorten_the_sweep() -> None:
    rungs = {"rungs": (0.2, 0.6), "kept": (1 / 3, 2 / 3)}
    stopped = work(sweep=trials_work({"update": 100}, 200, **rungs))
    found = plan(stopped, rates_of(update=0.1))
    hours = {stage.name: stage.hours.median for stage in found.stages}
    share = 0.2 + 0.4 / 2 + 0.4 / 4  # in the middle half go on at each rung
    assert hours["sweep"] * 3600 == pytest.approx((4 + 196 * share) * 100 * 0.1, rel=0.05)  # four before any result
    assert "50% of them after early stops" in found.stages[1].work or "51%" in found.stages[1].work
    unpruned = plan(work(sweep=trials_work({"update": 100}, 200)), rates_of(update=0.1))
    assert unpruned.stages[1].hours.median * 3600 == pytest.approx(200 * 100 * 0.1)
    assert "early stops" not in unpruned.stages[1].work


def test_no_trial_is_stopped_before_there_is_anything_to_compare_it_with() -> None:
    way = trials_work({"update": 1}, 6, rungs=(0.4,), kept=(0.3, 0.6)).way
    assert isinstance(way, InSlots)
    assert (way.free(3), way.free(1), replace(way, done=3).free(2), replace(way, done=9).free(2)) == (6, 2, 1, 0)


def test_more_nodes_are_never_slower() -> None:
    rates = rates_of(start=9.0, pool_start=5.0, image=0.5, update=0.1, estimate=3.0)
    jittery = replace(rates, jitter=exactly(0.2))
    jittery = replace(jittery, seconds={**rates.seconds, "image": replace(rates.seconds["image"], sigma=0.3)})
    whole = work(
        generate=images_work(images=1600, chunks=20),
        estimate=head_work(estimate=1),
        sweep=trials_work({"update": 100}, 6, rungs=(0.4,), kept=(0.3, 0.6)),
    )
    medians = [point.wall.median for point in plan(whole, jittery, [1, 2, 4, 8, 16, 64, 256]).scaling]
    assert all(later <= before * 1.02 for before, later in itertools.pairwise(medians))
    assert medians[-1] >= 9.0 + 5.0 + 3.0


def test_nothing_left_costs_the_start_alone() -> None:
    found = plan(replace(work(), complete=("finetune",)), rates_of(start=3.0))
    assert walls(found) == {"start": 3.0}
    assert found.saving is None


def bend(given: Work, rates: Rates, nodes: list[int]) -> tuple[int, str] | None:
    found = plan(given, rates, nodes).bend
    return (found.nodes, found.cause) if found else None


def test_the_curve_bends_where_something_runs_out() -> None:
    rates = rates_of(slots=1, image=1.0)
    nodes, images = [1, 2, 4, 8, 16, 32, 64, 128, 256], work(generate=images_work())
    assert bend(images, rates, [1, 2, 4]) is None
    # A hundred chunks of 10 s: with 128 nodes a fifth of them has nothing to do, with 256 more than half.
    assert bend(images, rates, nodes) == (256, "data")
    assert bend(work(generate=images_work(most_actors=10)), rates, nodes) == (32, "actors")
    assert bend(images, replace(rates, start=exactly(200.0)), nodes) == (8, "start-up")
    assert bend(images, limited(rates, head_tasks=0.25), nodes) == (8, "head node")
    assert bend(images, limited(rates, storage_bytes=2000.0), nodes) == (8, "storage")
    final = work(generate=images_work(), train=final_work({"training_update_one_side": 100}))
    slow = replace(rates, seconds={**rates.seconds, "training_update_one_side": exactly(5.0)})
    assert bend(final, slow, nodes) == (8, "training")


def limited(rates: Rates, **limits: float) -> Rates:
    return replace(rates, limits={**rates.limits, **{name: exactly(value) for name, value in limits.items()}})


def test_a_limit_is_waited_for() -> None:
    rates = limited(rates_of(slots=1, image=1.0), storage_puts=0.05)
    assert walls(plan(work(generate=images_work()), rates, [50]))["generate"] == pytest.approx(100 / 0.05)


def test_money_is_paid_for_nodes_that_a_stage_uses() -> None:
    rates = replace(rates_of(slots=1, image=1.0, estimate=1000.0), price=exactly(3.6), spot_price=exactly(0.36))
    found = plan(work(generate=images_work(), estimate=head_work(estimate=1)), rates, [10])
    assert found.here.money is not None
    assert found.here.spot is not None
    assert found.here.money.median == pytest.approx((100 * 10.0 + 1000.0) * 3.6 / 3600)
    assert found.here.spot.median == pytest.approx(found.here.money.median / 10)
    assert plan(work(generate=images_work()), rates_of(image=1.0)).here.money is None


def test_interruptions_cost_what_is_redone() -> None:
    rates = replace(rates_of(slots=1, image=6.0), price=exactly(1.0), spot_price=exactly(1.0))
    often = priced(rates, price=None, spot_interruptions=12.0)  # every 5 minutes; a chunk takes one
    found = plan(work(generate=images_work()), often, [4])
    expected = 100 * lost_to_restarts(60.0, 12.0 / 3600) / 4
    assert found.here.wall.median == pytest.approx(100 * 60.0 / 4)
    assert found.here.wall_spot.median == pytest.approx(expected, rel=0.08)
    assert found.here.wall_spot.high > found.here.wall_spot.low


def test_chunks_that_no_node_lives_for_are_refused() -> None:
    """Ten images of 46 s take 7.7 lives of a minute. Three are allowed: of nodes that live longer, or three images."""
    images, rates = work(generate=images_work()), rates_of(slots=1, image=10.0)
    allowed = priced(rates, price=None, spot_interruptions=60.0)
    assert plan(images, allowed).here.wall_spot.median > plan(images, allowed).here.wall.median
    longer = replace(allowed, seconds={**allowed.seconds, "image": exactly(46.4)})
    said = r"must be <= 23.27 .* a chunk .* got 60; type --spot-interruptions 23.27, or --set generate.chunk_size=3"
    with pytest.raises(InputError, match=said):
        plan(images, longer)
    assert plan(work(generate=images_work(images=1002, chunks=334)), longer).here.wall_spot.high < math.inf
    slow = replace(longer, seconds={**longer.seconds, "pool_start": exactly(36_000.0)})
    with pytest.raises(InputError, match=r"type --spot-interruptions 0.29$"):
        plan(images, slow)


def test_a_final_training_goes_on_from_where_it_was_evaluated() -> None:
    """Five hours on nodes that live for ten: what an interruption costs is half of what lies between evaluations."""
    takes = {"training_update_one_side": 18_000.0}
    often = priced(rates_of(training_update_one_side=1.0), price=None, spot_interruptions=0.1)
    for evaluations in (1, 10):
        found = plan(work(train=final_work(takes, 400, segments=evaluations)), often)
        expected = 400 * evaluations * lost_to_restarts(18_000 / evaluations, 0.1 / 3600)
        assert found.here.wall_spot.median == pytest.approx(expected, rel=0.02)
        assert any("interrupted 200 times" in note for note in found.notes)
    assert not any("interrupted" in note for note in plan(work(train=final_work(takes)), often).notes)
    cure = r"what a final training does between two checkpoints .*, got 1; type .*, or --set classifier.evaluations=2"
    with pytest.raises(InputError, match=cure):
        plan(work(train=final_work(takes)), priced(often, price=None, spot_interruptions=1.0))


def test_the_prediction_saves_all_trainings_but_one() -> None:
    takes = {"trial": 1, "update": 500.0}
    eight = trials_work(takes, 8, segments=1)
    other = Alternative(tasks=eight, instead=Task(name="once", takes=takes), images=1000, images_instead=200, pool=POOL)
    whole = work(other, generate=images_work(), sweep=eight)
    saving = plan(whole, rates_of(update=0.1)).saving
    assert saving is not None
    assert saving.trainings == pytest.approx(1 - 1 / 8)  # the paper's "1 model instead of 8", which it calls 90 %
    with_images = plan(whole, rates_of(update=0.1, image=0.4)).saving
    assert with_images is not None
    assert with_images.everything == pytest.approx(1 - (50 + 80) / (400 + 400))
    # What is done already changes nothing: it is against the whole sweep.
    done = work(other)
    assert plan(done, rates_of(start=1.0, update=0.1, image=0.4)).saving == with_images
    unsampled = plan(done, without(rates_of(start=1.0, update=0.1), "image")).saving
    assert unsampled is not None
    assert (unsampled.trainings, unsampled.everything) == (with_images.trainings, None)
    assert plan(done, without(rates_of(start=1.0, image=0.4), "trial")).saving is None
    assert plan(done, rates_of(start=1.0, image=0.4)).saving is None  # of trainings that take no time


def without(rates: Rates, *units: str) -> Rates:
    return replace(rates, seconds={unit: each for unit, each in rates.seconds.items() if unit not in units})


def test_a_plan_needs_the_rates_of_what_is_left_and_no_others() -> None:
    unmeasured = without(rates_of(image=0.1), "estimate", "trial", "train_start")
    stages = {
        "generate": images_work(),
        "estimate": head_work(estimate=1),
        "sweep": trials_work({"trial": 1}, 3),
    }
    assert set(walls(plan(work(generate=stages["generate"]), unmeasured))) == {"start", "generate"}
    with pytest.raises(InputError, match=r"needs 'estimate', and the rates hold nothing for it.*without --until"):
        plan(work(**stages), unmeasured)
    with pytest.raises(InputError, match="needs 'trial'"):
        plan(work(sweep=stages["sweep"]), unmeasured)


def test_thirteen_million_images_on_a_thousand_gpus(tmp_path: Path) -> None:
    run = described(tmp_path, **{"generate.num_actors": None})
    found = plan(work_of(run, "generate"), gpu_rates("A100", run.stages.values()), [125])
    assert found.images == 12_840_000
    assert found.nodes * found.slots == 1000
    generate = next(stage for stage in found.stages if stage.name == "generate")
    assert generate.hours.median == pytest.approx(1400, rel=0.15)  # of one A100, as sweeps/imagenet.yaml reckons
    assert 1.0 < generate.wall.median / 3600 < 3.0


def test_a_pool_of_so_many_actors_is_no_faster_on_more_nodes() -> None:
    rates = rates_of(slots=2, image=1.0)
    found = plan(work(generate=images_work(most_actors=4)), rates, [1, 2, 8])
    assert [point.wall.median for point in found.scaling] == [500.0, 250.0, 250.0]
    odd = plan(work(generate=images_work(most_actors=3)), rates, [1, 2, 8])
    assert [point.wall.median for point in odd.scaling] == [500.0, 340.0, 340.0]


def test_trials_find_room_or_are_refused(tmp_path: Path) -> None:
    run = described(tmp_path)
    rates = gpu_rates("T4", run.stages.values())
    whole = work_of(run)
    trials = replace(whole, stages=tuple(stage for stage in whole.stages if stage.name == "sweep"))
    with pytest.raises(InputError, match=r"sweep.workers_per_trial=8 and there are 1 GPUs; type --nodes 8"):
        plan(trials, rates)
    assert plan(trials, rates, [8]).nodes == 8


@pytest.mark.parametrize("nodes", [[], [0], [1, -4], [10**9]])
def test_numbers_of_nodes_that_are_none(nodes: list[int]) -> None:
    with pytest.raises(InputError, match=r"--nodes takes whole numbers from 1 to .*; type --nodes 1,2,4,8"):
        plan(work(generate=images_work()), rates_of(), nodes)


def test_a_plan_is_json_and_the_same_every_time(tmp_path: Path) -> None:
    run = Run(load_experiment(DIGITS), RunFolder(tmp_path / "out"), Reporter())
    rates = gpu_rates("A10G", run.stages.values())
    first, second = (plan(work_of(run), rates, [1, 2]).to_dict() for _ in range(2))
    assert json.loads(json.dumps(first, allow_nan=False)) == first == second
    assert first["origins"]["price"].startswith("AWS")
    assert any("guess" in note for note in first["notes"])


def gpu_seconds(found: Plan, stage: str) -> float:
    return next(each.hours.median for each in found.stages if each.name == stage) * 3600


@pytest.mark.parametrize(
    ("each", "published", "measured", "gpus"),  # seconds of wall time, and the share of a GPU that an actor holds
    [(1.0, 500.0, 500.0, 1.0), (0.5, 500.0, 250.0, 0.5), (0.4, 500.0, 250.0, 0.5), (2.0, 1000.0, 1000.0, 2.0)],
)
def test_actors_share_gpus_and_hold_a_cpu_each(each: float, published: float, measured: float, gpus: float) -> None:
    """A hundred chunks of 10 s. Published rates are of a whole GPU, measured ones of an actor among others."""
    images, on_cpus = work(generate=images_work(gpus_per_actor=each)), rates_of(slots=2, image=1.0)
    assert walls(plan(images, on_cpus))["generate"] == 500.0
    on_gpus = replace(on_cpus, kind="gpu")
    found = plan(images, on_gpus)
    assert walls(found)["generate"] == published
    assert gpu_seconds(found, "generate") == pytest.approx(1000.0 * max(1.0, gpus))
    here = plan(images, replace(on_gpus, measured_for={"generator": "x"}))
    assert here.here.wall.median == pytest.approx(measured, rel=0.05)  # but for the machine's pace
    assert gpu_seconds(here, "generate") == pytest.approx(1000.0 * gpus, rel=0.05)


def test_an_actor_lies_on_one_node() -> None:
    rates = replace(rates_of(slots=2, image=1.0), kind="gpu")
    with pytest.raises(InputError, match=r"gpus_per_actor must be <= 2, .*, got 4; type --gpus-per-node 4"):
        plan(work(generate=images_work(gpus_per_actor=4.0)), rates, [8])


def test_trials_share_gpus() -> None:
    """Eight trials of 40 s: four on a GPU take four times as long, and together as long as one after the other."""
    takes = {"update": 400.0}
    eight = trials_work(takes, 8, gpus=0.25)
    other = Alternative(tasks=eight, instead=Task(name="once", takes=takes), images=0, images_instead=0, pool=POOL)
    trials = work(other, sweep=eight)
    published = replace(rates_of(slots=2, update=0.1), kind="gpu")
    found = plan(trials, published)
    assert walls(found)["sweep"] == pytest.approx(160.0)
    assert gpu_seconds(found, "sweep") == pytest.approx(8 * 40.0)
    here = plan(trials, replace(published, measured_for={"classifier": "x"}))
    assert gpu_seconds(here, "sweep") == pytest.approx(8 * 40.0 / 4, rel=0.05)
    for each in (found, here):
        assert each.saving is not None
        assert each.saving.trainings == pytest.approx(1 - 1 / 8)
    two = plan(work(sweep=trials_work(takes, 8, gpus=0.25, most=2)), published)
    assert walls(two)["sweep"] == pytest.approx(4 * 80.0)  # two at a time, on one GPU
    money = plan(trials, replace(published, price=exactly(3600.0)), [10]).here.money
    assert money is not None
    assert money.median == pytest.approx(160.0)  # eight quarters of a GPU lie on one node


def test_final_trainings_find_room_or_are_refused() -> None:
    final = work(train=final_work({"training_update_one_side": 10}, workers=3))
    with pytest.raises(InputError, match=r"classifier.num_workers=3 and there are 2 CPUs; type --nodes 2"):
        plan(final, rates_of(slots=2))
    assert plan(final, rates_of(slots=2), [2]).nodes == 2


def test_several_workers_share_the_updates_of_a_training() -> None:
    final = work(train=final_work({"training": 1, "training_update": 100}, workers=2))
    rates = replace(rates_of(training=5.0, training_update=1.0), data_parallel=exactly(0.8))
    assert walls(plan(final, rates))["train"] == pytest.approx(5.0 + 100 / (2 * 0.8))
