"""A job for real: on one node with dashboard and token, sent, followed, found again, stopped, its head killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, TINY

pytest.importorskip("aiohttp", reason="needs ray[default]: pip install 'ray_synth[cluster]'")
pytestmark = pytest.mark.slow
PLANTED = "planted-4f1d9c"


class Served:
    """A cluster, and `ray-synth submit` towards it."""

    def __init__(self, folder: Path):
        self.token, self.tree = folder / "token", folder / "tree"
        self.token.write_text("0123456789abcdef" * 4)
        (self.tree / "sweeps").mkdir(parents=True)
        (self.tree / "sweeps" / "digits.yaml").write_text((ROOT / "sweeps" / "digits.yaml").read_text())
        (self.tree / ".env").write_text(f"TOKEN={PLANTED}\n")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "OMP_NUM_THREADS": "1",
        }
        self.start()

    def start(self, *port: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.served", *port], cwd=ROOT, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def die(self) -> None:
        """The machine is gone: its processes all at once, jobs' drivers among them."""
        head = psutil.Process(self.process.pid)
        for one in [head, *head.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()

    def command(self, out: Path, *words: str) -> list[str]:
        settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        return [
            sys.executable, "-m", "ray_synth.cli", "submit", "sweeps/digits.yaml", "--out", str(out),
            "--address", self.address, *settings, *words,
        ]  # fmt: skip

    def submit(self, out: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(out, *words),
            cwd=self.tree,
            env={**self.environment, "AWS_SECRET_ACCESS_KEY": PLANTED, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def asked(self, path: str, token: str | None) -> tuple[int, str]:
        request = urllib.request.Request(self.address + path)  # noqa: S310 - its own loopback
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    it = Served(tmp_path_factory.mktemp("served"))
    try:
        yield it
    finally:
        it.process.communicate("")


@pytest.mark.long
def test_a_job_whose_head_dies_continues_to_its_report_and_tells_no_secret(served: Served, tmp_path: Path) -> None:
    out, before = tmp_path / "run", tmp_path / "before"
    left = served.submit(out, "--detach")
    assert left.returncode == 0, left.stderr
    following = subprocess.Popen(
        served.command(out), cwd=served.tree, env=served.environment, stderr=subprocess.PIPE, text=True
    )
    ledger = out / "sweep" / "ledger.jsonl"
    deadline = time.monotonic() + 300
    while not (ledger.exists() and ledger.read_text().count('"ended"') >= 2) and time.monotonic() < deadline:
        assert following.poll() is None, following.communicate()[1]
        time.sleep(0.05)
    served.die()
    shutil.copytree(out, before)
    assert not (before / "summary.json").exists(), "over before the head died"
    served.start(served.address.rpartition(":")[2])
    _, said = following.communicate(timeout=200)
    assert following.returncode == 1, said
    assert "runs already; following it" in said
    assert "knows nothing of" in said
    assert "run folder" in said

    done = served.submit(out, "--fetch", str(tmp_path / "fetched"))
    assert done.returncode == 0, done.stderr
    assert "evaluate: reading the 480 test images, once" in done.stderr
    assert json.loads((out / "summary.json").read_text())["num_trials"] == 5
    for name in ("generator/diffusion_pytorch_model.safetensors", "estimate.json"):
        assert (out / name).read_bytes() == (before / name).read_bytes()
    chunks = {path.name: path.read_bytes() for path in before.glob("synthetic/*.parquet")}
    assert {path.name: path.read_bytes() for path in out.glob("synthetic/*.parquet")} == chunks
    assert ledger.read_text().startswith(whole_lines(before / "sweep" / "ledger.jsonl"))

    # The token opens what nothing else opens.
    assert served.asked("/api/jobs/", None)[0] == 401
    assert served.asked("/api/jobs/", "f" * 64)[0] in (401, 403)
    status, listed = served.asked("/api/jobs/", served.token.read_text())
    assert status == 200
    job = json.loads(listed)[0]["submission_id"]
    log = served.asked(f"/api/jobs/{job}/logs", served.token.read_text())[1]
    for text in (
        listed,
        log,
        left.stderr,
        said,
        done.stderr,
        *(p.read_text(errors="replace") for p in out.rglob("*") if p.is_file()),
    ):
        assert PLANTED not in text
        assert served.token.read_text() not in text
    wrong = served.submit(out, RAY_AUTH_TOKEN_PATH="", RAY_AUTH_TOKEN="f" * 64)
    assert (wrong.returncode, "wants another token" in wrong.stderr) == (2, True)
    again = served.submit(out, "--set", "data.shots=90")  # wrong input, found there: the run's own exit code
    assert again.returncode == 2, again.stderr


@pytest.mark.long
def test_a_job_that_was_stopped_goes_on(served: Served, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--verb", "generate", "--set", "generate.images_per_class=40", "--set", "generate.num_inference_steps=80"]
    assert served.submit(out, "--detach", *words).returncode == 0
    deadline = time.monotonic() + 300
    while not list(out.glob("synthetic/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.2)
    stopped = served.submit(out, "--stop", *words)
    assert stopped.returncode == 0, stopped.stderr
    before = {path.name: path.read_bytes() for path in out.glob("synthetic/*.parquet")}
    assert before
    assert served.submit(out, "--stop", *words).returncode == 2  # nothing runs
    done = served.submit(out, *words)
    assert done.returncode == 0, done.stderr
    after = {path.name: path.read_bytes() for path in out.glob("synthetic/*.parquet")}
    assert {name: after[name] for name in before} == before
    assert json.loads((out / "generation.json").read_text())["kept"] == 400


def test_versions_that_differ_end_the_job_before_it_begins(served: Served, tmp_path: Path) -> None:
    other = tmp_path / "ray_synth_of_another_version"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import ray_synth\nray_synth.__version__ = '9.9.9'\n")
    path = os.pathsep.join([str(other), served.environment["PYTHONPATH"]])
    done = served.submit(tmp_path / "run", PYTHONPATH=path)
    assert done.returncode == 2, done.stderr
    assert "ray_synth 0.1.0 here, 9.9.9 where the job was sent from" in done.stderr


def whole_lines(path: Path) -> str:
    text = path.read_text()
    return text[: text.rfind("\n") + 1]
