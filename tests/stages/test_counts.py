"""What stages say is left is what a run then does, task by task."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ray_synth.allocation import synthetic_counts
from ray_synth.classifier.setting import COMPARED
from ray_synth.classifier.train import num_updates
from ray_synth.config import load_experiment
from ray_synth.errors import InputError
from ray_synth.pipeline import Run, folder_of, loaded
from ray_synth.planning.work import Work, work_of
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.sampling.chunks import finished_chunks
from ray_synth.stages import Generate, Sweep, Train
from ray_synth.stages.takes import training_takes
from ray_synth.sweep.ledger import Ledger
from ray_synth.tasks import InPool, Task

from ..conftest import DIGITS, ROOT, write_folder

QUICK = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 60,
    "generator.batch_size": 16,
    "generate.num_inference_steps": 3,
    "generate.chunk_size": 7,
    "classifier.updates": 12,
    "classifier.evaluations": 2,
    "sweep.num_trials": 6,
}


def tasks(work: Work, name: str) -> dict[str, Task]:
    groups = [group for stage in work.stages if stage.name == name for group in stage.groups if not group.once]
    return {task.name: task for group in groups for task in group.tasks}


def compared(job: Run, folder: RunFolder) -> None:
    """Everything that is planned beforehand beside what lies in the folder afterwards."""
    before = work_of(job)
    job.perform()
    after = Run(job.experiment, folder, Reporter())
    assert work_of(after).complete == tuple(stage.name for stage in after.stages.values())

    steps = json.loads(folder.read("stages/finetune.json"))
    assert steps["complete"]
    planned = tasks(before, "generate")
    made = finished_chunks(folder, after.of(Generate).images)
    assert {chunk.name for chunk in made} == set(planned)
    assert {chunk.name: len(chunk) for chunk in made} == {n: t.takes["image"] for n, t in planned.items()}

    trials = Ledger(folder).ended
    assert list(tasks(before, "sweep")) == sorted(trials)
    # What was tried first was known beforehand but for the prediction, and after the fact all of it is.
    sweep = after.of(Sweep)
    for trial_id, setting in sweep.expected_settings(Ledger(folder)).items():
        assert setting == trials[trial_id].setting
        takes = {t.name: t.takes for t in sweep.alternative().tasks.tasks}[trial_id]
        assert takes["trial_image"] == images_of(after, setting.synthetic_ratio) * job.experiment.sweep.repeats
        assert trials[trial_id].num_synthetic == synthetic_of(after, setting.synthetic_ratio)

    final = list(tasks(before, "train"))
    files = [name for name in folder.list("model/runs") if name.endswith(".safetensors")]
    assert sorted(final) == sorted(name.removesuffix(".safetensors") for name in files)
    for training in after.of(Train).trainings():
        takes = takes_of(after, training.name)
        setting = after.of(Train).settings()[training.name.rsplit("-", 1)[0]]
        real, synthetic = real_of(after, setting.synthetic_ratio), synthetic_of(after, setting.synthetic_ratio)
        assert takes["training_image"] == real + synthetic
        updates = num_updates(setting.applied_to(job.experiment.classifier), real, synthetic)
        assert sum(many for unit, many in takes.items() if unit.startswith("training_update")) == updates


def takes_of(job: Run, name: str) -> Mapping[str, float]:
    train = job.of(Train)
    training = next(t for t in train.trainings() if t.name == name)
    return train.task(training).takes


def synthetic_of(job: Run, ratio: float) -> int:
    return int(synthetic_counts(job.inputs.real_counts, ratio, "fill", job.inputs.given).sum())


def real_of(job: Run, ratio: float) -> int:
    used = job.experiment.data.use_real or not synthetic_of(job, ratio)
    return len(job.inputs.splits.train) if used else 0


def images_of(job: Run, ratio: float) -> int:
    return real_of(job, ratio) + synthetic_of(job, ratio)


@pytest.mark.slow
@pytest.mark.long
def test_the_demo(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    small: dict[str, Any] = {**QUICK, "data.shots": 5, "generate.images_per_class": 20}
    compared(Run(load_experiment(DIGITS, small), folder, Reporter()), folder)


@pytest.mark.slow
@pytest.mark.long
def test_a_few_shot_smoke(tmp_path: Path) -> None:
    file = ROOT / "sweeps" / "few_shot" / "dtd_lightweight.yaml"
    e = loaded(file, overrides={}, seed=None, smoke=True, reporter=Reporter())
    folder = folder_of(e, tmp_path / "out")
    job = Run(e, folder, Reporter())
    if e.generate.filter.clip is not None or e.generate.images_per_class is None:
        planned = work_of(job)
        assert any(isinstance(group.way, InPool) for stage in planned.stages for group in stage.groups)
    compared_without_refills(job, folder)


def compared_without_refills(job: Run, folder: RunFolder) -> None:
    """As `compared`; what a filter took away and was made anew is not planned."""
    before = work_of(job)
    job.perform()
    after = Run(job.experiment, folder, Reporter())
    made = finished_chunks(folder, after.of(Generate).images)
    planned = {
        task.name
        for stage in before.stages
        for group in stage.groups
        if isinstance(group.way, InPool)
        for task in group.tasks
    }
    first = {f"{name[:36]}.parquet" for name in (chunk.name.removesuffix(".parquet") for chunk in made)}
    assert planned <= first
    assert list(tasks(before, "sweep").keys() & Ledger(folder).ended.keys())
    assert len([name for name in folder.list("model/runs") if name.endswith(".safetensors")]) == after.of(Train).total


@pytest.mark.slow
@pytest.mark.long
def test_a_folder_run(tmp_path: Path, digits: Any) -> None:
    ours = write_folder(tmp_path / "real", digits, classes=(0, 1, 2), each=60)
    theirs = write_folder(tmp_path / "made", digits, classes=(0, 1, 2), each=24, skip=60)
    small = {name: value for name, value in QUICK.items() if not name.startswith("generator.")}
    small.pop("generate.num_inference_steps")
    e = load_experiment(
        DIGITS,
        {
            **small,
            "data": {"kind": "folder", "path": str(ours), "shots": 6, "image_size": 8},
            "generator": {"kind": "folder", "path": str(theirs)},
            "generate.images_per_class": 24,
        },
    )
    folder = RunFolder(tmp_path / "out")
    compared(Run(e, folder, Reporter()), folder)


def of_folders(real: Path, made: Path, **changes: Any) -> Run:
    """Of the digits' experiment, with as many images as its ratios need."""
    settings = {
        "data": {"kind": "folder", "path": str(real), "image_size": 8, "shots": None},
        "generator": {"kind": "folder", "path": str(made)},
        "generate.images_per_class": None,
    }
    return Run(load_experiment(DIGITS, settings | changes), RunFolder(real.parent / "none"), Reporter())


