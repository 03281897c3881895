"""Several finished run folders in, one page about them out: decisions, accuracies, ratios and costs beside each other.

What was tested on other images is shown apart: its accuracies are neither averaged with the others nor ranked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_synth.bound.result import Curve, RatioEstimate
from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError
from ray_synth.report.page import page
from ray_synth.report.sections.compared import compared_curves, compared_decisions, compared_settings, compared_tests
from ray_synth.report.summary import Summary
from ray_synth.runs import RunFolder

COMPARISON = "comparison.html"
MADE_BY = "ray_synth comparison"  # in the head of a page that may be written over


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run. test: digest of its test images, empty where it was not written down; num_test: their number.

    settings: flat, by dotted names. curve: of the prediction, where there is one. metrics: of
    metrics.json.
    """

    name: str
    place: str
    summary: Summary
    test: str
    num_test: int
    settings: Mapping[str, Any]
    curve: Curve | None
    metrics: Mapping[str, float]


def read_runs(folders: Sequence[str]) -> tuple[Compared, ...]:
    """Raises InputError for a folder that is no run's, one whose run is not finished, or one that is named twice."""
    places = [os.path.abspath(each) if "://" not in each else each.rstrip("/") for each in folders]
    if twice := [each for each, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise InputError(f"{twice[0]} is named twice; give each run folder once")
    names = _short_names([each.rstrip("/") for each in folders])
    return tuple(_read(folder, name) for folder, name in zip(folders, names, strict=True))


def _read(place: str, name: str) -> Compared:
    folder = RunFolder(place)
    if not folder.exists("experiment.yaml"):
        raise InputError(
            f"{place} is no run folder: it holds no experiment.yaml; type ray-synth report RUN1 RUN2 with folders that "
            "ray-synth run has written, such as runs/NAME"
        )
    if not folder.exists("summary.json"):
        raise InputError(f"the run in {place} is not finished: it holds no summary.json; type ray-synth run {place}")
    plain = folder.read_json("summary.json")
    if not isinstance(plain, dict):
        raise InputError(f"{place}/summary.json holds no summary; move it away, and type ray-synth run {place}")
    splits = folder.read_json("splits.json") if folder.exists("splits.json") else {}
    estimate = folder.read_json("estimate.json") if folder.exists("estimate.json") else None
    settings = read_yaml(folder.read("experiment.yaml").decode())
    return Compared(
        name=name,
        place=place,
        summary=Summary.from_dict(plain),
        test=str(splits.get("digests", {}).get("test", "")),
        num_test=int(splits.get("images", {}).get("test", 0)),
        settings=dict(_flat(settings)),
        metrics=folder.read_record("metrics.json", dict[str, float]) if folder.exists("metrics.json") else {},
        curve=None if estimate is None else RatioEstimate.from_dict(estimate).curve,
    )


def _short_names(places: Sequence[str]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [place.replace("\\", "/").split("/") for place in places]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(places)


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(settings, Mapping) or not settings:
        return [(prefix, settings)]
    found = []
    for name, value in settings.items():
        found += _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return [(name, value) for name, value in found if name not in ("digest", "format")]


def comparison_file(out: str | None, folders: Sequence[str]) -> Path:
    """Where the page goes: `out`, a .html file or a folder; by default beside the first run folder.

    Raises:
        InputError: a place that is not on this machine, or that holds what this did not write.
    """
    if out is None:
        local = "://" not in folders[0]
        out = os.path.join(os.path.dirname(os.path.abspath(folders[0])) if local else os.curdir, COMPARISON)
    if "://" in out:
        raise InputError(f"--out of a comparison must be a file of this machine, got {out}; type --out {COMPARISON}")
    file = Path(out) if out.lower().endswith((".html", ".htm")) else Path(out) / COMPARISON
    if file.is_dir() or (file.exists() and MADE_BY.encode() not in file.read_bytes()[:2000]):
        raise InputError(f"{file} is there, and no comparison of runs; type --out {file.with_name('other.html')}")
    nearest = next(parent for parent in file.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"folder {file.parent} cannot be written; type --out FILE.html for another place")
    return file


def compare(folders: Sequence[str], out: str | None = None) -> Path:
    """Write the page; its path. Raises InputError as `read_runs` and `comparison_file`."""
    runs, file = read_runs(folders), comparison_file(out, folders)
    heading = f"{len(runs)} runs side by side"
    sections = {
        "decisions": compared_decisions(runs),
        "tests": compared_tests(runs),
        "curves": compared_curves(runs),
        "settings": compared_settings(runs),
    }
    shown = [(name, found) for name, found in sections.items() if found is not None]
    text = page(heading, heading, shown, generator=MADE_BY)
    RunFolder(file.parent.absolute()).write(file.name, text.encode())
    return file
