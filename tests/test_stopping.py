"""SIGTERM and SIGHUP at any moment: an exit code, one line, nothing of ours left, and a next start that completes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ray_synth.stopping import GRACE, LINE
from tests.conftest import DIGITS, TINY

MARK = "RAY_SYNTH_TEST_OF_STOPPING"  # in the environment of all that a run starts
SMALL = {**TINY, "generator.steps": 40, "generate.images_per_class": 4, "sweep.num_trials": 3, "classifier.updates": 8}
SMALL |= {"estimate.max_ratio": 1}


def words(out: Path) -> list[str]:
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "ray_synth.cli", "run", str(DIGITS), "--out", str(out), *settings]


def environment(place: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**clean, MARK: str(place), "RAY_TMPDIR": str(place)}


def heard() -> None:
    """Signals that whoever started the tests ignores, as nohup does, are not ignored by what they start."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def ours(place: Path) -> list[str]:
    """Processes that a run started, however far they are from it now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(place):
                found.append(" ".join(process.cmdline())[:100])
        except psutil.Error:
            continue
    return found


def catches(process: subprocess.Popen[str], number: int) -> bool:
    """Whether it has a handler: until the interpreter is up, which takes its time on a busy machine, nothing has."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def stopped(command: list[str], place: Path, number: int, after: float, *, ready: str = "") -> bool:
    """Start, send a signal some seconds after it hears any (or says `ready`), and look at what is left. False where it
    was over before."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(place),
        preexec_fn=heard,
    ) as process:
        try:
            assert process.stdout is not None
            if ready:
                assert process.stdout.readline().strip() == ready
            while not catches(process, number) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(after)
            process.send_signal(number)
            _, errors = process.communicate(timeout=GRACE + 20)
        finally:
            process.kill()  # else leaving waits for one that does not hear
    # A command that is over dies of the signal while the interpreter goes away: to a shell the same code.
    if process.returncode == 0 or (process.returncode == -number and "is complete in" in errors):
        return False
    assert process.returncode == 128 + number, errors
    assert errors.count(LINE) == 1
    assert errors.rstrip().splitlines()[-1] == LINE, errors
    assert "Traceback" not in errors
    end = time.monotonic() + 3
    while time.monotonic() < end and ours(place):
        time.sleep(0.1)
    assert ours(place) == []
    assert list(place.iterdir()) == []
    return True


@pytest.fixture
def place() -> object:
    """For Ray's sockets."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


HELD = """
import sys, time
from ray_synth import stopping
{before}
def work():
    print("ready", flush=True)
    {work}
with stopping.as_ctrl_c():
    try:
        work()
    except KeyboardInterrupt:
        stopping.say()
        {after}
        sys.exit(stopping.exit_code())
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    ("work", "after"),
    [
        ("time.sleep(60)", ""),
        ("import subprocess; subprocess.Popen(['sleep', '60']); time.sleep(60)", "time.sleep(60)"),  # does not end
        ("while True:\n        try: time.sleep(60)\n        except KeyboardInterrupt: pass", ""),  # swallows it
        (
            "__import__('ctypes').PyDLL(None).usleep(500_000); __import__('ctypes').CDLL(None).sleep(60)",
            "",
        ),  # does not hear
    ],
)
def test_it_ends_with_one_line_whatever_the_work_does(place: Path, name: str, work: str, after: str) -> None:
    before = "stopping.GRACE = 0.3; import tempfile, os; folder = stopping.removed_in_the_end(tempfile.mkdtemp(dir="
    before += "os.environ['RAY_TMPDIR'])); folder.__enter__()" if "subprocess" in work else ""
    script = HELD.format(before=before if "subprocess" in work else "stopping.GRACE = 0.3", work=work, after=after)
    assert stopped([sys.executable, "-c", script], place, getattr(signal, name), 0.1, ready="ready")


def test_a_hangup_that_nohup_had_ignored_is_ignored(place: Path) -> None:
    script = HELD.format(before="", work="time.sleep(0.5); print('done')", after="")
    with subprocess.Popen(
        ["nohup", sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert (process.communicate(timeout=20)[0], process.returncode) == ("done\n", 0)


def test_as_it_starts_there_is_no_other_line(place: Path, tmp_path: Path) -> None:
    """Before any verb has begun, while it imports what it needs."""
    for after in (0.0, 0.3, 1.2):
        stopped(words(tmp_path / "run"), place, signal.SIGTERM, after)


def rounds(place: Path, out: Path, moments: list[float]) -> None:
    for i, moment in enumerate(moments):
        stopped(words(out), place, signal.SIGHUP if i % 5 == 4 else signal.SIGTERM, moment)
    done = subprocess.run(words(out), capture_output=True, text=True, env=environment(place), check=False)
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
    assert (ours(place), list(place.iterdir())) == ([], [])
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_stopped_in_its_midst_it_completes(place: Path, tmp_path: Path) -> None:
    rounds(place, tmp_path / "run", [9.0])


@pytest.mark.slow
@pytest.mark.long
def test_stopped_at_twenty_random_moments_it_completes(place: Path, tmp_path: Path) -> None:
    chosen = random.Random(19)
    rounds(place, tmp_path / "run", [chosen.uniform(0.3, 30.0) for _ in range(20)])
