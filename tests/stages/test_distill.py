"""An experiment that distils: which stages it asks for, what is refused, planned, made, killed and made again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ray_synth.config import load_experiment
from ray_synth.config.yaml import as_yaml
from ray_synth.errors import InputError
from ray_synth.pipeline import Run, run
from ray_synth.planning.plan import plan
from ray_synth.planning.rates import gpu_rates
from ray_synth.planning.work import work_of
from ray_synth.progress import Reporter
from ray_synth.report.distilled import SECTIONS, write_distilled
from ray_synth.report.sections.distillation import Distilled
from ray_synth.runs import RunFolder
from ray_synth.stages import Distill
from ray_synth.stages.distill import METRICS

from ..conftest import DIGITS, ROOT
from ..distill.jobs import SMALL, do

FILE: dict[str, Any] = {
    "name": "few",
    "data": {"kind": "digits", "generator_split": "shared", "shots": 12},
    "distill": SMALL,
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "few.yaml"
    path.write_text(as_yaml({**FILE, "distill": {**SMALL, **changes}}))
    return path


def run_in(folder: Path, **changes: Any) -> Run:
    return Run(load_experiment(written(folder, **changes)), RunFolder(folder / "out"), Reporter())


def test_a_file_that_distils_asks_for_nothing_else(tmp_path: Path) -> None:
    found = run(written(tmp_path), out=tmp_path / "out", dry_run=True)
    assert found["stages"] == ["distill", "report"]
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"few has a distill section.*no stage sweep; type --set distill=null"):
        run(written(tmp_path), out=tmp_path / "out", until="sweep")
    with pytest.raises(InputError, match=r"no stage sweep"):
        run(written(tmp_path), out=tmp_path / "out", extend=3)
    with pytest.raises(InputError, match=r"digits has no distill section.*type --set distill={}"):
        run(DIGITS, out=tmp_path / "other", until="distill")
    assert "distill" not in run(DIGITS, out=tmp_path / "other", dry_run=True)["stages"]


def test_a_class_smaller_than_is_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images_per_class must be <= 12, the real images of class '0', got 13"):
        run_in(tmp_path, images_per_class=13)


@pytest.mark.parametrize("model", ["small_cnn", "timm:test_vit"])
def test_a_teacher_without_batchnorm_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(InputError, match=r"distill.teacher.model must have BatchNorm layers"):
        run_in(tmp_path, teacher={"model": model})


def test_students_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"posttrain.models: 'resnet19' does not do.*posttrain.models=\[resnet18\]"):
        load_experiment(written(tmp_path, posttrain={"models": ["resnet19"]}))


def test_what_is_left_is_planned_and_shrinks(tmp_path: Path) -> None:
    job = run_in(tmp_path)
    stage = job.of(Distill)
    found = work_of(job)
    # 3 images a class: all ten classes fill a batch of 12 by four; SRe2L has every class once in a batch.
    assert stage.plan == "1 teacher, 10 classes to squeeze, 6 batches to recover, 9 classifiers to train and test"
    assert (stage.done, stage.total) == (0, 26)
    priced = plan(found, gpu_rates("L4", job.stages.values()))
    assert priced.images == 2 * 3 * 10
    assert [each.name for each in priced.stages] == ["start", "distill", "report"]
    assert all(each.wall.median > 0 for each in priced.stages)
    splits = job.inputs.splits
    (tmp_path / "out").mkdir()
    do(stage.job, splits, until="classes")
    assert (stage.done, stage.total) == (11, 26)
    assert "teacher" not in stage.plan


def test_calibration_measures_what_a_plan_asks_for(tmp_path: Path) -> None:
    from ray_synth.stages.bench_distilling import seconds_of_units

    job = run_in(tmp_path)
    units = work_of(job, "distill").units
    found = seconds_of_units(job.of(Distill).job, job.inputs.splits.train.take(slice(32)))
    assert units - found.keys() == {"chunk", "distill_start"}
    assert all(seconds > 0 for seconds in found.values())


def test_a_report_shows_every_method(tmp_path: Path) -> None:
    job = run_in(tmp_path)
    stage = job.of(Distill)
    (tmp_path / "out").mkdir()
    do(stage.job, job.inputs.splits)
    assert not stage.left.count
    metrics = stage._measured()
    folder = RunFolder(tmp_path / "report")
    write_distilled(
        folder,
        Distilled(
            name="<few>",
            metrics=metrics,
            real=job.inputs.splits.train,
            images={method: stage.images(method) for method in stage.settings.methods},
            settings={"name": "<few>"},
            seconds={"distill": 1.0},
        ),
    )
    page = folder.read("report.html").decode()
    assert "<few>" not in page
    assert page.count("<img") == 4 * 10
    for words in (
        "Wasserstein barycenters (WMDD)",
        "global statistics (SRe2L)",
        "realistic patches (RDED)",
        "over random",
    ):
        assert words in page
    assert not re.search(r"(src|href)=.http", page)
    assert list(SECTIONS) == ["accuracies", "distillation", "seconds", "settings"]


def test_images_are_exported_and_weigh_what_they_stand_for(tmp_path: Path) -> None:
    job = run_in(tmp_path, compare=[])
    stage = job.of(Distill)
    (tmp_path / "out").mkdir()
    do(stage.job, job.inputs.splits, until="batches")
    assert stage.export("folder", {}) == "export/folder"
    assert len(list((tmp_path / "out" / "export" / "folder").glob("*/*.png"))) == 30
    read = load_experiment(written(tmp_path), {"generator": {"kind": "folder", "path": "x"}, "distill": None})
    assert read.distill is None  # what another experiment takes them with
    with pytest.raises(InputError, match=r"the images of distill.method: random are real ones"):
        run(written(tmp_path), out=tmp_path / "early", overrides={"distill.method": "random"}, export="folder")
    assert not (tmp_path / "early").exists()  # before anything starts


def digests(out: Path) -> dict[str, str]:
    """Whole files: the name of one that is being written begins with a dot, and is gone in a moment."""
    images = out.glob("distilled/images/[!.]*")
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in images}


def command(path: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "ray_synth.cli", "run", str(path), "--out", str(out)]


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_and_ends_in_the_same(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = subprocess.run(command(path, tmp_path / "whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    with subprocess.Popen(command(path, tmp_path / "cut"), start_new_session=True) as process:
        until = time.monotonic() + 300
        while len(digests(tmp_path / "cut")) < 12 and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    again = subprocess.run(command(path, tmp_path / "cut"), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    results = [(tmp_path / name / METRICS).read_text() for name in ("cut", "whole")]
    assert results[0] == results[1]
    assert json.loads((tmp_path / "cut" / "summary.json").read_text())["distillation"] == json.loads(results[0])
    assert (tmp_path / "cut" / "report.html").stat().st_size > 0
    done = subprocess.run(command(path, tmp_path / "cut"), capture_output=True, text=True, check=False)
    assert "everything up to report is complete" in done.stderr


@pytest.mark.slow
def test_cifar10_runs_in_small(tmp_path: Path) -> None:
    """The verb, and images that another experiment can train on."""
    words = ["distill", str(ROOT / "sweeps" / "wmdd" / "cifar10.yaml"), "--smoke", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "ray_synth.cli", *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / METRICS).read_text())
    assert "accuracy/real" in metrics
    assert any(name.startswith("accuracy/wmdd/soft/") for name in metrics)
