"""A new stage is one file and one line: it runs, resumes, is planned, and is told of like those that were there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ray_synth.cli import app
from ray_synth.cluster.archive import kept_files
from ray_synth.config import digest
from ray_synth.errors import InputError, WorkError
from ray_synth.hardware.gpus import Gpu
from ray_synth.hardware.measure import Measure
from ray_synth.pipeline import Run, run
from ray_synth.planning.plan import plan
from ray_synth.planning.rates import gpu_rates
from ray_synth.planning.work import work_of
from ray_synth.stages import STAGES
from ray_synth.stages.stage import Stage
from ray_synth.stages.summary import summary_of
from ray_synth.tasks import Task, Tasks

from ..conftest import DIGITS
from ..planning.test_work import run_in


# The stage: a mean picture of each class. A page of the documents shows it.
class Means(Stage):
    """Real training images in, the mean brightness of each class out: means/CLASS.json, and means.json."""

    name = "means"
    purpose = "Take the mean of each class"
    unit = "class_mean"
    keeps = ("means.json",)

    @property
    def digest(self) -> str:
        return digest(self.name, self.inputs.digests["train"])

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.name, "means.json")

    def _missing(self) -> list[int]:
        there = self.folder.list(self.name) if self.begun else []
        return [label for label in range(len(self.inputs.class_names)) if f"{label}.json" not in there]

    @property
    def done(self) -> int:
        return len(self.inputs.class_names) - len(self._missing())

    @property
    def plan(self) -> str:
        return f"means of {len(self._missing())} classes"

    def tasks(self) -> Sequence[Tasks]:
        each = [Task(name=f"{label}.json", takes={"class_mean": 1}) for label in self._missing()]
        return (Tasks(tasks=each),) if each else ()

    def run(self, advance: Callable[[int], None]) -> None:
        train = self.inputs.splits.train
        for label in self._missing():
            mean = float(train.images()[train.labels == label].mean())
            self.folder.write_json(f"{self.name}/{label}.json", mean)
            advance(self.done)
        means = [self.folder.read_json(f"{self.name}/{label}.json") for label in range(self.total)]
        self.folder.write_json("means.json", means)

    def result(self) -> dict[str, Any]:
        return {"means": self.folder.read_json("means.json")}

    def summary(self) -> Mapping[str, Any]:
        return {"brightest_class": max(range(self.total), key=self.result()["means"].__getitem__)}

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        return {"class_mean": Measure(value=2.0, sigma=0.0, origin="own: this test")}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    STAGES.insert(0, Means)
    yield
    STAGES.remove(Means)


def test_it_runs_and_is_left_out_when_it_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(DIGITS, out=tmp_path, until="means")
    assert len(found["means"]) == 10
    assert json.loads((tmp_path / "stages" / "means.json").read_text())["complete"]
    (tmp_path / "means" / "3.json").write_text("0.0")  # as it was: nothing is done again
    assert run(DIGITS, out=tmp_path, until="means") == found
    assert "everything up to means is complete" in capsys.readouterr().err
    again = run(DIGITS, out=tmp_path, until="means", overrides={"data.shots": 3})
    assert again != found


def test_it_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    job = run_in(tmp_path)
    whole = type(job.folder).write_json

    def failing(folder: Any, name: str, value: Any) -> None:
        if name.startswith("means/"):
            if len(written) == 4:
                raise WorkError("killed")
            written.append(name)
        whole(folder, name, value)

    monkeypatch.setattr(type(job.folder), "write_json", failing)
    with pytest.raises(WorkError, match="killed"):
        job.perform("means")
    left = work_of(run_in(tmp_path), "means")
    assert left.stages[0].plan == "means of 6 classes"
    assert [task.name for task in left.stages[0].groups[0].tasks] == [f"{label}.json" for label in range(4, 10)]
    written.clear()
    with pytest.raises(WorkError, match="killed"):  # four more
        run_in(tmp_path).perform("means")
    assert written == [f"means/{label}.json" for label in range(4, 8)]


def test_it_is_a_verb_and_a_stage_to_stop_at(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert "Take the mean of each class" in shown.output
    shown = CliRunner().invoke(app, ["means", "--help"])
    assert "Example: ray-synth means sweeps/digits.yaml" in shown.output
    done = CliRunner().invoke(app, ["means", str(DIGITS), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert (tmp_path / "out" / "means.json").exists()
    with pytest.raises(InputError, match="until must be one of means, finetune"):
        run(DIGITS, until="party")


def test_a_dry_run_names_it(tmp_path: Path) -> None:
    assert run(DIGITS, out=tmp_path / "out", dry_run=True)["stages"][0] == "means"
    assert not (tmp_path / "out").exists()


def test_it_is_planned_with_its_seconds(tmp_path: Path) -> None:
    job = run_in(tmp_path)
    found = plan(work_of(job), gpu_rates("L4", job.stages.values()))
    stage = next(stage for stage in found.stages if stage.name == "means")
    assert (stage.work, stage.wall.median) == ("means of 10 classes", 20.0)
    job.perform("means")
    assert work_of(run_in(tmp_path)).complete == ("means",)


def test_it_is_in_the_summary_and_is_fetched(tmp_path: Path) -> None:
    job: Run = run_in(tmp_path)
    job.perform("means")
    summary = summary_of(job.stages)
    assert summary["seconds"].keys() == {"means"}
    assert 0 <= summary["brightest_class"] < 10
    assert "means.json" in kept_files()
