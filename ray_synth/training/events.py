"""What was measured and made in a training in, a file that TensorBoard reads out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def event_file(write: Callable[[Any], None]) -> bytes:
    """write: is given a tensorboardX SummaryWriter."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory(prefix="ray_synth-events-") as folder:
        writer = SummaryWriter(folder)
        write(writer)
        writer.close()
        return next(Path(folder).iterdir()).read_bytes()
