"""What stages say of themselves in, summary.json out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_synth.runs import RunFolder
from ray_synth.stages.stage import Stage

SUMMARY = "summary.json"


def summary_of(stages: Mapping[type[Stage], Stage]) -> dict[str, Any]:
    """What stages say that are through, in their order, and the seconds that each took."""
    said: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for stage in stages.values():
        record = stage.folder.stage(stage.name)
        if record is not None and (record.complete or stage.partly):
            said |= {"name": stage.experiment.name} | dict(stage.summary())
        if record is not None and record.complete:
            seconds[stage.name] = record.seconds
    return said | {"seconds": seconds}


def write_summary(folder: RunFolder, summary: Mapping[str, Any]) -> list[str]:
    """Written where it says something new; an older one with other figures is moved aside. Returns what was moved."""
    moved: list[str] = []
    if folder.exists(SUMMARY):
        before = folder.read_record(SUMMARY, dict[str, Any])
        if before == summary:
            return moved
        if before | {"seconds": {}} != {**summary, "seconds": {}}:
            moved = folder.set_aside([SUMMARY], "results")
    folder.write_json(SUMMARY, summary)
    return moved
