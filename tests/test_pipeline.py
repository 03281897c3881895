"""Whole runs: killed at every stage and continued, changed and partly redone, repeated and left alone."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import ray_synth as rs
from ray_synth.config import load_experiment
from ray_synth.stages import stages_asked

from .conftest import DIGITS, TINY

pytestmark = pytest.mark.slow


def command(out: Path, verb: str = "run", **changes: Any) -> list[str]:
    settings = {**TINY, **changes}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return [sys.executable, "-m", "ray_synth.cli", verb, str(DIGITS), "--out", str(out), *words]


def perform(out: Path, verb: str = "run", **changes: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(out, verb, **changes), capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def keys(out: Path) -> list[str]:
    files = sorted((out / "synthetic").glob("*.parquet"))
    return [key for file in files for key in pq.read_table(io.BytesIO(file.read_bytes()))["key"].to_pylist()]


def contents(out: Path) -> dict[str, str]:
    """Every file but the log, with its hash."""
    files = [p for p in out.rglob("*") if p.is_file() and p.name != "log.txt"]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    perform(out)
    return out


def test_a_run_folder_stands_for_its_file(undisturbed: Path) -> None:
    before = contents(undisturbed)
    done = subprocess.run(
        [sys.executable, "-m", "ray_synth", "run", str(undisturbed)],
        capture_output=True, text=True, check=False, timeout=400, cwd=undisturbed.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is complete in" in done.stderr
    assert contents(undisturbed) == before


def test_the_run_folder_holds_what_is_promised(undisturbed: Path) -> None:
    for name in ("experiment.yaml", "estimate.json", "metrics.json", "summary.json", "report.html", "log.txt"):
        assert (undisturbed / name).stat().st_size > 0
    summary = json.loads((undisturbed / "summary.json").read_text())
    compared = {"real_only", "at_predicted", "best"}
    assert set(summary["accuracy"]) == compared | {"real_only_tuned", "real_only_augmented"}
    # Nothing of the default space acts on real images alone: what is tuned is what it was, and is not trained again.
    assert summary["accuracy"]["real_only_tuned"] == summary["accuracy"]["real_only"]
    weights = {path.name.rsplit("-", 1)[0] for path in (undisturbed / "model" / "runs").glob("*.safetensors")}
    assert weights == compared | {"real_only_augmented"}
    assert summary["num_generated"] == 80
    assert summary["num_trials"] == 5
    assert set(summary["seconds"]) == {stage.name for stage in stages_asked(load_experiment(DIGITS))}
    assert len(keys(undisturbed)) == len(set(keys(undisturbed))) == 80
    rows = (undisturbed / "sweep" / "trials.csv").read_text().splitlines()
    assert len(rows) == 6
    first = [float(row.split(",")[4]) for row in rows[1:3]]
    assert first[0] == summary["predicted_ratio"]  # the prediction is the first trial, then comes no synthetic image
    assert 0 in first
    for name in ("ratio.svg", "search.svg", "tensorboard/t00000/events.out.tfevents.0.t00000"):
        assert (undisturbed / "sweep" / name).stat().st_size > 0
    page = (undisturbed / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|url\(\s*["']?http|@import""", page)  # opens offline
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    assert all(isinstance(value, float) for value in metrics.values())


def test_a_second_run_changes_nothing_but_the_log(undisturbed: Path) -> None:
    before = contents(undisturbed)
    done = perform(undisturbed)
    assert "everything up to report is complete" in done.stderr
    assert contents(undisturbed) == before


