"""A plan against closed forms: what it says without noise, how it scales, where it bends, what the prediction saves."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest

from ray_synth.config import Experiment, load_experiment
from ray_synth.errors import InputError
from ray_synth.planning.plan import Plan, plan
from ray_synth.planning.rates import UNMEASURED, Limits, Rates, gpu_rates, priced
from ray_synth.planning.sizes import Sizes, published_sizes
from ray_synth.planning.work import SweepWork, Training, Work, counted, up_to

from ..conftest import ROOT
from .conftest import exactly, lost_to_restarts, rates_of

SWEEP = SweepWork(
    trials=(),
    repeats=1,
    evaluations=5,
    rungs=(),
    least_kept=1.0,
    most_kept=1.0,
    workers_per_trial=1,
    gpus_per_trial=1.0,
    concurrency=None,
)


def images(sizes: Sizes, **changes: object) -> Work:
    """A generation and nothing else."""
    work = Work(name="images", sizes=sizes, images=1000, chunks=100, chunk_size=10, image_bytes=50.0, steps_per_image=5)
    return replace(work, **changes)  # type: ignore[arg-type]


def walls(found: Plan) -> dict[str, float]:
    return {stage.name: stage.wall.median for stage in found.stages}


def test_a_generation_without_noise_is_a_whole_number_of_rounds(sizes: Sizes) -> None:
    rates = rates_of(slots=3, start=4.0, ray_start=5.0, pool_start=6.0, chunk=1.0, image=0.2)
    found = plan(images(sizes), rates, [1, 2])
    assert walls(found) == {"start": 4.0, "generate": 5.0 + 6.0 + math.ceil(100 / 3) * 3.0}
    assert found.scaling[1].wall.median == 4.0 + 5.0 + 6.0 + math.ceil(100 / 6) * 3.0
    assert found.here.wall.low == found.here.wall.high
    assert found.hours.median == pytest.approx(100 * 3.0 / 3600)
    assert found.bytes_written == 1000 * 50 + 100 * 5000


def test_all_stages_add_up(small: Experiment, sizes: Sizes) -> None:
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
        update_one_side=0.02,
        train_start=4.0,
        evaluate=2.0,
        test_image=0.001,
        judged_image=0.002,
        report=1.5,
    )
    unpruned = small.model_copy(update={"sweep": small.sweep.model_copy(update={"pruner": "none"})})
    found = plan(counted(unpruned, sizes), rates)
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


def test_early_stops_shorten_the_sweep(small: Experiment, sizes: Sizes) -> None:
    many = small.model_copy(update={"sweep": small.sweep.model_copy(update={"num_trials": 200})})
    rates = rates_of(update=0.1, update_one_side=0.1)
    work = counted(many, sizes)
    assert work.sweep is not None
    hours = {stage.name: stage.hours.median for stage in plan(work, rates).stages}
    assert hours["sweep"] * 3600 == pytest.approx(work.sweep.expected(slots=2) * 0.1, rel=0.05)


def test_more_nodes_are_never_slower(small: Experiment, sizes: Sizes) -> None:
    rates = rates_of(start=9.0, pool_start=5.0, image=0.5, update=0.1, update_one_side=0.1, estimate=3.0)
    jittery = replace(rates, jitter=exactly(0.2), image=replace(rates.image, sigma=0.3))
    found = plan(counted(small, sizes), jittery, [1, 2, 4, 8, 16, 64, 256])
    medians = [point.wall.median for point in found.scaling]
    assert all(later <= before * 1.02 for before, later in itertools.pairwise(medians))
    assert medians[-1] >= 9.0 + 5.0 + 3.0


def test_nothing_left_costs_the_start_alone(sizes: Sizes) -> None:
    found = plan(Work(name="done", sizes=sizes, complete=("finetune",)), rates_of(start=3.0))
    assert walls(found) == {"start": 3.0}
    assert found.saving is None


def bend(work: Work, rates: Rates, nodes: list[int]) -> tuple[int, str] | None:
    found = plan(work, rates, nodes).bend
    return (found.nodes, found.cause) if found else None


def test_the_curve_bends_where_something_runs_out(sizes: Sizes) -> None:
    rates = rates_of(slots=1, image=1.0)
    nodes = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert bend(images(sizes), rates, [1, 2, 4]) is None
    # A hundred chunks of 10 s: with 128 nodes a fifth of them has nothing to do, with 256 more than half.
    assert bend(images(sizes), rates, nodes) == (256, "data")
    assert bend(images(sizes, max_actors=10), rates, nodes) == (32, "actors")
    assert bend(images(sizes), replace(rates, start=exactly(200.0)), nodes) == (8, "start-up")
    slow_head = replace(rates, limits=replace(rates.limits, head_tasks=exactly(0.25)))
    assert bend(images(sizes), slow_head, nodes) == (8, "head node")
    slow_disk = replace(rates, limits=replace(rates.limits, storage_bytes=exactly(2000.0)))
    assert bend(images(sizes), slow_disk, nodes) == (8, "storage")
    final = images(sizes, final=(Training(ratio=0.0, real=10, synthetic=0, updates=100),))
    assert bend(final, replace(rates, update_one_side=exactly(5.0)), nodes) == (8, "training")


def test_a_limit_is_waited_for(sizes: Sizes) -> None:
    rates = rates_of(slots=1, image=1.0)
    limits: Limits = replace(rates.limits, storage_puts=exactly(0.05))
    assert walls(plan(images(sizes), replace(rates, limits=limits), [50]))["generate"] == pytest.approx(100 / 0.05)


def test_money_is_paid_for_nodes_that_a_stage_uses(sizes: Sizes) -> None:
    rates = replace(rates_of(slots=1, image=1.0, estimate=1000.0), price=exactly(3.6), spot_price=exactly(0.36))
    found = plan(images(sizes, pilot=10), rates, [10])
    assert found.here.money is not None
    assert found.here.spot is not None
    assert found.here.money.median == pytest.approx((100 * 10.0 + 1000.0) * 3.6 / 3600)
    assert found.here.spot.median == pytest.approx(found.here.money.median / 10)
    assert plan(images(sizes), rates_of(image=1.0)).here.money is None


def test_interruptions_cost_what_is_redone(sizes: Sizes) -> None:
    rates = replace(rates_of(slots=1, image=6.0), price=exactly(1.0), spot_price=exactly(1.0))
    often = priced(rates, price=None, spot_interruptions=12.0)  # every 5 minutes; a chunk takes one
    found = plan(images(sizes), often, [4])
    expected = 100 * lost_to_restarts(60.0, 12.0 / 3600) / 4
    assert found.here.wall.median == pytest.approx(100 * 60.0 / 4)
    assert found.here.wall_spot.median == pytest.approx(expected, rel=0.08)
    assert found.here.wall_spot.high > found.here.wall_spot.low


def test_chunks_that_no_node_lives_for_are_refused(sizes: Sizes) -> None:
    """Ten images of 46 s take 7.7 lives of a minute. Three are allowed: of nodes that live longer, or three images."""
    rates = rates_of(slots=1, image=10.0)
    allowed = priced(rates, price=None, spot_interruptions=60.0)
    assert plan(images(sizes), allowed).here.wall_spot.median > plan(images(sizes), allowed).here.wall.median
    longer = replace(allowed, image=exactly(46.4))
    said = r"must be <= 23.27 .* a chunk .* got 60; type --spot-interruptions 23.27, or --set generate.chunk_size=3"
    with pytest.raises(InputError, match=said):
        plan(images(sizes), longer)
    assert plan(images(sizes, chunks=334, chunk_size=3), longer).here.wall_spot.high < math.inf
    with pytest.raises(InputError, match=r"type --spot-interruptions 0.29$"):
        plan(images(sizes), replace(longer, pool_start=exactly(36_000.0)))


def test_a_final_training_goes_on_from_where_it_was_evaluated(sizes: Sizes) -> None:
    """Five hours on nodes that live for ten: what an interruption costs is half of what lies between evaluations."""
    one = Training(ratio=0.0, real=100, synthetic=0, updates=18_000)
    work = images(sizes, chunks=0, images=0, final=(one,) * 400)
    often = priced(rates_of(update_one_side=1.0), price=None, spot_interruptions=0.1)
    for evaluations in (1, 10):
        found = plan(replace(work, final_evaluations=evaluations), often)
        expected = 400 * evaluations * lost_to_restarts(18_000 / evaluations, 0.1 / 3600)
        assert found.here.wall_spot.median == pytest.approx(expected, rel=0.01)
        assert any("interrupted 200 times" in note for note in found.notes)
    assert not any("interrupted" in note for note in plan(replace(work, final=(one,)), often).notes)
    cure = r"what a final training does between two checkpoints .*, got 1; type .*, or --set classifier.evaluations=2"
    with pytest.raises(InputError, match=cure):
        plan(work, priced(often, price=None, spot_interruptions=1.0))


def test_the_prediction_saves_all_trainings_but_one(sizes: Sizes) -> None:
    one = Training(ratio=1.0, real=100, synthetic=100, updates=500)
    sweep = replace(SWEEP, trials=(one,) * 8)
    work = images(
        sizes,
        sweep=sweep,
        whole_sweep=sweep,
        one_training=one,
        all_images=1000,
        images_at_prediction=100,
        whole_pilot=200,
    )
    saving = plan(work, rates_of(update=0.1)).saving
    assert saving is not None
    assert saving.trainings == pytest.approx(1 - 1 / 8)  # the paper's "1 model instead of 8", which it calls 90 %
    with_images = plan(work, rates_of(update=0.1, image=0.4)).saving
    assert with_images is not None
    assert with_images.everything == pytest.approx(1 - (50 + 80) / (400 + 400))
    # What is done already changes nothing: it is against the whole sweep.
    done = replace(work, images=0, chunks=0, sweep=None, complete=("generate", "estimate", "sweep"))
    assert plan(done, rates_of(start=1.0, update=0.1, image=0.4)).saving == with_images
    unsampled = plan(done, replace(rates_of(start=1.0, update=0.1), image=UNMEASURED)).saving
    assert unsampled is not None
    assert (unsampled.trainings, unsampled.everything) == (with_images.trainings, None)
    assert plan(done, replace(rates_of(start=1.0, image=0.4), trial=UNMEASURED)).saving is None
    assert plan(done, rates_of(start=1.0, image=0.4)).saving is None  # of trainings that take no time


def test_a_plan_needs_the_rates_of_what_is_left_and_no_others(small: Experiment, sizes: Sizes) -> None:
    unmeasured = replace(rates_of(image=0.1), estimate=UNMEASURED, trial=UNMEASURED, train_start=UNMEASURED)
    assert set(walls(plan(counted(small, sizes, until="generate"), unmeasured))) == {"start", "finetune", "generate"}
    for until, name in (("estimate", "estimate"), ("sweep", "estimate"), ("report", "estimate")):
        with pytest.raises(InputError, match=rf"needs '{name}', and the rates hold nothing for it.*without --until"):
            plan(counted(small, sizes, until=until), unmeasured)
    with pytest.raises(InputError, match="needs 'trial'"):
        plan(counted(small, sizes, until="sweep"), replace(unmeasured, estimate=exactly(1.0)))
    with pytest.raises(InputError, match="needs 'read_image'"):
        plan(counted(small, sizes), replace(rates_of(), read_image=UNMEASURED))


def test_thirteen_million_images_on_a_thousand_gpus() -> None:
    e = load_experiment(ROOT / "sweeps" / "imagenet.yaml", {"generate.num_actors": None})
    sizes = published_sizes(e)
    found = plan(counted(e, sizes), gpu_rates("A100", e, sizes), [125])
    assert found.images == 12_840_000
    assert found.nodes * found.slots == 1000
    generate = next(stage for stage in found.stages if stage.name == "generate")
    assert generate.hours.median == pytest.approx(1400, rel=0.15)  # of one A100, as sweeps/imagenet.yaml reckons
    assert 1.0 < generate.wall.median / 3600 < 3.0


def test_a_pool_of_so_many_actors_is_no_faster_on_more_nodes(sizes: Sizes) -> None:
    rates = rates_of(slots=2, image=1.0)
    capped = images(sizes, max_actors=4)
    found = plan(capped, rates, [1, 2, 8])
    assert [point.wall.median for point in found.scaling] == [500.0, 250.0, 250.0]
    odd = plan(images(sizes, max_actors=3), rates, [1, 2, 8])
    assert [point.wall.median for point in odd.scaling] == [500.0, 340.0, 340.0]


def test_trials_find_room_or_are_refused(sizes: Sizes) -> None:
    e = load_experiment(ROOT / "sweeps" / "imagenet.yaml")
    imagenet = published_sizes(e)
    work, rates = counted(e, imagenet), gpu_rates("T4", e, imagenet)
    with pytest.raises(InputError, match=r"sweep.workers_per_trial=8 and there are 1 GPUs; type --nodes 8"):
        plan(work, rates)
    assert plan(up_to(work, "estimate"), rates).nodes == 1
    assert plan(work, rates, [8]).nodes == 8


@pytest.mark.parametrize("nodes", [[], [0], [1, -4], [10**9]])
def test_numbers_of_nodes_that_are_none(sizes: Sizes, nodes: list[int]) -> None:
    with pytest.raises(InputError, match=r"--nodes takes whole numbers from 1 to .*; type --nodes 1,2,4,8"):
        plan(images(sizes), rates_of(), nodes)


def test_a_plan_is_json_and_the_same_every_time(small: Experiment, sizes: Sizes) -> None:
    rates = gpu_rates("A10G", small, sizes)
    first, second = (plan(counted(small, sizes), rates, [1, 2]).to_dict() for _ in range(2))
    assert json.loads(json.dumps(first, allow_nan=False)) == first == second
    assert first["origins"]["price"].startswith("AWS")
    assert any("guess" in note for note in first["notes"])


def gpu_seconds(found: Plan, stage: str) -> float:
    return next(each.hours.median for each in found.stages if each.name == stage) * 3600


@pytest.mark.parametrize(
    ("each", "published", "measured", "gpus"),  # seconds of wall time, and the share of a GPU that an actor holds
    [(1.0, 500.0, 500.0, 1.0), (0.5, 500.0, 250.0, 0.5), (0.4, 500.0, 250.0, 0.5), (2.0, 1000.0, 1000.0, 2.0)],
)
def test_actors_share_gpus_and_hold_a_cpu_each(
    sizes: Sizes, each: float, published: float, measured: float, gpus: float
) -> None:
    """A hundred chunks of 10 s. Published rates are of a whole GPU, measured ones of an actor among others."""
    work, on_cpus = images(sizes, gpus_per_actor=each), rates_of(slots=2, image=1.0)
    assert walls(plan(work, on_cpus))["generate"] == 500.0
    on_gpus = replace(on_cpus, kind="gpu")
    found = plan(work, on_gpus)
    assert walls(found)["generate"] == published
    assert gpu_seconds(found, "generate") == pytest.approx(1000.0 * max(1.0, gpus))
    here = plan(work, replace(on_gpus, measured_for={"generator": "x"}))
    assert here.here.wall.median == pytest.approx(measured, rel=0.05)  # but for the machine's pace
    assert gpu_seconds(here, "generate") == pytest.approx(1000.0 * gpus, rel=0.05)


def test_an_actor_lies_on_one_node(sizes: Sizes) -> None:
    rates = replace(rates_of(slots=2, image=1.0), kind="gpu")
    with pytest.raises(InputError, match=r"gpus_per_actor must be <= 2, .*, got 4; type --gpus-per-node 4"):
        plan(images(sizes, gpus_per_actor=4.0), rates, [8])


def test_trials_share_gpus(sizes: Sizes) -> None:
    """Eight trials of 40 s: four on a GPU take four times as long, and together as long as one after the other."""
    one = Training(ratio=1.0, real=100, synthetic=100, updates=400)
    sweep = replace(SWEEP, trials=(one,) * 8, gpus_per_trial=0.25)
    work = images(sizes, chunks=0, images=0, sweep=sweep, whole_sweep=sweep, one_training=one)
    published = replace(rates_of(slots=2, update=0.1), kind="gpu")
    found = plan(work, published)
    assert walls(found)["sweep"] == pytest.approx(160.0)
    assert gpu_seconds(found, "sweep") == pytest.approx(8 * 40.0)
    here = plan(work, replace(published, measured_for={"classifier": "x"}))
    assert gpu_seconds(here, "sweep") == pytest.approx(8 * 40.0 / 4, rel=0.05)
    for each in (found, here):
        assert each.saving is not None
        assert each.saving.trainings == pytest.approx(1 - 1 / 8)
    two = plan(replace(work, sweep=replace(sweep, concurrency=2)), published)
    assert walls(two)["sweep"] == pytest.approx(4 * 80.0)  # two at a time, on one GPU
    money = plan(work, replace(published, price=exactly(3600.0)), [10]).here.money
    assert money is not None
    assert money.median == pytest.approx(160.0)  # eight quarters of a GPU lie on one node


def test_final_trainings_find_room_or_are_refused(sizes: Sizes) -> None:
    one = Training(ratio=0.0, real=100, synthetic=0, updates=10)
    work = images(sizes, final=(one,), final_workers=3)
    with pytest.raises(InputError, match=r"classifier.num_workers=3 and there are 2 CPUs; type --nodes 2"):
        plan(work, rates_of(slots=2))
    assert plan(work, rates_of(slots=2), [2]).nodes == 2


def test_the_first_training_of_each_setting_is_diagnosed(sizes: Sizes) -> None:
    one = Training(ratio=1.0, real=100, synthetic=100, updates=40)
    work = images(sizes, chunks=0, images=0, final=(one,) * 6, final_repeats=2, batch_size=20, validation=0)
    assert walls(plan(work, rates_of(diagnosis_image=0.01)))["train"] == pytest.approx(3 * 8 * 200 * 0.01)
    part = replace(work, final=(one,) * 3)
    assert walls(plan(part, rates_of(diagnosis_image=0.01)))["train"] == pytest.approx(8 * 200 * 0.01)


def test_a_diagnosis_reads_a_sample_of_each_side(sizes: Sizes) -> None:
    """2,048 images of each side, where there are two, and the validation images: however many images there are."""
    many = Training(ratio=1.0, real=50_000, synthetic=500_000, updates=90_000)
    work = images(sizes, chunks=0, images=0, final=(many,), batch_size=100, validation=500)
    rates = rates_of(diagnosis_image=0.001)
    assert walls(plan(work, rates))["train"] == pytest.approx(18 * (2 * 2048 + 500) * 0.001)
    one_side = replace(work, final=(replace(many, real=0),))
    assert walls(plan(one_side, rates))["train"] == pytest.approx(36 * 500 * 0.001)
