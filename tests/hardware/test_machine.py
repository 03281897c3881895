"""What limits of a container, of a batch system and of `taskset` leave to this process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_synth.data.decoding import room_for
from ray_synth.errors import InputError
from ray_synth.features.cache import features_folder
from ray_synth.hardware import machine
from ray_synth.hardware.machine import machine_memory, usable_cpus
from ray_synth.kept import keep
from ray_synth.smoke import _make, models_folder

MB = 2**20
PAGES = os.sysconf("SC_PAGE_SIZE")
UNLIMITED_V1 = 2**63 - PAGES
GROUPS = {  # a form of cgroups: what /proc/self/cgroup says, where limits lie, the group itself and one above it
    "v2 in a container": ("0::/", "", ""),
    "v2 on a host": ("0::/system.slice/job.scope/step", "system.slice/job.scope/step", "system.slice"),
    "v2 beside v1": ("4:cpuset:/\n0::/job", "unified/job", "unified"),
    "v1 on a host": ("7:memory:/slurm/job\n3:cpu,cpuacct:/slurm/job", "{}/slurm/job", "{}/slurm"),
    "v1 in a container that does not see its name": ("7:memory:/docker/ab12\n3:cpu,cpuacct:/docker/ab12", "{}", "{}"),
}


def system(root: Path, form: str, files: dict[str, str], *, above: bool = False) -> dict[str, Path]:
    """A system of cgroups, with files in this process's group or in one above it."""
    said, here, higher = GROUPS[form]
    v1 = "{}" in here
    for name, text in files.items():
        controller = "memory" if name.startswith("memory") else "cpu,cpuacct"
        folder = root / "cgroup" / (higher if above else here).format(controller if v1 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    (root / "self").mkdir()
    (root / "self" / "cgroup").write_text(said + "\n")
    (root / "self" / "statm").write_text(f"9000 {100 * MB // PAGES} 10 1 0 500 0\n")
    return {"cgroups": root / "cgroup", "own": root / "self"}


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("form", GROUPS)
def test_a_containers_memory_counts_less_what_is_held(tmp_path: Path, form: str, above: bool) -> None:
    name, none = ("memory.limit_in_bytes", str(UNLIMITED_V1)) if "v1 " in form else ("memory.max", "max")
    there = system(tmp_path / "limited", form, {name: str(700 * MB)}, above=above)
    assert machine_memory(**there) == 600 * MB
    free = system(tmp_path / "free", form, {name: none}, above=above)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine_memory(**free) == physical - 100 * MB


def test_images_that_a_container_cannot_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = system(tmp_path, "v2 in a container", {"memory.max": str(700 * MB)})
    monkeypatch.setattr(machine_memory, "__defaults__", (there["cgroups"], there["own"]))
    images = 1.2 * 2**30 / (256 * 256 * 3)
    with pytest.raises(InputError, match=r"take 1\.2 GiB, this machine has 0\.6 GiB of memory for this process; give"):
        room_for(int(images), (256, 256, 3))
    room_for(int(images / 3), (256, 256, 3))


@pytest.mark.parametrize("form", GROUPS)
@given(quota=st.integers(1, 12_800_000), period=st.integers(1000, 1_000_000))
def test_a_share_of_time_is_so_many_whole_cpus(
    tmp_path_factory: pytest.TempPathFactory, form: str, quota: int, period: int
) -> None:
    v1 = {"cpu.cfs_quota_us": str(quota), "cpu.cfs_period_us": str(period)}
    files = v1 if "v1 " in form else {"cpu.max": f"{quota} {period}"}
    there = system(tmp_path_factory.mktemp("cgroup"), form, files)
    bound = len(os.sched_getaffinity(0))
    assert usable_cpus(**there, environment={}) == max(1, min(bound, quota // period))


def test_cpus_without_a_limit_are_those_that_it_is_bound_to(tmp_path: Path) -> None:
    v1 = system(tmp_path / "1", "v1 on a host", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    v2 = system(tmp_path / "2", "v2 on a host", {"cpu.max": "max 100000"})
    bound = len(os.sched_getaffinity(0))
    assert usable_cpus(**v1, environment={}) == usable_cpus(**v2, environment={}) == bound
    assert usable_cpus(**v2, environment={"SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": "64"}) == 1
    assert usable_cpus(**v2, environment={"SLURM_CPUS_ON_NODE": "4(x2)"}) == bound
    words = "import os; from ray_synth.hardware.machine import usable_cpus; os.sched_setaffinity(0, [min("
    words += "os.sched_getaffinity(0))]); print(usable_cpus())"
    assert subprocess.check_output([sys.executable, "-c", words], text=True) == "1\n"


def test_a_limit_of_a_shell_counts() -> None:
    words = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({900 * MB},) * 2)\n"
    words += "from ray_synth.hardware.machine import machine_memory; print(machine_memory())"
    assert 0 < int(subprocess.check_output([sys.executable, "-c", words], text=True)) < 900 * MB


def test_a_system_that_says_nothing_has_its_machine(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, tmp_path, {}) == len(os.sched_getaffinity(0))
    assert machine_memory(tmp_path, tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_nobody_counts_cpus_or_memory_in_another_way() -> None:
    """os.cpu_count is the host's; so are pages of memory."""
    package = Path(machine.__file__).parent.parent
    found = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"cpu_count\(|SC_PHYS_PAGES", path.read_text(encoding="utf-8"))
    ]
    assert found == ["machine.py"]


@pytest.mark.parametrize("home", ["/proc/nobody", None])
def test_without_a_home_folder_nothing_is_kept_and_nothing_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # a container's user whom no list of users names
    if home is not None:
        monkeypatch.setenv("HOME", home)
    keep(features_folder() / "features-1.safetensors", {"features": np.ones((2, 2), np.float32)})
    with pytest.raises(InputError, match=r"cannot be written: .*; type XDG_CACHE_HOME=DIR before the command"):
        _make(models_folder(), "tiny", lambda folder: None)
    assert not list(tmp_path.iterdir())
