"""SIGTERM and SIGHUP in; out what Ctrl-C does: the work unwinds, one line, an exit code, and no process of ours stays.

Work that does not come to its end within GRACE, such as a long call into a library, is ended where it is: whatever a
run keeps appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import psutil

GRACE = 6.0  # seconds; batch systems and `docker stop` wait for ten or more
GONE_WITHIN = 2.0  # seconds for processes that were killed
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
LINE = "ray-synth: interrupted; run the same command again to continue"
CTRL_C = 130


class _State:
    """Of this process: which signal came, and what must not outlive it."""

    received: int | None = None
    raised = said = leaving = False
    taken: tuple[int, ...] = ()  # signals that are answered here
    terminal: int = 2  # standard error, whatever file descriptor 2 is meanwhile: Ray's start is silenced there
    folders: tuple[str, ...] = ()


_state = _State()


@contextlib.contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Around a command: a signal is answered as Ctrl-C is. One that was ignored before, as `nohup` does, stays so."""
    _state.taken = tuple(one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN)
    with contextlib.suppress(OSError):
        _state.terminal = os.dup(2)
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(heard,), daemon=True).start()
    retake()
    try:
        yield
    except BaseException:
        _state.leaving = True
        if _state.received is None:
            raise
    _state.leaving = True
    if _state.received is not None:
        _end(_state.received)


def retake() -> None:
    """Answer the signals here again: Ray, as it starts, takes SIGTERM for itself."""
    if threading.current_thread() is threading.main_thread():
        for one in _state.taken:
            signal.signal(one, _answer)


def came() -> bool:
    """Whether a signal did: what fails from then on fails because of it."""
    return _state.received is not None


def exit_code() -> int:
    return CTRL_C if _state.received is None else 128 + _state.received


def say() -> None:
    """The one line. The terminal may be gone."""
    if not _state.said:
        _state.said = came()  # Ctrl-C is said as often as it comes
        with contextlib.suppress(OSError, ValueError):
            print(LINE, file=sys.stderr, flush=True)


@contextlib.contextmanager
def removed_in_the_end(folder: str) -> Iterator[None]:
    """A folder that must not outlive what is done in it."""
    _state.folders += (folder,)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _state.folders = tuple(one for one in _state.folders if one != folder)


def descendants(besides: Iterable[psutil.Process] = ()) -> list[psutil.Process]:
    """Processes that this one started, and theirs; not `besides`, and what those started."""
    import psutil

    found: list[psutil.Process] = []
    left_out = set(besides)
    for child in psutil.Process().children():
        if child not in left_out:
            with contextlib.suppress(psutil.Error):
                found += [*child.children(recursive=True), child]
    return found


def end_all(processes: Iterable[psutil.Process]) -> None:
    """Kill those that are still there, and wait until they are gone."""
    import psutil

    left = [process for process in processes if process.is_running()]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=GONE_WITHIN)


def _answer(number: int, frame: FrameType | None) -> None:
    _state.received = _state.received or number
    if _state.leaving:
        _end(number)
    if not _state.raised:  # once: a second signal must not interrupt what the first one began
        _state.raised = True
        raise KeyboardInterrupt


def _watch(heard: int) -> None:
    """In a thread: hear of signals, whatever the main thread does with them and whoever took them."""
    while True:
        found = [number for number in os.read(heard, 64) if number in _state.taken]
        if found:
            _state.received = _state.received or found[0]
            family = descendants()
            time.sleep(GRACE)
            _end(_state.received, family)


def _end(number: int, family: Iterable[psutil.Process] = ()) -> NoReturn:
    """Leave at once, and nothing behind."""
    if not _state.said:
        _state.said = True
        with contextlib.suppress(OSError):  # past sys.stderr, which a bar may hold: what it writes then is for nobody
            os.write(_state.terminal, f"{LINE}\n".encode())
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(Exception):
        end_all([*family, *descendants()])
    for folder in _state.folders:
        shutil.rmtree(folder, ignore_errors=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(128 + number)
