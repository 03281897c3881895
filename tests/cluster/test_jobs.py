"""Jobs by the words that start them: found again, followed to their end, and what is said when they are lost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from ray_synth.cluster import jobs
from ray_synth.cluster.archive import packed
from ray_synth.cluster.jobs import Cluster, Command, check_versions, command_of, versions
from ray_synth.cluster.working_tree import WorkingTree
from ray_synth.errors import InputError, WorkError
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from tests.conftest import ROOT

COMMAND = Command(verb="run", experiment="sweeps/digits.yaml", name="digits", out="s3://b/digits")
TREE = WorkingTree(root=ROOT, files=("cluster.yaml",), secrets=("hf_token",), num_bytes=10)


class Told(Reporter):
    """What was said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Client:
    """A cluster's jobs; `acts` are what happens at each look at one: a status with its log, or an error."""

    def __init__(self, *acts: Any):
        self.acts, self.jobs, self.sent = list(acts), {}, []  # type: ignore[var-annotated]
        self.log = ""

    def list_jobs(self) -> list[Any]:
        return list(self.jobs.values())

    def submit_job(self, **given: Any) -> str:
        name = given["submission_id"]
        folder = given["runtime_env"].get("working_dir")
        given["files"] = sorted(p.name for p in Path(folder).rglob("*") if p.is_file()) if folder else []
        self.sent.append(given)
        self.jobs[name] = SimpleNamespace(submission_id=name, status="RUNNING", driver_exit_code=None, message="")
        return str(name)

    def get_job_info(self, name: str) -> Any:
        act = self.acts.pop(0)
        if isinstance(act, Exception):
            raise act
        status, self.log, code = act
        return SimpleNamespace(submission_id=name, status=status, driver_exit_code=code, message="Job failed: killed")

    def get_job_logs(self, name: str) -> str:
        return self.log


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK_EVERY", 0.0)


def cluster(monkeypatch: pytest.MonkeyPatch, *acts: Any) -> tuple[Cluster, Client, list[str]]:
    client, reporter = Client(*acts), Told()
    monkeypatch.setattr(jobs, "_connected", lambda address: client)
    return Cluster("http://127.0.0.1:1", reporter), client, reporter.lines


def test_the_same_words_find_the_job_that_runs_and_continue_one_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    there, client, said = cluster(monkeypatch)
    first = there.send(COMMAND, TREE)
    assert first == f"{COMMAND.job}-1"
    assert there.send(COMMAND, TREE) == first
    assert (len(client.sent), said[-1]) == (1, f"{first}: runs already; following it")
    client.jobs[first].status = "FAILED"
    assert there.send(COMMAND, TREE) == f"{COMMAND.job}-2"
    other = Command(**{**vars(COMMAND), "options": ("--set", "data.shots=5")})
    assert there.send(other, TREE) == f"{other.job}-1" != first


def test_a_head_that_has_only_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there, client, _ = cluster(monkeypatch)
    submit, errors = client.submit_job, [RuntimeError("No available agent to submit job"), RuntimeError("no space")]

    def later(**given: Any) -> str:
        if len(errors) > 1:
            raise errors.pop(0)
        return submit(**given)

    monkeypatch.setattr(client, "submit_job", later)
    assert there.send(COMMAND, TREE) == f"{COMMAND.job}-1"

    def never(**given: Any) -> str:
        raise errors[0]

    client.jobs.clear()
    monkeypatch.setattr(client, "submit_job", never)
    with pytest.raises(InputError, match="did not take the request: no space"):
        there.send(COMMAND, TREE)


def test_what_is_sent_is_the_tree_and_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    there, client, said = cluster(monkeypatch)
    there.send(COMMAND, TREE)
    sent = client.sent[0]
    assert sent["files"] == ["cluster.yaml"]
    assert sent["entrypoint"] == "python -m ray_synth.cli run sweeps/digits.yaml --out s3://b/digits"
    assert set(sent["runtime_env"]["env_vars"]) == {jobs.SENT_FROM, "GOMP_SPINCOUNT"}
    assert "planted" not in json.dumps({key: value for key, value in sent.items() if key != "files"})
    assert "not sent, for what their names say: hf_token" in said[-1]


