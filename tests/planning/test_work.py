"""Counted work: what the settings say, what is published of data that are not here, what is complete already."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ray_synth.config import Experiment, load_experiment
from ray_synth.errors import InputError
from ray_synth.generator.artifacts import WEIGHTS
from ray_synth.generator.chunks import Chunk, write_chunk
from ray_synth.pipeline import Run
from ray_synth.planning import work as w
from ray_synth.planning.plan import plan
from ray_synth.planning.sizes import Sizes, data_are_here, published_sizes, sizes_of
from ray_synth.planning.work import counted, expected_share, middle, up_to, work_of
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages.inputs import STAGES
from ray_synth.sweep.ledger import Ledger
from ray_synth.sweep.search import Search

from ..conftest import DIGITS, ROOT
from ..sweep.test_search import ESTIMATE
from ..sweep.test_search import run as run_search
from .conftest import rates_of

TINY = {"data.shots": 4, "generate.images_per_class": 8, "generate.chunk_size": 3, "generator.steps": 30}
SHORT = {"sweep.num_trials": 6}


def run_in(out: Path, **changes: object) -> Run:
    return Run(load_experiment(DIGITS, {**TINY, **changes}), RunFolder(out), Reporter())


def test_the_demo_is_counted_as_it_runs(tmp_path: Path) -> None:
    run = Run(load_experiment(DIGITS), RunFolder(tmp_path / "out"), Reporter())
    work = work_of(run)
    assert (work.generator_steps, work.images, work.chunks, work.steps_per_image) == (400, 1600, 20, 20)
    assert work.sweep is not None
    assert len(work.sweep.trials) == 24
    assert work.sweep.bound == 24 * 400
    assert len(work.final) == 9
    assert work.pilot == 800
    assert work.complete == ()
    assert not (tmp_path / "out").exists()


def test_chunks_and_trainings_follow_the_settings(small: Experiment, sizes: Sizes) -> None:
    work = counted(small, sizes)
    assert (work.images, work.chunks, work.chunk_size) == (1600, 20, 80)
    assert work.sweep is not None
    assert [t.updates for t in work.sweep.trials] == [100] * 6
    assert all(t.real == 100 and t.synthetic == round(100 * t.ratio) for t in work.sweep.trials)
    assert work.tests == 200 * 3


def test_epochs_grow_with_the_ratio(small: Experiment, sizes: Sizes) -> None:
    classifier = small.classifier.model_copy(update={"budget": "epochs", "epochs": 10, "batch_size": 20})
    e = small.model_copy(update={"classifier": classifier})
    assert w.training(e, sizes, 0.0).updates == 10 * 100 // 20
    assert w.training(e, sizes, 8.0).updates == 10 * 800 // 10


def test_a_latent_prior_takes_a_part_of_the_steps() -> None:
    e = load_experiment(ROOT / "sweeps" / "imagenet.yaml")
    assert w.denoising_steps(e) == 22  # .75 of 30


def test_early_stops() -> None:
    assert expected_share((), 0.3) == 1.0
    assert expected_share((0.4,), 0.5) == pytest.approx(0.4 + 0.5 * 0.6)
    assert expected_share((0.2, 0.6), 1 / 3) == pytest.approx(0.2 + 0.4 / 3 + 0.4 / 9)


def test_no_trial_is_stopped_before_there_is_anything_to_compare_it_with(small: Experiment, sizes: Sizes) -> None:
    sweep = counted(small, sizes).sweep
    assert sweep is not None
    assert sweep.expected(slots=3) == sweep.bound
    assert sweep.bound > sweep.expected(slots=1) >= sweep.expected(slots=1, kept=0.0)
    without = small.model_copy(update={"sweep": small.sweep.model_copy(update={"pruner": "none"})})
    unpruned = counted(without, sizes).sweep
    assert unpruned is not None
    assert unpruned.expected(slots=1) == unpruned.bound


def ratios_of(e: Experiment, sizes: Sizes, **known: object) -> list[float]:
    sweep = counted(e, sizes, **known).whole_sweep  # type: ignore[arg-type]
    assert sweep is not None
    return [trial.ratio for trial in sweep.trials]


def with_sweep(e: Experiment, **changes: object) -> Experiment:
    return Experiment.model_validate({**e.model_dump(), "sweep": {**e.sweep.model_dump(), **changes}})


def test_ratios_lie_where_the_space_is_and_the_images_reach(small: Experiment, sizes: Sizes) -> None:
    ratios = ratios_of(small, sizes, estimate=replace(ESTIMATE, ratio=4.0))
    assert ratios[:4] == [4.0, 0.0, 2.0, 12.0]
    assert len(ratios) == 6
    many = with_sweep(small, num_trials=24, space={"synthetic_ratio": {"low": 0.0, "high": 16.0}})
    few = many.model_copy(update={"generate": small.generate.model_copy(update={"images_per_class": 40})})
    ratios = ratios_of(few, sizes)
    assert (len(ratios), min(ratios)) == (24, 0.0)
    assert max(ratios) <= 4.0
    assert sum(ratio == 4.0 for ratio in ratios) <= 1
    assert np.histogram(ratios, bins=[0, 1, 2, 3, 4])[0].min() >= 3
    assert math.log1p(middle(15)) == pytest.approx(math.log1p(15) / 2)


def test_choices_are_all_tried_and_those_out_of_reach_are_refused_as_in_a_run(small: Experiment, sizes: Sizes) -> None:
    grid = load_experiment(ROOT / "sweeps" / "real_fake" / "imagenette.yaml")
    assert sorted(ratios_of(grid, published_sizes(grid))) == [0, 1, 2, 5, 10]
    out = with_sweep(small, space={"synthetic_ratio": {"choices": [4, 8]}})
    few = out.model_copy(update={"generate": small.generate.model_copy(update={"images_per_class": 10})})
    with pytest.raises(InputError, match=r"synthetic_ratio asks for 8, and the synthetic images reach 1; raise"):
        counted(few, sizes)


def test_imagenet_is_counted_from_its_published_size() -> None:
    e = load_experiment(ROOT / "sweeps" / "imagenet.yaml")
    assert not data_are_here(e)
    sizes = published_sizes(e)
    assert (sizes.classes, sizes.validation, sizes.test) == (1000, 16_000, 50_000)
    assert sizes.train == sizes.generator == 1_281_167 - 16_000
    work = counted(e, sizes)
    assert work.images == 12_840_000
    assert work.chunks == 1000 * math.ceil(12_840 / 160)
    assert work.bytes_in_all == pytest.approx(1.41e12, rel=0.02)  # 1.4 TB, says the file


def test_data_of_unknown_size_are_refused_by_name(tmp_path: Path) -> None:
    e = load_experiment(DIGITS, {"data.kind": "folder", "data.path": str(tmp_path / "nowhere"), "data.image_size": 8})
    with pytest.raises(InputError, match=r"is not here.*kind: folder.*imagenet"):
        published_sizes(e)


def write_chunks(run: Run, chunks: list[tuple[int, int, int]]) -> None:
    plan = run.images.plan
    for label, start, stop in chunks:
        count = stop - start
        rows = {
            "key": [plan.key(label, i) for i in range(start, stop)],
            "image": [b"x" * 300] * count,
            "label": label,
            "rejected": [""] * count,
        } | dict.fromkeys(("class_name", "source", "prompt", "negative_prompt", "parent_key"), "")
        rows |= dict.fromkeys(("model_id", "model_revision", "model_license"), "") | {"seed": 0, "cluster": None}
        write_chunk(run.folder, Chunk(plan.chunk_digest[:12], label, start, stop), rows)


def test_what_is_there_is_not_counted_again(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    whole = work_of(run)
    write_chunks(run, [(0, 0, 3), (4, 3, 6)])
    work = work_of(run)
    assert (whole.images, whole.chunks) == (80, 30)
    assert (work.images, work.chunks) == (74, 28)
    assert work.images_there == 6
    assert work.all_images == 80
    other = work_of(run_in(tmp_path, **{"generator.steps": 31}))
    assert (other.images, other.chunks) == (80, 30)


def test_a_complete_stage_is_not_counted_again(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    stage = run.stage("finetune")
    (tmp_path / "generator").mkdir()
    with run.folder.working_on("finetune", stage.digest, stage.outputs):
        run.folder.write(WEIGHTS, b"weights")
    work = work_of(run)
    assert work.complete == ("finetune",)
    assert work.generator_steps == 0
    assert work_of(run_in(tmp_path, **{"generator.steps": 31})).generator_steps == 31


def recorded(run: Run, *names: str) -> None:
    """Stages as if the run had done them."""
    for name in names:
        record = {"digest": run.stage(name).digest, "complete": True, "outputs": []}
        run.folder.write_json(f"stages/{name}.json", record)


def estimated(run: Run) -> None:
    """A run up to its estimate."""
    run.folder.open_for(run.experiment)
    run.folder.write(WEIGHTS, b"weights")
    each = run.images.images_per_class
    write_chunks(run, [(label, 0, each) for label in range(10)])
    run.folder.write_json("generation.json", {"images_per_class": each})
    run.folder.write_json("estimate.json", ESTIMATE.to_dict())
    recorded(run, "finetune", "generate", "estimate")


def swept(run: Run, *, trials: int | None = None) -> None:
    """And through its sweep, or the first trials of it."""
    ledger = Ledger(run.folder, read=False)
    engine = Search(ledger, run.inputs.on_workers, run.sweep.space, prior=run.sweep.prior, window=4)
    run_search(engine, stop_after=trials)
    digest = run.stage("sweep").digest
    run.folder.write_json("stages/sweep.json", {"digest": digest, "complete": trials is None, "outputs": []})


def finished(run: Run) -> None:
    """And to its report."""
    estimated(run)
    swept(run)
    recorded(run, "train", "evaluate")
    run.folder.write_json("stages/report.json", {"digest": "as it was", "complete": True, "outputs": []})


@pytest.mark.parametrize(
    ("changes", "complete"),
    [
        ({}, 7),
        ({"estimate.confidence": 0.8}, 2),
        ({"classifier.updates": 399}, 3),
        ({"evaluate.repeats": 5}, 4),
        ({"sweep.num_trials": 9}, 3),
        ({"generate.num_inference_steps": 19}, 1),
    ],
)
def test_what_comes_after_a_stage_that_is_redone_is_redone(
    tmp_path: Path, changes: dict[str, object], complete: int
) -> None:
    """Whatever later stages' records say: each goes by what the one before it will say."""
    finished(run_in(tmp_path, **SHORT))
    work = work_of(run_in(tmp_path, **{**SHORT, **changes}))
    assert work.complete == STAGES[:complete]
    assert bool(work.pilot) == (complete < 3)
    assert (work.sweep is None) == (complete >= 4)
    assert len(work.final) == (0 if complete == 7 else 3 * int(changes.get("evaluate.repeats", 3)))  # type: ignore[call-overload]
    assert bool(work.tests) == work.report == (complete < 7)
    assert work.predicted == (None if complete < 3 else 2.0)  # of the images' reach, what is predicted lies beyond


