"""Arrays and the name of a file in, the same arrays out when they are asked for again: what can be made again, sealed.

A file that is torn or altered is as none; a folder that cannot be written costs time only. Beyond what a folder may
hold, the files that were used longest ago go.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
ENDING = ".safetensors"
ASIDE = ".aside-"  # begins the name of a file that is being written


def recall(file: Path) -> Arrays | None:
    """None where there is no such file, or not a whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as held:
            arrays = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
            seal = (held.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    if seal != _seal(arrays):
        return None
    with suppress(OSError):
        os.utime(file)  # used last
    return arrays


def keep(file: Path, arrays: Arrays) -> None:
    """Whole or not at all: aside, then renamed."""
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = save(whole, metadata={"sha256": _seal(whole)})
    with suppress(OSError):  # a disk that is full or read only
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=file.parent, prefix=ASIDE)
        try:
            with open(descriptor, "wb") as out:
                out.write(data)
            os.replace(aside, file)
        finally:
            Path(aside).unlink(missing_ok=True)


def trim(folder: Path, prefix: str, max_bytes: int) -> None:
    """Take away what was used longest ago of files whose names begin so, until a folder holds no more than this."""
    found = []
    for file in (*folder.glob(f"{prefix}*{ENDING}"), *folder.glob(f"{ASIDE}*")):
        with suppress(FileNotFoundError):  # another process was here
            state = file.stat()
            found.append((state.st_mtime, state.st_size, file))
    total = 0
    for _, size, file in sorted(found, reverse=True):
        total += size
        if total > max_bytes:
            file.unlink(missing_ok=True)


def _seal(arrays: Arrays) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {list(array.shape)} ".encode())
        found.update(array.data)
    return found.hexdigest()
