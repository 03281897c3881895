"""Sections in, one HTML page out that opens anywhere and asks for nothing: style, script, data and pictures within."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from ray_synth.report.sections.shown import Shown

HEADING = re.compile(r"<h2[^>]*>(.*?)</h2>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section as the page has it: where links lead to, what they say, and its HTML."""

    id: str
    short: Markup
    body: Markup


def page(title: str, heading: str, sections: Sequence[tuple[str, Shown]], *, generator: str = "ray_synth") -> str:
    """The page. Text from outside (class names, settings) is escaped; no request is allowed, and no script but ours.

    sections: the name of each, which is its anchor, and what it shows. generator: what the page says that made it.
    """
    templates = Environment(autoescape=True, loader=PackageLoader("ray_synth.report"))
    parts = [_part(templates, name, shown) for name, shown in sections]
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.get_template("page.html").render(
        title=title,
        heading=heading,
        sections=parts,
        generator=generator,
        style=Markup(_file("page.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=Markup(f"sha256-{digest}"),  # noqa: S704
    )


def _part(templates: Environment, name: str, shown: Shown) -> Part:
    body = Markup(templates.get_template(shown.template).render(shown.values))  # noqa: S704
    heading = HEADING.search(body)
    found = Markup(heading[1]).striptags() if heading else name.replace("_", " ")  # noqa: S704
    return Part(id=name, short=escape(shown.short or found), body=body)


def _file(name: str) -> str:
    """One of our own, as it is: not a template."""
    return (files("ray_synth.report") / "templates" / name).read_text(encoding="utf-8")