CHOICES = {"synthetic_ratio": {"choices": [0, 0.5, 1, 2]}, "lambda_1": None, "lambda_2": None}
ALONE = CHOICES | {"clusters_per_class": None}
SPACES = {
    "a range": {},
    "a grid": {"sweep.sampler": "grid", "sweep.prior": "none", "sweep.space": ALONE},
    "a grid beside the prediction": {
        "sweep.sampler": "grid",
        "sweep.space": {**ALONE, "lambda_1": {"choices": [0.2, 0.3]}},
    },
    "choices that run out": {"sweep.sampler": "random", "sweep.space": ALONE},
    "choices that tpe runs out of": {"sweep.prior": "points", "sweep.space": ALONE},
    "choices beside a range": {"sweep.space": CHOICES},
}


@pytest.mark.parametrize("changes", SPACES.values(), ids=SPACES)
def test_trials_are_counted_as_the_sweep_counts_them(tmp_path: Path, changes: dict[str, object]) -> None:
    run = run_in(tmp_path, **changes)
    estimated(run)
    work = work_of(run)
    assert work.sweep is not None
    assert work.sweep == work.whole_sweep
    planned = [trial.ratio for trial in work.sweep.trials]
    assert len(planned) == run.stage("sweep").total
    swept(run)
    tried = [trial.setting.synthetic_ratio for trial in Ledger(run.folder).trials]
    if run.sweep.space.size is not None:
        assert sorted(planned) == sorted(tried)
    assert work_of(run).sweep is None


