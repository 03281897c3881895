"""A Ray that a run starts for itself: who can reach it, what it needs of a machine, and what stays of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from ray_synth import runtime
from ray_synth.errors import InputError

INSIDE = """
import json, os, stat, subprocess, sys, tempfile, time
import psutil, ray
from ray_synth.runtime import ray_session

with ray_session():
    @ray.remote
    class Actor:
        def address(self):
            return os.getpid()

    actor = Actor.remote()
    ray.get(actor.address.remote())
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    heard = {c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == "LISTEN"}
    gcs = ray.get_runtime_context().gcs_address
    token = os.environ.get("RAY_AUTH_TOKEN_PATH", os.path.expanduser("~/.ray/auth_token"))
    mode = stat.S_IMODE(os.stat(token).st_mode)
    words = "from ray._raylet import GcsClient; print(len(GcsClient(address=%r).get_all_node_info(timeout=9)))" % gcs
    shown = open(token).read()
    home = tempfile.mkdtemp()
    knocking = []
    for key in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": shown}, {"RAY_AUTH_MODE": "disabled"},
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        theirs = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | key | {"HOME": home}
        words_of = [sys.executable, "-c", words]
        knocking.append(subprocess.Popen(words_of, env=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    strangers = [knocking[0].communicate(timeout=60)[0].decode()]
    time.sleep(3)  # Ray may try for minutes, and is let in at once or never
    for one in knocking[1:]:
        one.kill()
        strangers.append(one.communicate()[0].decode())
    folder = os.path.dirname(os.path.dirname(ray._private.worker._global_node.get_session_dir_path()))
    print(json.dumps({
        "heard": sorted(heard), "mode": mode, "strangers": strangers, "cpus": ray.cluster_resources()["CPU"],
        "folder": folder, "private": stat.S_IMODE(os.stat(folder).st_mode), "token": token,
        "family": [p.pid for p in family[1:] if p.is_running()],
    }))
print(json.dumps({"left": [p.pid for p in psutil.Process().children(recursive=True)]}))
"""


def session(**environment: str) -> tuple[dict[str, object], dict[str, object]]:
    """What a Ray of our own says of itself while it is up, and after."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", INSIDE]
    done = subprocess.run(words, capture_output=True, text=True, env={**clean, **environment}, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    during, after = (json.loads(line) for line in done.stdout.splitlines())
    return during, after


@pytest.mark.slow
def test_it_listens_on_loopback_asks_for_a_token_and_leaves_nothing(tmp_path: Path) -> None:
    during, after = session(HOME=str(tmp_path), TMPDIR=tempfile.gettempdir())
    assert {ip.removeprefix("::ffff:") for ip in during["heard"]} == {"127.0.0.1"}  # type: ignore[attr-defined]
    assert during["strangers"] == ["1\n", "", ""]  # with the token, without one, with another
    assert (during["mode"], during["private"]) == (0o600, 0o700)
    assert during["token"] == str(tmp_path / ".ray" / "auth_token")
    assert not Path(str(during["folder"])).exists()
    assert after == {"left": []}
    assert not [pid for pid in during["family"] if psutil.pid_exists(pid)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("home", ["missing", "a file", "read-only", "unset"])
def test_a_token_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    place, private = tmp_path / "home", tmp_path / "private"
    private.mkdir()
    monkeypatch.setenv("HOME", str(place / "below"))
    if home == "a file":
        place.write_text("")
    elif home == "read-only":
        place.mkdir()

        def refuse(path: object, *_: object, **__: object) -> int:
            raise OSError(30, "Read-only file system", path)

        monkeypatch.setattr(Path, "mkdir", refuse)
    elif home == "unset":
        monkeypatch.delenv("HOME")
    elif home == "missing":
        place.mkdir(mode=0o500)
        if os.access(place, os.W_OK):  # root writes everywhere
            monkeypatch.setenv("HOME", "/proc/nobody")
    with runtime._token(private):
        file = private / "auth_token"
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(file)
        assert (stat.S_IMODE(file.stat().st_mode), len(file.read_text())) == (0o600, 64)
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_a_token_at_home_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    with runtime._token(tmp_path):
        assert (stat.S_IMODE(file.stat().st_mode), [one.name for one in file.parent.iterdir()]) == (0o600, [file.name])
    before = file.read_text()
    file.chmod(0o644)  # as Ray writes it
    with runtime._token(tmp_path):
        assert (stat.S_IMODE(file.stat().st_mode), file.read_text()) == (0o600, before)
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


@pytest.mark.parametrize("length", [10, 29, 30, 60, 200])
def test_a_long_folder_for_temporary_files_is_not_taken_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as short:
        place = Path(short + "/" + "x" * max(1, length - len(short) - 1))
        place.mkdir()
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        folder = runtime._folder_for_sockets()
        os.rmdir(folder)
        assert len(folder + runtime.SOCKET) <= 107
        assert (os.path.dirname(folder) == str(place)) == (len(str(place)) <= 29)
        monkeypatch.setenv("RAY_TMPDIR", str(place / ("y" * 80)))
        with pytest.raises(InputError, match=r"needs a folder for its sockets .* type export RAY_TMPDIR=DIR"):
            runtime._folder_for_sockets()


def test_where_nothing_can_be_written_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**words: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(InputError, match=r"at most 29 bytes, and none of .*, /dev/shm is one; type export TMPDIR=DIR"):
        runtime._folder_for_sockets()


@pytest.mark.slow
def test_it_starts_without_a_home_in_a_long_place_on_one_cpu(tmp_path: Path) -> None:
    place = tmp_path / ("long" * 40)
    place.mkdir()
    words = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    (tmp_path / "sitecustomize.py").write_text(words)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    during, after = session(HOME="/proc/nobody", TMPDIR=str(place), PYTHONPATH=path)
    assert (during["cpus"], during["mode"], during["private"], after) == (1.0, 0o600, 0o700, {"left": []})
    assert during["token"] == f"{during['folder']}/auth_token"
