"""A run folder in, its small results as text out; and back: how they leave a cluster whose disk is not ours.

The text goes through a job's log, so it comes from outside: only files of known names are taken from it.
"""

from __future__ import annotations

import base64
import binascii
import io
import tarfile
from pathlib import Path

from ray_synth.errors import WorkError
from ray_synth.runs import RunFolder
from ray_synth.stages import STAGES

BEGIN, END = "-----BEGIN RAY_SYNTH RESULTS-----", "-----END RAY_SYNTH RESULTS-----"
MAX_BYTES = 200 * 2**20


def kept_files() -> tuple[str, ...]:
    """The small files of a run folder, as its stages name them."""
    return tuple(dict.fromkeys(file for stage in STAGES for file in stage.keeps))


def packed(folder: RunFolder) -> str:
    """Those of `kept_files` that there are, as lines of text."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in kept_files():
            if folder.exists(name):
                data = folder.read(name)
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return "\n".join((BEGIN, base64.encodebytes(buffer.getvalue()).decode().strip(), END))


def unpack(text: str, to: Path) -> list[str]:
    """Write the files of `packed` below a folder; their names.

    Raises:
        WorkError: the text holds no such archive, or a member that is none of `kept_files` (a path with `..`, an
            absolute one, a link); then nothing is written.
    """
    if BEGIN not in text or END not in text:
        raise WorkError("the job's log holds no results; look at it with ray job logs")
    body = text.split(BEGIN, 1)[1].split(END, 1)[0]
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode("".join(body.split()), validate=True))) as archive:
            contents = _checked(archive)
    except (binascii.Error, tarfile.TarError, OSError, EOFError) as error:
        raise WorkError(f"the results in the job's log cannot be read: {error}") from None
    folder = RunFolder(to)
    for name, data in contents.items():
        folder.write(name, data)
    return list(contents)


def _checked(archive: tarfile.TarFile) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    total = 0
    for member in archive:
        total += member.size
        if member.name not in kept_files() or not member.isreg() or total > MAX_BYTES:
            raise WorkError(f"the results hold {member.name!r}, which no run folder's results hold; refused")
        file = archive.extractfile(member)
        contents[member.name] = file.read() if file is not None else b""
    return contents