def test_ratios_are_of_the_images_of_classes_that_have_any(tmp_path: Path, digits: Any) -> None:
    ours = write_folder(tmp_path / "real", digits, classes=(0, 1), each=60)
    write_folder(ours, digits, classes=(2,), each=20)
    theirs = write_folder(tmp_path / "made", digits, classes=(1, 2), each=50, skip=60)
    run = of_folders(ours, theirs)
    images, real = run.of(Generate), run.inputs.real_counts
    assert run.inputs.given.tolist() == [False, True, True]
    assert images.most_per_class.tolist() == [0, 50, 50]
    # Filled up to the level where class 2 has used up its 50.
    limit = images.max_ratio(16)
    assert limit == pytest.approx((50 + real[2] + 50 - real[1]) / real.sum())
    assert images.counts(limit).tolist() == [0, real[2] + 50 - real[1], 50]
    for setting in run.of(Sweep).expected_settings(Ledger(run.folder)).values():
        takes = training_takes(run.inputs, setting, "trial")
        assert takes["trial_image"] == pytest.approx((1 + setting.synthetic_ratio) * real.sum(), abs=1)
    assert "images of class 'digit 2', and there are 50; add some to" in images.overview
    assert [note for note in run.notes if "real only" in note] == [
        f"no synthetic images of class(es) 'digit 0' in {theirs}: they stay real only"
    ]
    assert of_folders(ours, theirs, **{"generate.images_per_class": 9}).of(Generate).images.images_per_class == (
        0,
        9,
        9,
    )
    with pytest.raises(
        InputError, match=r"use_real is false, and class\(es\) 'digit 0' have no images in .*use_real=true"
    ):
        of_folders(ours, theirs, **{"data.use_real": False})


@pytest.mark.slow
@pytest.mark.long
def test_a_folder_run_that_fills_one_class(tmp_path: Path, digits: Any) -> None:
    """Two classes have no synthetic images: they are trained on their real ones, and a ratio counts all of both."""
    ours = write_folder(tmp_path / "real", digits, classes=(0, 1), each=100)
    write_folder(ours, digits, classes=(2,), each=30)
    theirs = write_folder(tmp_path / "made", digits, classes=(2,), each=70, skip=30)
    small = {name: value for name, value in QUICK.items() if not name.startswith(("generator.", "generate.num"))}
    e = of_folders(ours, theirs, **small, **{"sweep.space.synthetic_ratio": {"choices": [0.0, 0.5, 1.5]}}).experiment
    folder = RunFolder(tmp_path / "out")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Mean of empty slice")
        compared(Run(e, folder, Reporter()), folder)

    real = Counter(Run(e, folder, Reporter()).inputs.splits.train.labels.tolist())
    assert json.loads(folder.read("generation.json"))["images_per_class"] == [0, 0, 70]
    settings = json.loads(folder.read("model/settings.json"))
    for name in COMPARED:  # baselines keep no regions
        setting = settings[name]
        file = next(f for f in folder.list("model/runs") if f.startswith(name) and f.endswith("regions.parquet"))
        rows = pq.read_table(folder.path(f"model/runs/{file}")).to_pylist()
        found = Counter((row["source"], row["class_name"]) for row in rows)
        asked = round(setting["synthetic_ratio"] * sum(real.values()))
        assert found.pop(("synthetic", "digit 2"), 0) == asked
        assert found == {("real", f"digit {label}"): number for label, number in real.items()}
    trials = [t for t in Ledger(folder).ended.values() if t.setting.synthetic_ratio == 1.5]
    assert {t.num_synthetic for t in trials} == {round(1.5 * sum(real.values()))}
    metrics = json.loads(folder.read("metrics.json"))
    assert [name for name in metrics if name.startswith("label_fidelity/class/")] == ["label_fidelity/class/digit 2"]
    assert 0 < metrics["accuracy/best"] <= 1
    estimate = json.loads(folder.read("estimate.json"))
    assert len({json.dumps(each) for each in estimate["allocations"].values()}) == 1
    assert "nan" not in folder.read("summary.json").decode().lower()
    assert folder.exists("report.html")
