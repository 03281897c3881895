"""Several runs on one page: side by side where they were tested on the same images, apart where not; what is no run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ray_synth.cli import app
from ray_synth.config.yaml import as_yaml
from ray_synth.errors import InputError
from ray_synth.report.compare import compare, comparison_file, read_runs

from .example import NAMES, estimate
from .test_summary import summary_of


def written(folder: Path, *, test: str = "a" * 64, settings: dict[str, Any] | None = None, **changes: Any) -> str:
    """A run folder as a finished run leaves it, without what no comparison reads."""
    folder.mkdir(parents=True)
    text = as_yaml({"format": 2, "digest": folder.name, "name": "digits", "seed": 0, **(settings or {})})
    (folder / "experiment.yaml").write_text(text)
    (folder / "summary.json").write_text(json.dumps(summary_of(**changes).to_dict()))
    (folder / "splits.json").write_text(json.dumps({"digests": {"test": test}, "images": {"test": 480}}))
    (folder / "estimate.json").write_text(json.dumps(estimate().to_dict()))
    return str(folder)


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, ["report", *words])


def test_runs_stand_beside_each_other_with_what_differs(tmp_path: Path) -> None:
    first = written(tmp_path / "a", settings={"data": {"shots": 5, "kind": NAMES[0]}})
    second = written(tmp_path / "b", settings={"data": {"shots": 10, "kind": NAMES[0]}}, predicted_ratio=7.0)
    done = typed(first, second)
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert f"comparison: {tmp_path}/comparison.html" in done.output
    text = (tmp_path / "comparison.html").read_text()
    assert "<h1>2 runs side by side</h1>" in text
    assert text.count("<h3>Test set ") == 1
    assert "<h3>Test set 1: 480 images</h3>" in text
    assert "different sets" not in text
    assert "Use about 7 synthetic images per real image" in text
    assert '<td class="n" data-v="0.900000">0.9000 ± 0.0200</td>' in text
    assert "<tr><td>data.shots</td><td>5</td><td>10</td></tr>" in text
    assert "data.kind" not in text  # the same in both


def test_other_test_sets_are_said_and_stand_apart(tmp_path: Path) -> None:
    runs = [written(tmp_path / name, test=digest * 64) for name, digest in (("a", "1"), ("b", "2"), ("c", "1"))]
    text = compare(runs, str(tmp_path / "page.html")).read_text()
    assert "tested on 2 different sets of images" in text
    assert "not averaged" in text
    groups = text.split("<h3>Test set ")[1:]
    assert [("<td>a</td>" in group, "<td>b</td>" in group, "<td>c</td>" in group) for group in groups] == [
        (True, False, True), (False, True, False),
    ]  # fmt: skip


def test_older_folders_are_compared_without_what_they_lack(tmp_path: Path) -> None:
    runs = [written(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        (Path(run) / "splits.json").unlink()
        (Path(run) / "estimate.json").unlink()
    text = compare(runs).read_text()
    assert text.count("does not say which images it was tested on") == 2
    assert "Predictions" not in text


def test_what_is_no_run_is_refused_with_what_to_type(tmp_path: Path) -> None:
    run, other = written(tmp_path / "a"), tmp_path / "photos"
    other.mkdir()
    done = typed(run, str(other))
    assert done.exit_code == 2
    assert f"{other} is no run folder: it holds no experiment.yaml; type ray-synth report RUN1 RUN2" in done.output
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "experiment.yaml").write_text("name: digits\n")
    done = typed(run, str(tmp_path / "begun"))
    assert done.exit_code == 2
    assert f"type ray-synth run {tmp_path}/begun" in done.output
    assert typed(run, run + "/").exit_code == 2
    done = typed(run, str(other), "--seed", "1")
    assert done.exit_code == 2
    assert "belong to one run" in done.output
    assert not (tmp_path / "comparison.html").exists()


def test_nothing_but_a_comparison_is_written_over(tmp_path: Path) -> None:
    runs = [written(tmp_path / name) for name in ("a", "b")]
    assert compare(runs) == compare(runs)  # a comparison may be
    mine = tmp_path / "mine.html"
    mine.write_text("my page")
    with pytest.raises(InputError, match=r"no comparison of runs; type --out .*other\.html"):
        compare(runs, str(mine))
    assert mine.read_text() == "my page"
    assert comparison_file(str(tmp_path / "new"), runs) == tmp_path / "new" / "comparison.html"
    with pytest.raises(InputError, match="a file of this machine"):
        comparison_file("s3://bucket/x.html", runs)


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    runs = read_runs([written(tmp_path / "x" / "digits"), written(tmp_path / "y" / "digits")])
    assert [run.name for run in runs] == ["x/digits", "y/digits"]
