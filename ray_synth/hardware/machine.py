"""What a container, a batch system or `taskset` lets this process use, in; bytes of memory, CPUs and a place out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self")
SHORT = 3 * 2**30  # bytes
BATCH_CPUS = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")  # what Slurm gave, where it does not bind as well


def machine_memory(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """Bytes that this process may still take: of the machine, or of the least of its limits. Where the system does not
    say (Windows), more than anybody needs.

    What other processes hold does not count: they may give it back.
    """
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
    limits += [int(text) for text in _limits("memory", "memory.max", "memory.limit_in_bytes", cgroups, own)]
    return max(0, min(*limits, _address_space()) - _held(own))


def short_of_memory() -> bool:
    """Whether there is less than Ray, Ray Data and Ray Train take beside the work itself."""
    return machine_memory() < SHORT


def usable_cpus(cgroups: Path = CGROUPS, own: Path = OWN, environment: Mapping[str, str] = os.environ) -> int:
    """CPUs that this process may use: bound to (taskset, a cpuset), paid for (a container's share of time), or given by
    a batch system. At least 1."""
    try:
        counts = [float(len(os.sched_getaffinity(0)))]
    except AttributeError:  # not on this system
        counts = [float(os.cpu_count() or 1)]
    for text in _limits("cpu", "cpu.max", "cpu.cfs_quota_us", cgroups, own):
        quota, period = (float(part) for part in text.split())
        counts += [quota / period] if quota > 0 < period else []
    counts += [float(environment[name]) for name in BATCH_CPUS if environment.get(name, "").isdigit()]
    return max(1, int(min(counts)))


def cache_folder() -> Path:
    """Where this user keeps what can be made again. Without a home folder a place that cannot be made."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return folder if folder.is_absolute() else Path(os.devnull, "no-home")


def _limits(controller: str, name: str, name_v1: str, cgroups: Path, own: Path) -> Iterator[str]:
    """What a controller's file says in this process's group and in those above it, unlimited ones left out. Of CPUs
    the quota and the period."""
    for base, group in _groups(controller, cgroups, own):
        folder = base / group
        for each in (folder, *folder.parents):
            if not each.is_relative_to(base):
                break
            text = _read(each / name)  # v2
            if not text and (text := _read(each / name_v1)) and controller == "cpu":
                text = f"{text} {_read(each / 'cpu.cfs_period_us')}"
            if text and text.split()[0] != "max":
                yield text


def _groups(controller: str, cgroups: Path, own: Path) -> Iterator[tuple[Path, str]]:
    """Where a controller's files lie, and this process's group below: v1 has a folder for each controller, v2 one for
    all, `unified` beside those. In a container the group may be named as its host knows it, and lie at the top."""
    for line in _read(own / "cgroup").splitlines():
        number, controllers, group = line.split(":", 2)
        if number == "0":
            for base in (cgroups, cgroups / "unified"):
                yield base, group.strip("/")
        elif controller in controllers.split(","):
            for base in (cgroups / controller, cgroups / controllers):
                yield base, group.strip("/")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _address_space() -> int:
    """Of `ulimit -v`."""
    try:
        import resource
    except ImportError:  # not on this system
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _held(own: Path) -> int:
    """What this process holds already."""
    fields = _read(own / "statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0
