"""A folder in, the files that a job takes along out: what git knows or would, without runs, secrets and data."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_synth.errors import InputError

MAX_BYTES = 100 * 2**20  # a job's files go through the head node's memory
# By name, wherever they lie: what opens something does not travel.
SECRETS = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "id_rsa*", "id_ed25519*", "id_ecdsa*",
    "credentials", "credentials.*", "*_credentials*", "*.credentials", "*token*", "*secret*", ".netrc", ".pgpass",
    ".npmrc", ".pypirc", ".htpasswd", "kubeconfig", "service-account*.json",
)  # fmt: skip
SECRET_FOLDERS = (".aws", ".ssh", ".azure", ".gcloud", ".kube", ".docker", ".gnupg", ".ray")
NOT_SENT = (".git", "runs", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "node_modules")
SOURCE = (".py", ".pyi")  # a module may be about tokens
TOKENIZERS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json")  # of a model


@dataclass(frozen=True, kw_only=True)
class WorkingTree:
    """What travels, by name, and what was left at home because of what its name says."""

    root: Path
    files: tuple[str, ...]
    secrets: tuple[str, ...]
    num_bytes: int

    def copy_to(self, folder: Path) -> None:
        for name in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / name, target)


def read_working_tree(root: Path) -> WorkingTree:
    """The files below `root` that a job needs.

    Links are left out: they may lead anywhere.

    Raises:
        InputError: more than MAX_BYTES in all.
    """
    files, secrets, sizes = [], [], {}
    for name in sorted(_listed(root)):
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue
        if is_secret(name):
            secrets.append(name)
            continue
        files.append(name)
        sizes[name] = path.stat().st_size
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        shown = ", ".join(f"{name} ({sizes[name] / 2**20:.0f} MB)" for name in largest)
        raise InputError(
            f"{root} holds {total / 2**20:.0f} MB to send, at most {MAX_BYTES / 2**20:.0f} MB go with a job; the "
            f"largest: {shown}; put data on a disk that the cluster shares or in a bucket, and name it in .gitignore"
        )
    return WorkingTree(root=root, files=tuple(files), secrets=tuple(secrets), num_bytes=total)


def is_secret(name: str) -> bool:
    """Whether a file's name says that it opens something."""
    *folders, base = name.lower().split("/")
    if any(folder in SECRET_FOLDERS for folder in folders):
        return True
    if base.endswith(SOURCE) or any(fnmatch.fnmatch(base, pattern) for pattern in TOKENIZERS):
        return False
    return any(fnmatch.fnmatch(base, pattern) for pattern in SECRETS)


def _listed(root: Path) -> Iterator[str]:
    """Names below root: those that git has or would take, else all but hidden folders and environments."""
    names = _known_to_git(root)
    if names is None:
        names = list(_walked(root))
    return (name for name in names if not any(part in NOT_SENT for part in name.split("/")))


def _known_to_git(root: Path) -> Sequence[str] | None:
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return [name for name in os.fsdecode(done.stdout).split("\0") if name]


def _walked(root: Path) -> Iterator[str]:
    for folder, below, files in os.walk(root):
        below[:] = [
            name for name in below if not name.startswith(".") and not (Path(folder, name) / "pyvenv.cfg").exists()
        ]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in files)
