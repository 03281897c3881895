"""A template of report/templates, and what it shows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from ray_synth.report.plots import as_svg


@dataclass(frozen=True)
class Shown:
    """short: what leads to it from the page's head; default: its heading."""

    template: str
    values: Mapping[str, object]
    short: str = ""


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Container[int] = ()) -> Shown:
    """A heading over a table of words. head: empty for none. numbers: columns that are set to the right."""
    body = list(rows)
    right = [column in numbers for column in range(max(map(len, [head, *body])))]
    return Shown("table.html", {"title": title, "head": head, "rows": body, "right": right})


def drawn(figure: Figure) -> Markup:
    return Markup(as_svg(figure))  # noqa: S704
