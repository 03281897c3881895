"""A folder in, the files that a job takes along out: what git knows or would, without runs, secrets and data."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_synth.cluster.secrets import is_secret, secret_within
from ray_synth.errors import InputError, did_you_mean

MAX_BYTES = 100 * 2**20  # a job's files go through the head node's memory
NOT_SENT = (".git", "runs", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "node_modules")


@dataclass(frozen=True, kw_only=True)
class WorkingTree:
    """What travels, by name, and what stays at home: `secrets` because of what their names say, `found` because of what
    stands in them (name -> what, and in which line), `odd` because they are links or no files."""

    root: Path
    files: tuple[str, ...]
    secrets: tuple[str, ...]
    num_bytes: int
    found: Mapping[str, str] = field(default_factory=dict)
    odd: tuple[str, ...] = ()

    def kept_back(self, most: int | None = 5) -> list[str]:
        """Sentences about what stays at home; `most` names of each kind."""
        within = [f"{name} ({what})" for name, what in self.found.items()]
        kinds = (
            ("for what their names say", self.secrets),
            ("for what stands in them", within),
            ("because they are links, or no files", self.odd),
        )
        return [f"not sent, {why}: {_some(names, most)}" for why, names in kinds if names]

    def copy_to(self, folder: Path) -> None:
        for name in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / name, target)


def _some(names: Sequence[str], most: int | None) -> str:
    more = len(names) - (most or len(names))
    return ", ".join(names[:most]) + (f" and {more} more (--dry-run names all)" if more > 0 else "")


def read_working_tree(root: Path, allow: Sequence[str] = ()) -> WorkingTree:
    """The files below `root` that a job needs. Those of `allow` go whatever their names or contents say.

    Links are left out: they may lead anywhere.

    Raises:
        InputError: more than MAX_BYTES in all; a name in `allow` that is not there to be sent.
    """
    names = sorted(_listed(root))
    allowed = {_allowed(name, root, names) for name in allow}
    files, secrets, odd, sizes = [], [], [], {}
    for name in names:
        path = root / name
        if path.is_symlink() or not path.is_file():
            odd += [name] if os.path.lexists(path) else []  # git knows what was deleted too
        elif name not in allowed and is_secret(name):
            secrets.append(name)
        else:
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
    found = {name: what for name in files if name not in allowed and (what := secret_within(root / name)) is not None}
    return WorkingTree(
        root=root,
        files=tuple(name for name in files if name not in found),
        secrets=tuple(secrets),
        num_bytes=total - sum(sizes[name] for name in found),
        found=found,
        odd=tuple(odd),
    )


def _allowed(name: str, root: Path, names: Sequence[str]) -> str:
    """A name of --allow as it is listed."""
    inside = Path(os.path.relpath(root / name, root)).as_posix()
    if inside not in names:
        raise InputError(
            f"--allow {name} is none of the files that go from {root}: it is not there, or git ignores it; "
            f"{did_you_mean(inside, names)}"
            if names
            else f"--allow {name}: {root} holds no files"
        )
    return inside


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
