"""The history of a training in, what share of its time it waited for images out, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MUCH = 0.1  # of the time: more, and it is the reading that takes it
CURE = (
    "reading holds it back: give a worker more CPU cores (it decodes in two threads a core, at most 16), start fewer "
    "workers on a machine (classifier.num_workers), or type a smaller --set data.image_size=SIDE"
)


def waited(history: Sequence[Mapping[str, float]]) -> float | None:
    """The share over the whole training; None where its images were in memory."""
    return history[-1].get("waiting") if history else None


def waiting_said(share: float) -> str:
    """A sentence without its end."""
    return f"{100 * share:.0f} % of the time was waited for images" + (f"; {CURE}" if share > MUCH else "")
