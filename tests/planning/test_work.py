"""What stages say is left: what the settings say, what is published of data that are not here, what is complete."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ray_synth.allocation import synthetic_counts
from ray_synth.bound.result import RatioEstimate
from ray_synth.config import load_experiment
from ray_synth.data.published import data_are_here, published_splits
from ray_synth.errors import InputError
from ray_synth.generator.artifacts import WEIGHTS
from ray_synth.pipeline import Run
from ray_synth.planning.plan import plan
from ray_synth.planning.work import Work, work_of
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import Chunk, write_chunk
from ray_synth.sampling.generation import Generation
from ray_synth.stages import Estimate, Finetune, Generate, Sweep, Train, stages_asked
from ray_synth.stages.takes import sides_of
from ray_synth.sweep.ledger import Ledger
from ray_synth.sweep.search import Search
from ray_synth.tasks import InPool, InSlots, Task, Tasks

from ..conftest import DIGITS, ROOT
from ..sweep.test_search import ESTIMATE
from ..sweep.test_search import run as run_search
from .conftest import rates_of

TINY = {"data.shots": 4, "generate.images_per_class": 8, "generate.chunk_size": 3, "generator.steps": 30}
SHORT = {"sweep.num_trials": 6}
NAMES = tuple(stage.name for stage in stages_asked(load_experiment(DIGITS)))


def run_in(out: Path, **changes: object) -> Run:
    return Run(load_experiment(DIGITS, {**TINY, **changes}), RunFolder(out), Reporter())


def groups(work: Work, name: str) -> list[Tasks]:
    return [group for stage in work.stages if stage.name == name for group in stage.groups]


def tasks(work: Work, name: str) -> list[Task]:
    """Of a stage, without what it reads back or makes for it first."""
    found = [g for g in groups(work, name) if not g.once and (name == "generate" or not isinstance(g.way, InPool))]
    return [task for group in found for task in group.tasks]


def made(work: Work, name: str = "generate") -> tuple[int, int]:
    """Images and chunks that a stage makes."""
    pools = [group for group in groups(work, name) if isinstance(group.way, InPool)]
    return round(sum(group.total("image") for group in pools)), sum(len(group.tasks) for group in pools)


def total(work: Work, unit: str) -> float:
    return sum(group.total(unit) for stage in work.stages for group in stage.groups)


def test_the_demo_is_counted_as_it_runs(tmp_path: Path) -> None:
    run = Run(load_experiment(DIGITS), RunFolder(tmp_path / "out"), Reporter())
    work = work_of(run)
    assert total(work, "generator_step") == 400
    assert made(work) == (1600, 20)
    assert run.of(Generate).generator.denoising_steps == 20
    assert len(tasks(work, "sweep")) == 24
    assert total(work, "update") + total(work, "update_one_side") == 24 * 400
    assert len(tasks(work, "train")) == 12
    assert run.of(Generate).pilot.sum() == 800
    assert work.complete == ()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("classes", "shots", "ratio"), [(10, 5, 0.5), (10, 4, 2.0), (7, 3, 0.2)])
def test_a_training_takes_the_images_that_its_classes_take(
    tmp_path: Path, classes: int, shots: int, ratio: float
) -> None:
    """Rounded class by class, as the mixture is: 10 classes of 5 shots take 30 synthetic images at ratio .5, not 25."""
    run = run_in(tmp_path, **{"data.shots": shots})
    setting = next(iter(run.of(Train).settings().values()))
    real, synthetic = sides_of(run.inputs, type(setting)(synthetic_ratio=ratio, num_clusters=3))
    assert (real, synthetic) == (10 * shots, 10 * math.floor(shots * ratio + 0.5))
    assert synthetic == synthetic_counts(np.full(10, shots), ratio, "fill").sum()


def test_epochs_grow_with_the_ratio(tmp_path: Path) -> None:
    epochs = {"classifier.budget": "epochs", "classifier.epochs": 10, "classifier.batch_size": 20}
    grid = {"sweep.sampler": "grid", "sweep.space": ALONE}
    work = work_of(run_in(tmp_path, **epochs, **grid, **{"generate.images_per_class": 32, "sweep.prior": "none"}))
    at = {task.takes["trial_image"]: task.takes for task in tasks(work, "sweep")}
    assert at[40]["update_one_side"] == 10 * 40 // 20
    assert at[40 + 80]["update"] == 10 * 80 // 10


def test_searched_updates_are_those_of_the_trials(tmp_path: Path) -> None:
    space = {**ALONE, "synthetic_ratio": {"choices": [0]}, "updates": {"choices": [10, 50]}}
    work = work_of(run_in(tmp_path, **{"sweep.sampler": "grid", "sweep.prior": "none", "sweep.space": space}))
    assert {task.takes["update_one_side"] for task in tasks(work, "sweep")} >= {10, 50}


def test_a_latent_prior_takes_a_part_of_the_steps(tmp_path: Path) -> None:
    assert imagenet(tmp_path).of(Generate).generator.denoising_steps == 22  # .75 of 30


def imagenet(out: Path) -> Run:
    e = load_experiment(ROOT / "sweeps" / "imagenet.yaml")
    assert not data_are_here(e.data)
    return Run(e, RunFolder(out), Reporter(), described=True)


def ratios_of(work: Work, real: int) -> list[float]:
    return [task.takes["trial_image"] / real - 1 for task in tasks(work, "sweep")]


def test_ratios_lie_where_the_space_is_and_the_images_reach(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT, **{"generate.images_per_class": 64})
    estimated(run, replace(ESTIMATE, ratio=4.0))
    ratios = [s.synthetic_ratio for s in run.of(Sweep).expected_settings(run.of(Sweep).ledger).values()]
    assert ratios[:4] == [4.0, 0.0, 2.0, 12.0]
    assert len(ratios) == 6
    space = {"synthetic_ratio": {"low": 0.0, "high": 16.0}}
    few = run_in(tmp_path / "few", **{"sweep.num_trials": 24, "sweep.space": space, "generate.images_per_class": 16})
    ratios = [s.synthetic_ratio for s in few.of(Sweep).expected_settings(few.of(Sweep).ledger).values()]
    assert (len(ratios), min(ratios)) == (24, 0.0)
    assert max(ratios) <= 4.0
    assert sum(ratio == 4.0 for ratio in ratios) <= 1
    assert np.histogram(ratios, bins=[0, 1, 2, 3, 4])[0].min() >= 3
    assert math.log1p(few.of(Estimate).ratio) == pytest.approx(math.log1p(4) / 2)


def test_choices_are_all_tried_and_those_out_of_reach_are_refused_as_in_a_run(tmp_path: Path) -> None:
    grid = load_experiment(ROOT / "sweeps" / "real_fake" / "imagenette.yaml")
    run = Run(grid, RunFolder(tmp_path / "out"), Reporter(), described=True)
    settings = run.of(Sweep).expected_settings(run.of(Sweep).ledger).values()
    assert sorted(setting.synthetic_ratio for setting in settings) == [0, 1, 2, 5, 10]
    out = {"sweep.space": {"synthetic_ratio": {"choices": [4, 8]}}, "generate.images_per_class": 4}
    with pytest.raises(InputError, match=r"synthetic_ratio asks for 8, and the synthetic images reach 1; raise"):
        run_in(tmp_path, **out)


def test_imagenet_is_counted_from_its_published_size(tmp_path: Path) -> None:
    run = imagenet(tmp_path / "out")
    splits = run.inputs.splits
    assert (len(run.inputs.class_names), len(splits.validation), len(splits.test)) == (1000, 16_000, 50_000)
    assert len(splits.train) == len(splits.generator) == 1_281_167 - 16_000
    work = work_of(run)
    assert made(work) == (12_840_000, 1000 * math.ceil(12_840 / 160))
    found = plan(work_of(run, "generate"), rates_of())
    assert found.bytes_in_all == pytest.approx(1.41e12, rel=0.02)  # 1.4 TB, says the file
    assert not (tmp_path / "out").exists()
    assert any("the data are not here" in note for note in work.notes)


def test_data_of_unknown_size_are_refused_by_name(tmp_path: Path) -> None:
    e = load_experiment(DIGITS, {"data.kind": "folder", "data.path": str(tmp_path / "nowhere"), "data.image_size": 8})
    with pytest.raises(InputError, match=r"is not here.*kind: folder.*imagenet"):
        published_splits(e.data)


def write_chunks(run: Run, chunks: list[tuple[int, int, int]]) -> None:
    images = run.of(Generate).images
    for label, start, stop in chunks:
        count = stop - start
        rows = {
            "key": [images.key(label, i) for i in range(start, stop)],
            "image": [b"x" * 300] * count,
            "label": label,
            "rejected": [""] * count,
        } | dict.fromkeys(("class_name", "source", "prompt", "negative_prompt", "parent_key"), "")
        rows |= dict.fromkeys(("model_id", "model_revision", "model_license"), "") | {"seed": 0, "cluster": None}
        write_chunk(run.folder, Chunk(images.chunk_digest[:12], label, start, stop), rows)


def test_what_is_there_is_not_counted_again(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    whole = work_of(run)
    write_chunks(run, [(0, 0, 3), (4, 3, 6)])
    work = work_of(run)
    assert made(whole) == (80, 30)
    assert made(work) == (74, 28)
    ((_, way),) = work.pools
    assert way.images_there == 6
    assert made(work_of(run_in(tmp_path, **{"generator.steps": 31}))) == (80, 30)


def test_a_complete_stage_is_not_counted_again(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    stage = run.of(Finetune)
    (tmp_path / "generator").mkdir()
    with run.folder.working_on(stage.name, stage.digest, stage.outputs):
        run.folder.write(WEIGHTS, b"weights")
    work = work_of(run)
    assert work.complete == ("finetune",)
    assert total(work, "generator_step") == 0
    assert total(work_of(run_in(tmp_path, **{"generator.steps": 31})), "generator_step") == 31


def recorded(run: Run, *names: str) -> None:
    """Stages as if the run had done them."""
    for stage in run.stages.values():
        if stage.name in names:
            record = {"digest": stage.digest, "complete": True, "outputs": []}
            run.folder.write_json(f"stages/{stage.name}.json", record)


def estimated(run: Run, estimate: RatioEstimate = ESTIMATE) -> None:
    """A run up to its estimate."""
    run.folder.open_for(run.experiment)
    run.folder.write(WEIGHTS, b"weights")
    each = run.of(Generate).images_per_class.tolist()
    write_chunks(run, [(label, 0, number) for label, number in enumerate(each)])
    counts = {"images_per_class": each} | dict.fromkeys(("asked", "made", "kept"), sum(each))
    named = dict.fromkeys(("model_id", "model_revision", "model_license"), "")
    generation = Generation.from_dict({**counts, **named, "rejected": {}, "rejected_keys": []})
    run.folder.write_json("generation.json", generation.to_dict())
    run.folder.write_json("estimate.json", estimate.to_dict())
    recorded(run, "finetune", "generate", "estimate")


def swept(run: Run, *, trials: int | None = None) -> None:
    """And through its sweep, or the first trials of it."""
    ledger = Ledger(run.folder, read=False)
    engine = Search(ledger, run.inputs.on_workers, run.of(Sweep).space, prior=run.of(Sweep).prior, window=4)
    run_search(engine, stop_after=trials)
    digest = run.of(Sweep).digest
    run.folder.write_json("stages/sweep.json", {"digest": digest, "complete": trials is None, "outputs": []})


def finished(run: Run) -> None:
    """And to its report."""
    estimated(run)
    swept(run)
    names = ("real_only", "at_predicted", "best")
    run.folder.write_json("model/settings.json", {name: {"synthetic_ratio": 0.0} for name in names})
    metrics = {f"accuracy/{name}{end}": 0.5 for name in names for end in ("", "/std")}
    run.folder.write_json("metrics.json", {**metrics, "label_fidelity": 0.5})
    recorded(run, "train", "evaluate")
    recorded(run, "report")


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
    run = run_in(tmp_path, **{**SHORT, **changes})
    work = work_of(run)
    assert work.complete == NAMES[:complete]
    assert bool(tasks(work, "estimate")) == (complete < 3)
    assert bool(tasks(work, "sweep")) == (complete < 4)
    assert len(tasks(work, "train")) == (0 if complete == 7 else 4 * int(changes.get("evaluate.repeats", 3)))  # type: ignore[call-overload]
    assert bool(tasks(work, "evaluate")) == bool(tasks(work, "report")) == (complete < 7)
    known = not any("not known yet" in note for note in work.notes)
    assert known == (complete >= 3)
    if known:
        assert run.of(Estimate).ratio == 2.0  # of the images' reach, what is predicted lies beyond


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
    sweep = run.of(Sweep)
    planned = [setting.synthetic_ratio for setting in sweep.expected_settings(sweep.ledger).values()]
    assert len(planned) == len(tasks(work_of(run), "sweep")) == sweep.total
    swept(run)
    tried = [trial.setting.synthetic_ratio for trial in Ledger(run.folder).trials]
    if sweep.space.size is not None:
        assert sorted(planned) == sorted(tried)
    assert tasks(work_of(run), "sweep") == []


def test_a_sweep_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT)
    estimated(run)
    swept(run, trials=3)
    left = groups(work_of(run), "sweep")[-1]
    assert isinstance(left.way, InSlots)
    # Four trials are proposed before anything is known to stop them by; three of them are done.
    assert (len(left.tasks), left.way.done, left.way.free(slots=2)) == (3, 3, 1)
    whole = run.of(Sweep).alternative().tasks
    assert isinstance(whole.way, InSlots)
    assert (len(whole.tasks), whole.way.free(slots=2)) == (6, 4)
    ledger = Ledger(run.folder)
    running = [start.trial_id for start in ledger.starts.values() if start.trial_id not in ledger.ended]
    assert left.tasks[0].name == running[0]


def test_an_extended_sweep_is_as_long_as_it_was_extended_to(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT)
    finished(run)
    run.of(Sweep).extend(5)
    work = work_of(run)
    assert len(tasks(work, "sweep")) == 5 == run.of(Sweep).total - 6
    assert work.complete == NAMES[:3]


UNNAMED = {"generate.images_per_class": None, "estimate.pilot_ratio": 3.0}


@pytest.mark.parametrize("until", ["generate", "estimate"])
def test_without_a_number_the_stage_itself_makes_the_pilot_alone(tmp_path: Path, until: str) -> None:
    run = run_in(tmp_path, **UNNAMED)
    work = work_of(run, until)
    images, chunks = made(work)
    assert run.of(Generate).plan == f"generating {images:,} images of 20 steps in {chunks:,} chunks"
    assert images == run.of(Generate).total == run.of(Generate).pilot.sum() == 10 * 12
    assert bool(tasks(work, "estimate")) == (until == "estimate")
    estimated(run)
    assert made(work_of(run, until)) == (0, 0)


def test_without_a_number_trials_and_final_trainings_make_what_they_need(tmp_path: Path) -> None:
    run = run_in(tmp_path, **{**UNNAMED, **SHORT, "sweep.max_ratio": 4.0, "estimate.max_ratio": 100.0})
    work = work_of(run)  # four real images a class, twelve of the pilot, sixteen for the sweep
    assert (made(work)[0], made(work, "sweep")[0]) == (120, 40)
    predicted = int(synthetic_counts(np.array([4]), math.sqrt(101) - 1, "fill")[0])
    assert made(work, "train")[0] == 10 * (predicted - 16)
    estimated(run)
    work = work_of(run)
    assert (made(work)[0], made(work, "sweep")[0], made(work, "train")[0]) == (0, 40, 10 * 4)  # predicted: 5
    assert {total(work, "read_image")} == {160 + 3 * 200}
    swept(run)
    assert (made(work_of(run), "sweep")[0], made(work_of(run), "train")[0]) == (0, 10 * 8)


def test_the_images_are_read_back_by_the_first_stage_that_is_left(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT)
    finished(run)
    for name in ("report", "evaluate", "train", "sweep"):
        run.folder.remove(f"stages/{name}.json")
        found = plan(work_of(run), rates_of(start=1.0, read_image=0.1, report=1.0))
        walls = {stage.name: stage.wall.median for stage in found.stages}
        assert list(walls)[:2] == ["start", name]
        assert walls[name] == pytest.approx(80 * 0.1 + (name == "report"))


def test_asking_writes_nothing_into_the_folder(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT)
    finished(run)
    run.folder.remove("stages/evaluate.json")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    work_of(run)
    for stage in run.stages.values():
        _ = stage.complete, stage.plan, stage.total, stage.done, stage.tasks(), stage.overview, stage.caveats
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_plan_may_end_earlier(tmp_path: Path) -> None:
    work = work_of(run_in(tmp_path), "generate")
    assert [stage.name for stage in work.stages] == ["finetune", "generate"]
    assert [stage.name for stage in work_of(run_in(tmp_path)).stages] == list(NAMES)
