"""How far the synthetic images are from the real ones, over all and per class, and through which encoder."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown

PREFIX = "feature_distance/"
COLUMNS = {
    "frechet": "Fréchet",
    "frechet_shrunk": "Fréchet, shrunk",
    "kernel": "kernel (x 1000)",
    "precision": "precision",
    "recall": "recall",
    "wasserstein": "W2",
}


def distances(results: RunResults) -> Shown | None:
    details = results.details.get("feature_distance")
    if details is None:
        return None
    rows: dict[str, dict[str, float]] = {}
    for name, value in results.metrics.items():
        if name.startswith(PREFIX):
            row, _, column = name.removeprefix(PREFIX).rpartition("/")
            rows.setdefault(row.removeprefix("class/"), {})[column] = value * (1000 if column == "kernel" else 1)
    columns = {name: said for name, said in COLUMNS.items() if any(name in found for found in rows.values())}
    cells = [
        (row or "all", [f"{found[name]:.4g}" if name in found else "" for name in columns])
        for row, found in rows.items()
    ]
    return Shown("distances.html", {"details": details, "columns": columns.values(), "rows": cells})