def trials(out: Path) -> list[dict[str, str]]:
    """The rows of the sweep, but for the seconds."""
    with (out / "sweep" / "trials.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


@pytest.mark.long
def test_a_finished_sweep_is_extended(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = trials(out)
    done = subprocess.run([*command(out, "sweep"), "--extend", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "7 trials (" in done.stdout
    assert trials(out)[:5] == before
    assert len(trials(out)) == 7
    again = subprocess.run(command(out, "sweep"), capture_output=True, text=True, check=False)
    assert "complete" in again.stderr  # those that were added belong to it now


@pytest.mark.long
def test_images_that_nobody_counted_are_made_as_trials_need_them(tmp_path: Path) -> None:
    changes = {"generate.images_per_class": None, "estimate.pilot_ratio": 2, "evaluate.repeats": 1}
    out = tmp_path / "run"
    done = perform(out, "generate", **changes)
    assert len(keys(out)) == 80  # the pilot: 2 per real image
    done = perform(out, **changes)
    assert "more images, for a trial at ratio" in done.stderr
    needed = max(round(float(row["synthetic_ratio"]) * 4) for row in trials(out))
    assert len(keys(out)) == len(set(keys(out))) == 10 * needed
    generation = json.loads((out / "generation.json").read_text())
    assert (generation["images_per_class"], generation["kept"]) == ([needed] * 10, 10 * needed)
    assert json.loads((out / "summary.json").read_text())["num_generated"] == 10 * needed
    before = contents(out)
    perform(out, **changes)
    assert contents(out) == before


def wait_for(stage: str, process: subprocess.Popen[Any], out: Path) -> None:
    """Until the stage is under way: its record is open, and something of it is done where it takes long."""
    record = out / "stages" / f"{stage}.json"
    ready = {
        "finetune": lambda: (out / "generator" / "checkpoint.safetensors").exists(),
        "generate": lambda: len(list((out / "synthetic").glob("*.parquet"))) >= 3,
        "sweep": lambda: "ended" in (out / "sweep" / "ledger.jsonl").read_text(),
        "train": lambda: any((out / "model" / "runs").glob("*.safetensors")),
    }.get(stage, lambda: True)
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        try:
            if not json.loads(record.read_text())["complete"] and ready():
                break
        except (OSError, ValueError):
            pass
        time.sleep(0.005)


def test_killed_in_every_stage_it_continues_to_the_same_end(undisturbed: Path, tmp_path: Path) -> None:
    """One run, killed in each of its stages in turn, and begun again by the same command each time. It samples with one
    actor, the undisturbed one with one a CPU."""
    out, one_actor = tmp_path / "run", {"generate.num_actors": 1}
    for stage in [stage.name for stage in stages_asked(load_experiment(DIGITS))]:
        with subprocess.Popen(
            command(out, **one_actor), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            wait_for(stage, process, out)
            os.kill(process.pid, signal.SIGKILL)
        record = json.loads((out / "stages" / f"{stage}.json").read_text())
        assert not record["complete"], f"{stage} was over before the signal came"
    perform(out, **one_actor)
    assert (out / "estimate.json").read_bytes() == (undisturbed / "estimate.json").read_bytes()
    assert sorted(keys(out)) == sorted(keys(undisturbed))
    for part in ("generator", "synthetic"):
        before, after = ({k: v for k, v in contents(run).items() if k.startswith(part)} for run in (undisturbed, out))
        assert after == before, f"{part} differs from the undisturbed run"
    assert trials(out) == trials(undisturbed)
    assert len(trials(out)) == TINY["sweep.num_trials"]
    accuracies = [json.loads((run / "summary.json").read_text())["accuracy"] for run in (undisturbed, out)]
    assert accuracies[0] == accuracies[1]
    assert not (out / "stale").exists()


def test_killed_after_the_last_chunk_it_continues(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    for stage in ("finetune", "generate"):
        record = json.loads((out / "stages" / f"{stage}.json").read_text())
        (out / "stages" / f"{stage}.json").write_text(json.dumps(record | {"complete": False}))
    before = contents(out)
    perform(out)
    changed = {name for name, value in contents(out).items() if before.get(name) != value}
    assert changed == {"stages/finetune.json", "stages/generate.json", "summary.json"}  # seconds


@pytest.mark.long
def test_ctrl_c_exits_with_130_and_the_next_start_continues(tmp_path: Path) -> None:
    # A shell that starts the tests in the background has them, and their children, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = tmp_path / "run"
    for stage in ("finetune", "generate", "sweep", "train"):
        with subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            wait_for(stage, process, out)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert errors.strip().endswith("run the same command again to continue")
        assert "Traceback" not in errors
    perform(out, "train")


@pytest.mark.long
def test_fewer_shots_reuse_the_generator_and_redo_the_rest(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = contents(out)
    done = perform(out, **{"data.shots": 2})
    after = contents(out)
    for name in before:
        if name.startswith(("generator/", "synthetic/")):
            assert after[name] == before[name]
    assert "finetune" not in done.stderr
    for name in ("estimate.json", "report.html", "summary.json", "sweep/trials.csv", "experiment.yaml"):
        assert after[name] != before[name]
        kept = [new for new in after if new.startswith("stale/") and new.endswith("/" + name)]
        assert [after[new] for new in kept] == [before[name]]


def test_more_images_are_added_and_none_is_made_again(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = contents(out)
    perform(out, "generate", **{"generate.images_per_class": 11})
    after = contents(out)
    assert {k: v for k, v in after.items() if k.startswith("synthetic/") and k in before} == {
        k: v for k, v in before.items() if k.startswith("synthetic/")
    }
    assert len(set(keys(out))) == len(keys(out)) == 110


@pytest.mark.long
def test_two_train_workers_share_each_batch(undisturbed: Path, tmp_path: Path) -> None:
    """Without the two terms over pairs, the mean of two workers' gradients is the gradient of the whole batch."""
    accuracies = []
    for workers in (1, 2):
        out = tmp_path / f"workers{workers}"
        shutil.copytree(undisturbed, out)
        changes = {"classifier.lambda_1": 0, "classifier.lambda_2": 0, "sweep.num_trials": 2}
        perform(out, "evaluate", **changes, **{"classifier.num_workers": workers})
        metrics = json.loads((out / "metrics.json").read_text())
        accuracies.append([metrics[f"accuracy/{name}"] for name in ("real_only", "at_predicted")])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)


@pytest.mark.long
def test_a_folder_of_photos_runs_from_python(image_folder: Path, tmp_path: Path) -> None:
    overrides = {**TINY, "data.kind": "folder", "data.path": str(image_folder), "sweep.num_trials": 2}
    summary = rs.run(DIGITS, out=tmp_path / "run", overrides=overrides)
    assert summary["num_real"] == 12
    assert summary["num_generated"] == 24
    with pytest.raises(rs.InputError, match="belongs to experiment 'digits'"):
        rs.run(DIGITS, out=tmp_path / "run", overrides={**overrides, "name": "other"})


def test_a_stage_that_fails_exits_with_1_and_says_how_to_go_on(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / "report.html").unlink()
    ledger = out / "sweep" / "ledger.jsonl"
    before = ledger.read_bytes()
    ledger.write_bytes(b'{"event": "ended"}\n' + before)
    done = subprocess.run(command(out), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ledger.jsonl cannot be read: line 1 is no line of a ledger" in done.stderr
    assert "Traceback" in (out / "log.txt").read_text()
    ledger.write_bytes(before)
    perform(out)


def test_spoiled_chunks_and_weights_are_said_and_made_anew(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    chunk = sorted((out / "synthetic").glob("*.parquet"))[0]
    weights = out / "generator" / "diffusion_pytorch_model.safetensors"
    classifier = out / "model" / "runs" / "best-0.safetensors"
    whole = {file: file.read_bytes() for file in (chunk, weights, classifier)}
    for file, data in whole.items():
        flipped = bytearray(data)
        flipped[len(data) // 2 if file != chunk else data.index(b"IHDR") + 30] ^= 1
        file.write_bytes(flipped)
    (out / "estimate.json").unlink()
    done = perform(out)
    for file in whole:
        assert str(file.relative_to(out)) in done.stderr
        assert list((out / "stale").rglob(file.name))
    assert {file: file.read_bytes() for file in whole} == whole
    assert (out / "estimate.json").read_bytes() == (undisturbed / "estimate.json").read_bytes()
    assert trials(out) == trials(undisturbed)
    assert (out / "metrics.json").read_bytes() == (undisturbed / "metrics.json").read_bytes()


@pytest.mark.long
def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    """`sweeps/digits.yaml` as it is, on the real digits."""
    summary = rs.run(DIGITS, out=tmp_path / "digits")
    metrics = json.loads((tmp_path / "digits" / "metrics.json").read_text())
    assert metrics["label_fidelity"] >= 0.9
    assert metrics["label_fidelity/judge_accuracy"] >= 0.9
    assert summary["num_trials"] >= 24
    assert summary["num_generated"] == 1600
    assert 0 <= summary["interval"][0] <= summary["predicted_ratio"] <= summary["interval"][1] <= 16
    assert summary["accuracy"]["best"] > summary["accuracy"]["real_only"]