def test_a_sweep_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT)
    estimated(run)
    swept(run, trials=3)
    work = work_of(run)
    assert work.sweep is not None
    assert work.whole_sweep is not None
    assert (len(work.sweep.trials), work.sweep.done, len(work.whole_sweep.trials)) == (3, 3, 6)
    # Four trials are proposed before anything is known to stop them by; three of them are done.
    assert (work.sweep.free(slots=2), work.whole_sweep.free(slots=2)) == (1, 4)
    running = [start for start in Ledger(run.folder).starts.values() if start.trial_id not in Ledger(run.folder).ended]
    assert work.sweep.trials[0].ratio == running[0].setting.synthetic_ratio


def test_an_extended_sweep_is_as_long_as_it_was_extended_to(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT)
    finished(run)
    run.sweep.extend(5)
    work = work_of(run)
    assert work.sweep is not None
    assert len(work.sweep.trials) == 5 == run.stage("sweep").total - 6
    assert work.complete == STAGES[:3]


UNNAMED = {"generate.images_per_class": None, "estimate.pilot_ratio": 3.0}


@pytest.mark.parametrize("until", ["generate", "estimate"])
def test_without_a_number_the_stage_itself_makes_the_pilot_alone(tmp_path: Path, until: str) -> None:
    run = run_in(tmp_path, **UNNAMED)
    work = work_of(run, until=until)
    assert run.stage("generate").plan == f"generating {work.images:,} images in {work.chunks:,} chunks"
    assert work.images == run.images.total == run.images.pilot.sum() == 10 * 12
    assert work.pilot == (120 if until == "estimate" else 0)
    estimated(run)
    assert work_of(run, until=until).images == 0


