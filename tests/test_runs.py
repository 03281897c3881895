"""The run folder: whole files or none, digests and not times decide, nothing is deleted."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import ray_synth as rs
from ray_synth import cli
from ray_synth.config import FORMAT, Experiment, load_experiment
from ray_synth.config.yaml import as_yaml, read_yaml
from ray_synth.errors import InputError, Spoiled, WorkError
from ray_synth.pipeline import folder_of, loaded
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder

from .conftest import DIGITS


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    """One contract for a disk and for an object store."""
    return RunFolder(tmp_path / "run" if request.param == "local" else f"memory://{tmp_path}")


def test_files_are_written_read_listed_and_removed(folder: RunFolder) -> None:
    folder.write("a/b.txt", b"one")
    folder.write("a/b.txt", b"two")
    folder.append("log.txt", "x\n")
    folder.append("log.txt", "y\n")
    assert folder.read("a/b.txt") == b"two"
    assert folder.read("log.txt") == b"x\ny\n"
    assert folder.list("a") == ["b.txt"]
    assert folder.list("nowhere") == []
    before = folder.version("a/b.txt")
    assert before == folder.version("a/b.txt")
    folder.write("a/b.txt", b"six")
    assert folder.version("a/b.txt") != before
    assert folder.version("a/c.txt") is None
    folder.remove("a/b.txt")
    folder.remove("a/b.txt")
    assert not folder.exists("a/b.txt")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write("file", b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(WorkError, match="no space left for"):
        folder.write("file", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert folder.read("file") == b"old"


def test_a_torn_write_is_not_listed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write("synthetic/whole", b"1")
    (tmp_path / "synthetic" / ".torn.abcd.tmp").write_bytes(b"half")
    assert folder.list("synthetic") == ["whole"]


def test_a_stage_that_completes_takes_away_what_killed_writers_left(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.working_on("generate", "d1", ["synthetic"]):
        folder.write("synthetic/whole", b"1")
        torn = tmp_path / "synthetic" / ".chunk-3.parquet.0123abcd.tmp"
        torn.write_bytes(b"half")
        mine = tmp_path / "synthetic" / ".notes.tmp"  # none of ours
        mine.write_bytes(b"mine")
    assert not torn.exists()
    assert mine.exists()
    assert folder.is_complete("generate", "d1")


def test_a_writer_whose_file_is_swept_away_meanwhile_writes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = RunFolder(tmp_path), RunFolder(tmp_path)
    swept, sync = [], os.fsync

    def late(file: int) -> None:
        sync(file)
        if not swept:
            swept.append(True)
            with other.working_on("estimate", "d1", []):
                pass

    monkeypatch.setattr("os.fsync", late)
    folder.write("synthetic/chunk", b"whole")
    assert swept == [True]
    assert folder.read("synthetic/chunk") == b"whole"
    assert [p.name for p in (tmp_path / "synthetic").iterdir()] == ["chunk"]


def test_a_stage_is_complete_when_its_digest_and_outputs_say_so(folder: RunFolder) -> None:
    assert not folder.is_complete("estimate", "d1")
    with folder.working_on("estimate", "d1", ["estimate.json"]):
        folder.write("estimate.json", b"1")
        assert not folder.is_complete("estimate", "d1")
    assert folder.is_complete("estimate", "d1")
    assert not folder.is_complete("estimate", "d2")
    folder.remove("estimate.json")
    assert not folder.is_complete("estimate", "d1")


def test_work_that_fails_stays_open_and_keeps_what_it_has(folder: RunFolder) -> None:
    def killed() -> None:
        with folder.working_on("generate", "d1", ["synthetic"]):
            folder.write("synthetic/chunk", b"1")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        killed()
    assert not folder.is_complete("generate", "d1")
    with folder.working_on("generate", "d1", ["synthetic"]) as moved:
        assert moved == []
        assert folder.read("synthetic/chunk") == b"1"


def test_outputs_of_other_settings_are_moved_aside(folder: RunFolder) -> None:
    for stage_digest, expected in (("d1", []), ("d2", ["synthetic"]), ("d1", ["synthetic"])):
        with folder.working_on("generate", stage_digest, ["synthetic", "absent"]) as moved:
            assert moved == expected
            assert not folder.exists("synthetic/chunk")
            folder.write("synthetic/chunk", stage_digest.encode())
    kept = [folder.read(f"stale/{name}/synthetic/chunk") for name in folder.list("stale")]
    assert sorted(kept) == [b"d1", b"d2"]


def test_a_folder_belongs_to_one_experiment(folder: RunFolder) -> None:
    mine = Experiment(name="mine")
    assert folder.open_for(mine) == []
    assert folder.open_for(mine) == []
    assert folder.open_for(Experiment(name="mine", seed=1)) == ["experiment.yaml"]
    with pytest.raises(InputError, match="belongs to experiment 'mine', not 'other'"):
        folder.open_for(Experiment(name="other"))


def test_a_folder_with_other_files_is_refused(folder: RunFolder) -> None:
    folder.write("holiday.jpg", b"1")
    with pytest.raises(InputError, match=r"not empty and holds no experiment\.yaml"):
        folder.open_for(Experiment(name="mine"))
    assert folder.list("") == ["holiday.jpg"]


def test_a_folder_of_another_format_is_moved_aside_with_a_sentence(folder: RunFolder) -> None:
    experiment = Experiment(name="ours")
    folder.open_for(experiment)
    assert folder.leave_old_format() is None
    noted = read_yaml(folder.read("experiment.yaml").decode())
    folder.write("experiment.yaml", as_yaml({name: noted[name] for name in noted if name != "format"}).encode())
    folder.write("synthetic/a.parquet", b"1")
    folder.write("stages/generate.json", b"{}")
    folder.append("log.txt", "before\n")
    said = folder.leave_old_format()
    assert said is not None
    assert f"is of run folder format 1, and this version writes {FORMAT}: moved what it held to" in said
    assert folder.list("") == ["experiment.yaml", "log.txt", "stale"]
    assert folder.open_for(experiment) == ["experiment.yaml"]
    assert folder.leave_old_format() is None
    (moved,) = [name for name in folder.list("stale") if name.startswith("format-")]
    assert folder.read(f"stale/{moved}/synthetic/a.parquet") == b"1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1, 2",
        b"\xff\xfe\x00",
        b'{"digest": NaN}',
        b'{"a": 1e999}',
        b"[" * 100_000,
        b"-Infinity",
        b"1" * 5000,
    ],
)
def test_json_that_is_torn_is_named(folder: RunFolder, data: bytes) -> None:
    folder.write("stages/train.json", data)
    with pytest.raises(Spoiled, match=r"stages/train\.json cannot be read: .*move it away to make it anew") as error:
        folder.read_json("stages/train.json")
    assert error.value.names == ("stages/train.json",)
    again = pickle.loads(pickle.dumps(error.value))  # noqa: S301 - from one of our processes to another
    assert (str(again), again.names) == (str(error.value), error.value.names)
    assert folder.stage("train") is None
    assert folder.torn_records() == ["stages/train.json"]
    assert not folder.is_complete("train", "d1")


@settings(max_examples=25)
@given(
    field=st.sampled_from(["digest", "complete", "outputs", "seconds", "sha256"]),
    value=st.one_of(
        st.just(1e308), st.just(-1.0), st.lists(st.integers()), st.dictionaries(st.text(max_size=3), st.integers())
    ),
)
def test_a_record_of_other_types_is_none(tmp_path_factory: pytest.TempPathFactory, field: str, value: object) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    with folder.working_on("train", "d1", ["model"]):
        folder.write("model/a", b"1")
    whole = folder.read_json("stages/train.json")
    folder.write_json("stages/train.json", whole | {field: value})
    fits = (field, value) in (("outputs", []), ("sha256", {}))
    assert (folder.stage("train") is None) == (not fits)


def test_what_a_stage_made_is_looked_at_by_its_hash(folder: RunFolder) -> None:
    with folder.working_on("train", "d1", ["metrics.json", "model"], sealed=lambda: folder.files("model")):
        folder.write("metrics.json", b"1")
        folder.write("model/runs/a", b"weights")
        folder.write("model/b", b"more")
    assert folder.files("model") == ["model/b", "model/runs/a"]
    assert folder.is_complete("train", "d1")
    again = RunFolder(folder.url)
    assert again.is_complete("train", "d1")
    RunFolder(folder.url).write("model/runs/a", b"weighty")
    RunFolder(folder.url).remove("model/b")
    after = RunFolder(folder.url)
    assert sorted(after.spoiled("train")) == ["model/b", "model/runs/a"]
    assert not after.is_complete("train", "d1")
    after.reseal("train", ["model/runs/a"])
    assert after.spoiled("train") == ["model/b"]


@pytest.mark.parametrize(
    "text", [b"", b"name: [", b"\xff\xff", b"name: 1\n", b"format: 2\n", b"[]", b"name: a\nformat: x\n"]
)
def test_a_torn_experiment_file_is_written_anew_and_nothing_else_is_touched(folder: RunFolder, text: bytes) -> None:
    experiment = Experiment(name="ours")
    folder.open_for(experiment)
    whole = folder.read("experiment.yaml")
    folder.write("stages/generate.json", b"{}")
    folder.write("experiment.yaml", text)
    said = folder.leave_old_format()
    assert said == f"{folder.url}/experiment.yaml cannot be read: kept in {folder.url}/stale/, and written anew"
    assert folder.open_for(experiment) == []
    assert folder.read("experiment.yaml") == whole
    assert folder.read("stages/generate.json") == b"{}"
    (kept,) = folder.list("stale")
    assert folder.read(f"stale/{kept}/experiment.yaml") == text


def test_a_torn_experiment_file_beside_other_things_is_no_run(folder: RunFolder) -> None:
    folder.write("experiment.yaml", b"name: [")
    folder.write("holiday.jpg", b"1")
    with pytest.raises(InputError, match=r"holds no run .*experiment\.yaml cannot be read; choose another folder"):
        folder.open_for(Experiment(name="mine"))


@pytest.mark.parametrize("scheme", sorted(fsspec.available_protocols()))
def test_an_address_that_cannot_be_written_to_is_refused_in_a_line(scheme: str) -> None:
    if scheme in ("file", "local", "memory", "ssh", "smb", "sftp", "webhdfs"):
        pytest.skip("can be written to, or would look for a machine")
    with pytest.raises(InputError, match=r"output folder \S+ cannot be") as error:
        RunFolder(f"{scheme}://bucket/runs/x").check_reachable()
    assert "\n" not in str(error.value)
    assert re.search(r"type pip install|one of s3://|another address", str(error.value))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/", "is the root of all; give a folder below it"),
        ("//", "is the root of all"),
        ("/tmp/..", "is the root of all"),  # noqa: S108 - never written to
        ("file:///", "is the root of all"),
        ("", "'' is no name of a folder; type --out runs/NAME"),
        ("a\0b", "is no name of a folder"),
        ("s3:/bucket/run", "lacks a slash; type --out s3://bucket/run"),
        ("S3://bucket/run", "cannot be used: Protocol not known: S3"),
        ("nope://bucket/run", "cannot be used: Protocol not known: nope"),
        ("zip://run::file://a.zip", "cannot be written to"),
        ("memory://run", "in the memory of one process, and several work on a run"),
    ],
)
def test_a_place_where_no_run_can_lie_is_refused(place: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        RunFolder(place).check_reachable()
    assert expected in str(error.value)


def test_a_machine_that_does_not_answer_is_wrong_input() -> None:
    with pytest.raises(InputError, match=r"output folder webhdfs://\S+ cannot be reached: .*; see that the address"):
        RunFolder("webhdfs://no-such-host.invalid:1/runs/x").check_reachable()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    RunFolder(tmp_path / "elsewhere").open_for(load_experiment(DIGITS, {"data.shots": 3}))
    return tmp_path / "elsewhere"


def reading(**changes: Any) -> dict[str, Any]:
    return {"overrides": None, "seed": None, "smoke": False, "reporter": Reporter(), **changes}


def test_its_settings_are_read_and_its_place_is_kept(begun: Path) -> None:
    experiment = loaded(begun, **reading())
    assert experiment.data.shots == 3
    assert folder_of(experiment, None, begun).root == str(begun)
    assert folder_of(experiment, begun / "other", begun).root == str(begun / "other")
    changed = loaded(str(begun), **reading(overrides={"data": {"image_size": 16}}, seed=4))
    assert (changed.data.shots, changed.data.image_size, changed.seed) == (3, 16, 4)
    assert folder_of(loaded(DIGITS, **reading()), None, DIGITS).url == "runs/digits"


@pytest.mark.parametrize("verb", [["run", "--dry-run"], ["generate", "--export", "nothing"]])
def test_every_verb_takes_one(verb: list[str], begun: Path) -> None:
    done = CliRunner().invoke(cli.app, [verb[0], str(begun), *verb[1:]])
    assert done.exit_code == (0 if verb[0] == "run" else 2)
    assert "experiment" not in done.stderr


def test_a_run_folder_elsewhere_is_read_too() -> None:
    folder = RunFolder("memory://runs/elsewhere")
    folder.open_for(load_experiment(DIGITS, {"data.shots": 3}))
    assert loaded("memory://runs/elsewhere", **reading()).data.shots == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", "holds no experiment.yaml; give an experiment file, or the folder of a run"),
        ("memory://nothing/here", "memory://nothing/here holds no experiment.yaml"),
        ("http://x/y", "cannot be written to"),
    ],
)
def test_a_folder_of_no_run_is_refused(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        rs.run(path, dry_run=True)


def test_the_package_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray_synth", "run", "nowhere.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ray-synth: experiment file not found: nowhere.yaml")
