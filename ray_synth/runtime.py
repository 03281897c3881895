"""Ray for as long as it is needed: joins the cluster of RAY_ADDRESS, or starts one here."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_synth.errors import InputError

OBJECT_STORE_BYTES = 512 * 2**20
LISTENS_WITHIN = 10.0  # seconds


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray, quiet and on loopback. A session that is up already is used and left up.

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
    if address:
        _check_listens(address)
    with _native_stderr_closed():
        if address:
            use_token()
            try:
                ray.init(logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, RuntimeError) as error:
                raise InputError(f"RAY_ADDRESS={address}: {_why_not_joined(error)}") from error
        else:
            ray.init(
                address="local",  # not whatever cluster was started on this machine last
                num_cpus=os.cpu_count(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    _quiet()
    try:
        yield
    finally:
        ray.shutdown()


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
    token = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    if "RAY_AUTH_MODE" in os.environ or not (os.environ.get("RAY_AUTH_TOKEN") or Path(token).exists()):
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