def test_without_a_number_trials_and_final_trainings_make_what_they_need(tmp_path: Path) -> None:
    run = run_in(tmp_path, **{**UNNAMED, **SHORT, "sweep.max_ratio": 4.0, "estimate.max_ratio": 100.0})
    assert work_of(run, until="sweep").images == 10 * 4 * 4  # four real images a class
    assert work_of(run).images == 10 * w.per_class_at(middle(100.0), sizes_of(run))
    estimated(run)
    assert work_of(run, until="sweep").all_images == 10 * 4 * 4
    work = work_of(run)
    assert (work.images, work.all_images) == (10 * (5 * 4 - 12), 10 * 5 * 4)  # predicted: 5
    swept(run)
    assert work_of(run).all_images == 10 * 5 * 4
    recorded(run, "train")
    work = work_of(run)
    assert (work.images, work.all_images) == (0, 10 * 12)  # of a record: no training asks for more


def test_the_images_are_read_back_by_the_first_stage_that_is_left(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT)
    finished(run)
    for name in ("report", "evaluate", "train", "sweep"):
        run.folder.remove(f"stages/{name}.json")
        found = plan(work_of(run), rates_of(start=1.0, read_image=0.1, report=1.0))
        walls = {stage.name: stage.wall.median for stage in found.stages}
        assert list(walls)[:2] == ["start", name]
        assert walls[name] == pytest.approx(80 * 0.1 + (name == "report"))


def test_planning_writes_nothing_into_the_folder(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    write_chunks(run, [(0, 0, 3)])
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    work_of(run)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_plan_may_end_earlier(small: Experiment, sizes: Sizes) -> None:
    work = up_to(counted(small, sizes), "generate")
    assert (work.chunks, work.generator_steps, work.pilot, work.sweep, work.final, work.tests) == (
        20,
        50,
        0,
        None,
        (),
        0,
    )
    assert up_to(work, "finetune").chunks == 0
    assert up_to(counted(small, sizes), "report") == counted(small, sizes)


def test_sizes_are_those_that_were_read(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    sizes = sizes_of(run)
    assert (sizes.classes, sizes.train, sizes.most_real, sizes.shape) == (10, 40, 4, (8, 8, 1))
    assert sizes.test == len(run.inputs.splits.test)
    assert np.bincount(run.inputs.splits.train.labels).max() == sizes.most_real