@pytest.mark.parametrize("allow", [[], ["credentials.yaml"]])
def test_a_dry_run_lists_what_would_travel_and_asks_no_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], allow: list[str]
) -> None:
    for name in ("digits.yaml", "credentials.yaml", "notes.txt", *(f"{i}.pem" for i in range(7))):
        (tmp_path / name).write_text("pass" + "word: 'correct-horse-7'" if name == "notes.txt" else name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "_connected", lambda address: pytest.fail("it asked a cluster"))
    command, reporter = Command(verb="run", experiment="digits.yaml", name="digits", out="s3://b/digits"), Told()
    assert jobs.submit(command, reporter, dry_run=True, allow=allow) == 0
    assert capsys.readouterr().out.splitlines() == sorted(["digits.yaml", *allow])
    held = [] if allow else ["credentials.yaml"]
    names = ", ".join([*(f"{i}.pem" for i in range(7)), *held])
    assert reporter.lines[:2] == [
        f"not sent, for what their names say: {names}; --allow FILE sends one all the same",
        "not sent, for what stands in them: notes.txt (Secret Keyword in line 1); --allow FILE sends one all the same",
    ]
    secret = Command(verb="run", experiment="notes.txt", name="digits", out="s3://b/digits")
    with pytest.raises(InputError, match=r"notes.txt is not sent: Secret Keyword in line 1; .*type --allow notes.txt"):
        jobs.submit(secret, reporter, dry_run=True)


@pytest.mark.parametrize(
    ("end", "code"),
    [(("SUCCEEDED", 0), 0), (("FAILED", 2), 2), (("FAILED", 1), 1), (("FAILED", None), 1), (("STOPPED", None), 1)],
)
def test_lines_are_shown_once_and_the_exit_code_is_the_runs(
    monkeypatch: pytest.MonkeyPatch, end: tuple[str, int | None], code: int
) -> None:
    looks = [
        ("PENDING", "", None),
        ("RUNNING", "one\ntw", None),
        ConnectionError("gone"),
        ("RUNNING", "one\ntwo\n", None),
    ]
    there, _, said = cluster(monkeypatch, *looks, (end[0], "one\ntwo\nthree", end[1]))
    assert there.follow("digits-x-1") == code
    assert said[:3] == ["one", "two", "three"]
    assert len(said) == 3 + (end[1] is None)


def test_a_head_that_was_started_again_knows_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    there, _, _ = cluster(monkeypatch, ("RUNNING", "", None), RuntimeError("Job digits-x-1 does not exist"))
    with pytest.raises(WorkError, match="its head was started again; what is finished lies in the run folder"):
        there.follow("digits-x-1")


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", -1.0)
    there, _, _ = cluster(monkeypatch, ConnectionError("gone"))
    with pytest.raises(WorkError, match="has been silent"):
        there.follow("digits-x-1")


def test_only_what_runs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    there, _, _ = cluster(monkeypatch)
    with pytest.raises(InputError, match="no job digits-x runs at"):
        there.stop("digits-x")


def test_results_that_cannot_be_read_here_come_through_a_jobs_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = RunFolder(tmp_path / "there")
    there.write("report.html", b"<html>")
    there.write("experiment.yaml", b"name: digits")
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(
        fs, "exists", lambda path: (_ for _ in ()).throw(PermissionError("AccessDenied")), raising=False
    )
    cluster_, client, said = cluster(monkeypatch, ("SUCCEEDED", packed(there), 0))
    cluster_.fetch("memory://bucket/run", tmp_path / "here")
    assert client.sent[0]["entrypoint"].endswith("results memory://bucket/run")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["report.html"]  # no run folder is made of it
    cluster_, client, said = cluster(monkeypatch, ("FAILED", "no disk", 1))
    cluster_.fetch("memory://bucket/run", tmp_path / "here")
    assert "the run is complete in memory://bucket/run; its report could not be brought here" in said[-1]


def test_nothing_is_fetched_over_a_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("name: digits")
    with pytest.raises(InputError, match="is a run folder of this machine"):
        jobs.submit(COMMAND, Told(), fetch=tmp_path)


def test_other_versions_are_all_named() -> None:
    check_versions(json.dumps(versions()))
    other = {**versions(), "ray": "2.9.0", "python": "3.9"}
    with pytest.raises(InputError, match=r"ray [\d.]+ here, 2\.9\.0 where.*; python [\d.]+ here, 3\.9 where"):
        check_versions(json.dumps(other))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"out": None}, "--out is missing.*s3://BUCKET/runs/digits"),
        ({"out": "s3://me:pass@host/b"}, "must not hold a password, got s3://...@host"),  # pragma: allowlist secret
        ({"out": "runs/digits"}, "must be a URL or an absolute path, got 'runs/digits'"),
        ({"overrides": ["data.shotz=5"]}, "did you mean data.shots"),
        ({"tree": ROOT / "ray_synth"}, "must lie in the folder that is sent"),
    ],
)
def test_wrong_words_need_no_cluster_to_be_found(words: dict[str, Any], said: str) -> None:
    given = {"out": "s3://b/x", "overrides": [], "seed": None, "verb": "run", "tree": ROOT, **words}
    with pytest.raises(InputError, match=said):
        command_of(ROOT / "sweeps" / "digits.yaml", **given)


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="needs ray[default]: pip install 'ray_synth[cluster]'")
    monkeypatch.setattr(jobs, "PORT_WITHIN", 0.0)
    with pytest.raises(InputError, match=r"no cluster answers at http://127.0.0.1:9; start one with ray up"):
        Cluster("http://127.0.0.1:9", Told())
