"""Ray for as long as it is needed: joins the cluster of RAY_ADDRESS, or starts one here."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ray_synth import stopping
from ray_synth.errors import InputError
from ray_synth.hardware.machine import usable_cpus

OBJECT_STORE_BYTES = 512 * 2**20
LISTENS_WITHIN = 10.0  # seconds
SOCKET_PATH = 107  # bytes that the system takes for a socket's path
OPEN = "r"  # Ray lets everybody write to its folder, so that lies in one that they do not enter
SOCKET = f"/{OPEN}/session_2026-11-27_15-04-13_563472_4194304/sockets/plasma_store"  # the longest that Ray adds


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray, quiet; one that is started here is on loopback. A session that is up already is used and left up.

    Raises:
        InputError: nobody answers at RAY_ADDRESS, or the token is another one.
    """
    # Read by Ray when it is first imported or started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is ours to answer
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as until_the_end:
        if address:
            _check_listens(address)
            with _native_stderr_closed():
                use_token()
                until_the_end.callback(ray.shutdown)
                try:
                    ray.init(logging_level=logging.ERROR, log_to_driver=False)
                except (ConnectionError, RuntimeError) as error:
                    raise InputError(f"RAY_ADDRESS={address}: {_why_not_joined(error)}") from error
        else:
            until_the_end.enter_context(_alone())
        _quiet()
        yield


@contextmanager
def _alone() -> Iterator[None]:
    """A Ray of this process alone: on loopback, in a folder of its own, and gone with all its processes in the end."""
    import ray

    before = psutil.Process().children()
    folder = _folder_for_sockets()
    with stopping.removed_in_the_end(folder), _token(Path(folder)):
        try:
            with _native_stderr_closed(), _on_loopback():
                ray.init(
                    address="local",  # not whatever cluster was started on this machine last
                    num_cpus=usable_cpus(),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    _temp_dir=f"{folder}/{OPEN}",
                )
            stopping.retake()
            yield
        finally:
            ours = stopping.descendants(besides=before)  # before their parents are gone
            try:
                ray.shutdown()
            finally:
                stopping.end_all([*ours, *stopping.descendants(besides=before)])


def _folder_for_sockets() -> str:
    """A new folder that only this user enters, with a path short enough for Ray's sockets.

    Raises:
        InputError: there is no such place. Names the variable that says where to look.
    """
    named = os.environ.get("RAY_TMPDIR")
    places = [named] if named else [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]  # noqa: S108 - mkdtemp's
    for place in places:
        if len(os.fsencode(f"{os.path.abspath(place)}/rs-12345678{SOCKET}")) <= SOCKET_PATH:
            with contextlib.suppress(OSError):
                return tempfile.mkdtemp(prefix="rs-", dir=os.path.abspath(place))
    variable = "RAY_TMPDIR" if named else "TMPDIR"
    raise InputError(
        f"Ray needs a folder for its sockets that can be written and whose path has at most "
        f"{SOCKET_PATH - len(SOCKET) - len('/rs-12345678')} bytes, and none of {', '.join(places)} is one; type "
        f"export {variable}=DIR with such a folder"
    )


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray's processes listen on 127.0.0.1 alone, as they do where Ray has no clusters (a Mac): `_node_ip_address` would
    be made this machine's outer address. Between two workers of a training, torch's own meeting point still listens on
    all interfaces while they train."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _token(private: Path) -> Iterator[None]:
    """What a stranger must show, in a file that only this user reads: the one that there is, else a new one, in the
    home folder as Ray would, or in `private` where there is no home to write to."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled

    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or _token_at_home():
        yield
        return
    file = private / "auth_token"
    _write_token(file)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
        AuthenticationTokenLoader.instance().reset_cache()


def _token_at_home() -> bool:
    """Whether there is one now, with mode 0600."""
    home = os.environ.get("HOME")  # where Ray's core looks
    if not home:
        return False
    file = Path(home) / ".ray" / "auth_token"
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_name(f"auth_token.{secrets.token_hex(4)}")
            try:
                _write_token(aside)
                with contextlib.suppress(FileExistsError):  # another run was first: its token counts
                    os.link(aside, file)  # whole, and never over another
            finally:
                aside.unlink(missing_ok=True)
        if file.stat().st_mode & 0o077 and file.stat().st_uid == os.getuid():
            with contextlib.suppress(OSError):  # Ray wrote it for all to read
                file.chmod(0o600)
        return bool(file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return False


def _write_token(file: Path) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as open_file:
        open_file.write(secrets.token_hex(32))


def _check_listens(address: str) -> None:
    """Raise InputError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise InputError(
            f"RAY_ADDRESS={address} is for Ray's own client, through which a run cannot work; type ray-synth submit "
            "EXPERIMENT.yaml, or log in to the head node and set RAY_ADDRESS=auto"
        )
    if not port.isdigit():  # auto, local: Ray looks for itself
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENS_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"RAY_ADDRESS={address}: no Ray cluster listens there ({error}); start one with ray start --head or "
            "ray up cluster.yaml, or unset RAY_ADDRESS to use this machine alone"
        ) from None


def _why_not_joined(error: Exception) -> str:
    said = " ".join(str(error).split())
    if "Version mismatch" in said:  # it names Ray and Python at both ends
        return f"{said}; start this command with the Python and the Ray of the cluster, or type ray-synth submit"
    return (
        "no Ray cluster answers there, or it wants another token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH); unset "
        "RAY_ADDRESS to use this machine alone"
    )


def use_token() -> None:
    """Where there is a token, show it: Ray, left to itself, starts a cluster with it and then does not."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    if "RAY_AUTH_MODE" in os.environ or not (os.environ.get("RAY_AUTH_TOKEN") or os.path.exists(token)):
        return
    from ray._raylet import Config  # type: ignore[attr-defined]  # compiled

    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")  # as Ray itself does: what was read of the environment before would stay


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Ray's C++ core announces its log level on file descriptor 2, past every Python logger."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _quiet() -> None:
    """Progress is ours to show; Ray's own bars and notices would be drawn over it."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # one chunk of Stable Diffusion on a CPU may take an hour
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
