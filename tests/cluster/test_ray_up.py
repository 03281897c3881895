"""cluster.yaml's local form for real: `ray up` over two hosts, a job sent through `ray dashboard`, `ray down`.

The hosts are namespaces of this machine (hosts.sh). Their environment is this one in place of what setup_commands
would install; all the rest is the file's own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ray_synth.config.yaml import as_yaml
from tests.cluster.test_cluster_yaml import LOCAL
from tests.conftest import ROOT, TINY

pytest.importorskip("aiohttp", reason="needs ray[default]: pip install 'ray_synth[cluster]'")
NEEDED = ("ip", "dropbear", "dropbearkey", "ssh", "ssh-keygen", "rsync")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0 or bool(MISSING), reason=f"needs root and {', '.join(MISSING)}"),
]
ENVIRONMENT = Path(sys.executable).parent.parent


class Hosts:
    """Two hosts, the cluster file for them, and a home folder of whoever types the commands."""

    def __init__(self, folder: Path):
        self.folder, self.home = folder, folder / "home"
        self.script = ROOT / "tests" / "cluster" / "hosts.sh"
        (self.home / ".ray").mkdir(parents=True)
        (self.home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
        self.file = folder / "cluster.yaml"
        subprocess.run([self.script, "down", folder], check=True)
        subprocess.run([self.script, "up", folder, "2", ENVIRONMENT], check=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_A")},
            "HOME": str(self.home),
            "PATH": f"{ENVIRONMENT}/bin:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "OMP_NUM_THREADS": "1",
        }
        self.file.write_text(as_yaml(self.config()))

    def config(self) -> dict[str, object]:
        text = LOCAL.replace("10.0.0.1", "10.77.0.11").replace("10.0.0.2", "10.77.0.12")
        small = "--num-cpus=1 --object-store-memory=200000000"
        config = YAML(typ="safe").load(
            text.replace("ray start", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')} ray start")
        )
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            config[key] = [f"{command} {small}" for command in config[key]]
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.folder / "key")}
        return {**config, "setup_commands": []}

    def ray(self, *words: str) -> str:
        done = subprocess.run(
            ["ray", *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, out: str, port: int, *words: str) -> subprocess.CompletedProcess[str]:
        settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        command = ["ray-synth", "submit", "sweeps/digits.yaml", "--out", out, "--address", f"http://127.0.0.1:{port}"]
        return subprocess.run(
            [*command, *settings, *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )

    def down(self) -> None:
        subprocess.run([self.script, "down", self.folder], check=False)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    them = Hosts(tmp_path)
    try:
        yield them
    finally:
        them.down()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_up_submit_down(hosts: Hosts, tmp_path: Path) -> None:
    hosts.ray("up", "-y", "--no-config-cache", str(hosts.file))
    deadline = time.monotonic() + 240
    while "2 node" not in (status := hosts.ray("exec", str(hosts.file), NODES)) and time.monotonic() < deadline:
        time.sleep(2)
    assert "2 node" in status
    port = free_port()
    forward = subprocess.Popen(
        ["ray", "dashboard", "--port", str(port), str(hosts.file)],
        cwd=ROOT, env=hosts.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(port)
        lonely = hosts.submit(str(tmp_path / "own" / "run"), port)  # where each host has a disk of its own
        assert lonely.returncode == 2, lonely.stderr
        assert "does not see it" in lonely.stderr or "own disk" in lonely.stderr
        done = hosts.submit(str(tmp_path / "run"), port)
        assert done.returncode == 0, done.stderr
    finally:
        forward.terminate()
        forward.wait()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["num_trials"], summary["num_generated"]) == (5, 80)
    hosts.ray("down", "-y", str(hosts.file))
    assert not (tmp_path / "run" / "generator" / "checkpoint").exists()


NODES = (
    "PATH=~/venv/bin:$PATH RAY_AUTH_MODE=token python -c \"import ray; ray.init(address='auto', log_to_driver=False); "
    "print(len([n for n in ray.nodes() if n['Alive']]), 'node')\""
)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("ray dashboard brought no port")
