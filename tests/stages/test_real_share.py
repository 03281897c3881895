"""A sweep on a share of the real images: nested, of each class, at exact ratios; final trainings take all."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.mixture import TrainingData
from ray_synth.config import Sweep as Settings
from ray_synth.config import load_experiment
from ray_synth.data.images import share_of_each
from ray_synth.errors import InputError
from ray_synth.pipeline import Run
from ray_synth.planning.work import work_of
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.stages import Generate, Sweep, Train
from ray_synth.sweep.ledger import Ledger
from ray_synth.tables import _plan_says
from ray_synth.tasks import Task

from ..conftest import DIGITS, write_folder

FILE = {"data.shots": 7, "generate.images_per_class": 120, "sweep.num_trials": 6}


def run_of(out: Path, share: float | None = None, **changes: Any) -> Run:
    given_ = {} if share is None else {"sweep.real_share": share}
    return Run(load_experiment(DIGITS, {**FILE, **given_, **changes}), RunFolder(out / "run"), Reporter())


def tasks_of(run: Run, stage: str) -> dict[str, Task]:
    groups = [group for each in work_of(run).stages if each.name == stage for group in each.groups if not group.once]
    return {task.name: task for group in groups for task in group.tasks}


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20), st.floats(1e-6, 1.0), st.floats(1e-6, 1.0))
def test_a_share_is_of_each_class_and_one_image_at_least(counts: list[int], a: float, b: float) -> None:
    real = np.array(counts)
    few, more = (share_of_each(real, share) for share in sorted((a, b)))
    assert (few <= more).all()
    assert (more <= real).all()
    assert ((few > 0) == (real > 0)).all()
    assert (few < real * min(a, b) + 1).all()
    assert (few >= real * min(a, b) - 1e-6).all()
    assert share_of_each(real, 1.0).tolist() == counts


def test_a_share_that_comes_out_even_is_not_rounded_up() -> None:
    assert share_of_each(np.array([70, 71, 1284, 10, 0]), 0.1).tolist() == [7, 8, 129, 1, 0]


def test_a_smaller_share_is_a_part_of_a_larger_one_and_the_whole_is_as_it_was(tmp_path: Path) -> None:
    whole = run_of(tmp_path)
    assert whole.inputs.tried is whole.inputs.splits.train
    before: set[str] = set()
    for share, each in ((0.05, 1), (0.3, 3), (0.6, 5), (1.0, 7)):
        tried = run_of(tmp_path, share).inputs.tried
        assert tried.counts.tolist() == [each] * 10
        assert before < set(tried.keys()) <= set(whole.inputs.splits.train.keys())
        before = set(tried.keys())


def test_a_share_is_above_0_and_at_most_1() -> None:
    for share in (0.0, -0.5, 1.5):
        with pytest.raises(ValidationError, match="real_share"):
            Settings(real_share=share)
    with pytest.raises(InputError, match=r"sweep\.real_share.*less than or equal to 1.*got 10"):
        load_experiment(DIGITS, {"sweep.real_share": 10})


def test_a_trial_has_its_ratio_to_the_images_that_it_takes(tmp_path: Path) -> None:
    run = run_of(tmp_path, 0.3)
    real, synthetic = run.inputs.tried, run.inputs.splits.generator
    data = ExperimentData.of(run.experiment, real, synthetic, run.inputs.splits.validation)
    settings = run.of(Sweep).expected_settings(Ledger(run.folder)).values()
    assert any(0 < setting.synthetic_ratio < 10 for setting in settings)
    for setting in settings:
        if setting.synthetic_ratio * 3 > synthetic.counts.min():
            continue
        mixed: TrainingData = data.at(setting)[0]
        assert len(mixed.real) == 30
        assert len(mixed.synthetic) == synthetic_counts(np.full(10, 3), setting.synthetic_ratio, "fill").sum()
        assert abs(len(mixed.synthetic) - 30 * setting.synthetic_ratio) <= 5  # each class is rounded
        assert mixed.num_regions <= len(mixed.real) + len(mixed.synthetic)


def test_a_plan_prices_trials_by_what_they_take_and_final_trainings_by_all(tmp_path: Path) -> None:
    epochs = {"classifier.budget": "epochs", "classifier.epochs": 6, "classifier.batch_size": 16}
    whole, part = run_of(tmp_path, **epochs), run_of(tmp_path, 0.3, **epochs)
    ours, theirs = tasks_of(part, "sweep"), tasks_of(whole, "sweep")
    settings = part.of(Sweep).expected_settings(Ledger(part.folder))
    assert set(ours) == set(theirs) == set(settings)
    for name, setting in settings.items():
        synthetic = synthetic_counts(np.full(10, 3), setting.synthetic_ratio, "fill").sum()
        assert ours[name].takes["trial_image"] == 30 + synthetic < theirs[name].takes["trial_image"]
        (updates,), (more,) = (
            [many for unit, many in each[name].takes.items() if unit.startswith("update")] for each in (ours, theirs)
        )
        assert updates < 0.6 * more
    assert {name: task.takes for name, task in tasks_of(part, "train").items()} == {
        name: task.takes for name, task in tasks_of(whole, "train").items()
    }
    assert "each on 42.9 % of the images of its ratio" in part.of(Sweep).plan  # 3 of 7
    assert "of the images" not in whole.of(Sweep).plan + whole.of(Sweep).overview


def test_synthetic_images_are_made_for_the_images_that_trials_take(tmp_path: Path) -> None:
    """Those of the largest trial, where the number is left open; then those of the final trainings beyond them."""
    left_open = {"generate.images_per_class": None, "estimate.pilot_ratio": 1.0}
    whole, part = run_of(tmp_path, **left_open), run_of(tmp_path, 0.3, **left_open)
    assert part.of(Generate).images == whole.of(Generate).images
    assert part.of(Sweep).max_ratio == whole.of(Sweep).max_ratio == 16

    def made(run: Run, stage: str) -> int:
        return sum(int(task.takes["image"]) for task in tasks_of(run, stage).values() if "image" in task.takes)

    assert made(whole, "sweep") == 10 * 7 * 16 - whole.of(Generate).total
    assert made(part, "sweep") == 10 * 3 * 16 - part.of(Generate).total
    final = part.of(Train).top_ratio
    total = int(synthetic_counts(np.full(10, 7), final, "fill").sum())
    assert made(part, "train") == total - 10 * 3 * 16 > 0
    assert part.of(Generate).number_for(final, after=16) == total
    assert part.of(Generate).number_for(1.0, after=16) == 10 * 3 * 16
    assert made(whole, "train") == 0


def test_images_that_just_reach_the_largest_ratio_reach_it_for_every_share(tmp_path: Path, digits: Any) -> None:
    """Rounding up may ask a class for more at the same ratio, where classes differ."""
    ours = write_folder(tmp_path / "real", digits, classes=(0, 1), each=60)
    write_folder(ours, digits, classes=(2,), each=8)
    theirs = write_folder(tmp_path / "made", digits, classes=(0, 1, 2), each=40, skip=60)
    for share in (0.01, 0.05, 0.2, 0.37, 1.0):
        changes = {
            "data": {"kind": "folder", "path": str(ours), "image_size": 8, "shots": None},
            "generator": {"kind": "folder", "path": str(theirs)},
            "generate.images_per_class": None,
        }
        run = run_of(tmp_path, share, **changes)
        images, top = run.of(Generate), run.of(Sweep).max_ratio
        for real in (run.inputs.real_counts, run.inputs.tried_counts):
            assert (images.counts(top, real) <= images.most_per_class).all()


def test_only_another_share_is_another_sweep(tmp_path: Path) -> None:
    default, same, other = (run_of(tmp_path, share).of(Sweep).digest for share in (None, 1.0, 0.5))
    assert default == same != other
    assert run_of(tmp_path).of(Train).digest == run_of(tmp_path, 0.5).of(Train).digest


def test_a_training_that_takes_longer_than_the_small_trials_is_said_to() -> None:
    saving = {"trainings": -0.21, "everything": 0.7, "trials": 5, "bound": -0.21}
    (said,) = _plan_says({"bend": None, "saving": saving, "scaling": []})
    assert said == (
        "one training at the predicted ratio takes 21% more than the sweep's 5 trials, which are smaller; "
        "with the images it saves 70%"
    )
    (alone,) = _plan_says({"bend": None, "saving": {**saving, "everything": None}, "scaling": []})
    assert alone == said.partition(";")[0]
    (other,) = _plan_says({"bend": None, "saving": {**saving, "trainings": 0.88}, "scaling": []})
    assert "saves 88% of the sweep's 5 trainings" in other


@pytest.mark.slow
def test_trials_train_on_a_share_and_final_trainings_on_all(tmp_path: Path, digits: Any) -> None:
    ours = write_folder(tmp_path / "real", digits, classes=(0, 1, 2), each=60)
    theirs = write_folder(tmp_path / "made", digits, classes=(0, 1, 2), each=40, skip=60)
    small = {
        "data": {"kind": "folder", "path": str(ours), "shots": 10, "image_size": 8},
        "generator": {"kind": "folder", "path": str(theirs)},
        "generate.images_per_class": 40,
        "classifier.updates": 12,
        "classifier.evaluations": 2,
        "sweep.num_trials": 4,
        "sweep.real_share": 0.2,
    }
    folder = RunFolder(tmp_path / "out")
    run = Run(load_experiment(DIGITS, small), folder, Reporter())
    run.perform()
    after = Run(run.experiment, folder, Reporter())
    ratios = {trial.setting.synthetic_ratio: trial.num_synthetic for trial in Ledger(folder).trials}
    assert len(ratios) == 4
    assert ratios == {ratio: synthetic_counts([2, 2, 2], ratio, "fill").sum() for ratio in ratios}
    rows = pq.read_table(io.BytesIO(folder.read("model/regions.parquet"))).to_pydict()
    best = after.of(Train).settings()["best"].synthetic_ratio
    assert rows["source"].count("real") == 30
    assert rows["source"].count("synthetic") == synthetic_counts([10, 10, 10], best, "fill").sum()
    assert json.loads(folder.read("summary.json"))["sweep_real_share"] == 0.2
    report = folder.read("report.html").decode()
    assert "Trials took 20 % of each class's real" in report
    assert "trained on 20 % of the real images" in report
    assert b"trial on 20 % of the images" in folder.read("sweep/ratio.svg")
