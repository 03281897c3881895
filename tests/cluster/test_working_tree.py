"""What travels with a job: the files that git would take, and nothing that opens a door."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ray_synth.cluster import working_tree
from ray_synth.cluster.working_tree import is_secret, read_working_tree
from ray_synth.errors import InputError
from tests.conftest import ROOT

SECRETS = [".env", ".env.production", "keys/server.pem", "id_ed25519", "id_rsa.pub", ".aws/credentials", "hf_token",
           "my-secret.yaml", "gcp/service-account-7.json", ".ssh/config", ".ray/auth_token", "kubeconfig"]  # fmt: skip
PLAIN = [
    "sweeps/digits.yaml",
    "ray_synth/cli.py",
    "tests/test_tokens.py",
    "environment.yaml",
    "keys.md",
    "data/list.csv",
    "model/tokenizer_config.json",
    "model/special_tokens_map.json",
]


def plant(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


@pytest.mark.parametrize("git", [True, False])
def test_secrets_runs_and_what_git_ignores_stay_at_home(tmp_path: Path, git: bool) -> None:
    plant(tmp_path, [*SECRETS, *PLAIN, "runs/digits/summary.json", "venv/pyvenv.cfg", "venv/lib/big.bin"])
    if git:
        (tmp_path / ".gitignore").write_text("venv/\nignored.bin\n")
        plant(tmp_path, ["ignored.bin"])
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    os.symlink("/etc/hostname", tmp_path / "link")
    tree = read_working_tree(tmp_path)
    assert set(tree.files) == {*PLAIN, *([".gitignore"] if git else [])}
    assert set(tree.secrets) <= set(SECRETS)
    tree.copy_to(tmp_path / "there")
    there = {
        path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("*") if path.is_file()
    }
    assert there == set(tree.files)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret(name)


def test_this_package_travels_whole() -> None:
    tree = read_working_tree(ROOT)
    assert not tree.secrets
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ray_synth").rglob("*.py")}
    assert modules <= set(tree.files)
    assert {"cluster.yaml", "pyproject.toml", "sweeps/digits.yaml"} <= set(tree.files)


def test_data_does_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_tree, "MAX_BYTES", 2**20)
    plant(tmp_path, PLAIN)
    (tmp_path / "photos.npz").write_bytes(bytes(3 * 2**20))
    with pytest.raises(InputError, match=r"holds 3 MB to send, at most 1 MB .*photos.npz \(3 MB\).*bucket"):
        read_working_tree(tmp_path)
