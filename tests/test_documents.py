"""The documents: the README is one page, and what README and documents name is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from ray_synth.cli import app
from ray_synth.config import Experiment

from .conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
AUTHORS = r"[A-Z][^\W\d_]+(?: et al\.|(?:, [A-Z][^\W\d_]+)* & [A-Z][^\W\d_]+)?"
KEY = re.compile(rf"({AUTHORS})(?:, | \()((?:19|20)\d\d)\b")

every_document = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))


def code(file: Path) -> list[str]:
    """Code spans and blocks of a page."""
    return [found[0] for found in CODE.finditer(file.read_text())]


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@every_document
def test_links_lead_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text()):
        assert "://" in link or (file.parent / link).exists(), link


@every_document
def test_paths_are_there(file: Path) -> None:
    for said in code(file):
        for path in re.findall(r"(?<![\w/{])(?:ray_synth|tests|sweeps|docs)/[\w./-]*\w", said):
            assert (ROOT / path).exists(), path


@every_document
def test_commands_are_there(file: Path) -> None:
    group = typer.main.get_command(app)
    verbs = group.list_commands(click.Context(group))  # type: ignore[attr-defined]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for said in code(file):
        for verb in re.findall(r"ray-synth ([a-z]+)\b", said):
            assert verb in verbs
        for target in re.findall(r"(?:^|[`\n])make ([a-z][\w-]*)", said):
            assert target in targets
        for module in re.findall(r"python -m (tests(?:\.\w+)+)", said):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_papers_are_listed() -> None:
    """Each citation of the package by its key, such as `(Nguyen et al., 2025, Eq. 7)`."""
    listed = (ROOT / "docs" / "references.md").read_text()
    files = [file for file in (ROOT / "ray_synth").rglob("*.*") if file.suffix in (".py", ".yaml")]
    cited = {f"{authors}, {year}" for file in files for authors, year in KEY.findall(file.read_text())}
    assert "Heusel et al., 2017" in cited
    assert not [key for key in sorted(cited) if key not in listed]


def test_the_pages_are_made_from_the_code(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "docs/generate.py", str(tmp_path)], cwd=ROOT, check=True)
    pages = {file.relative_to(tmp_path).as_posix(): file.read_text() for file in tmp_path.rglob("*.md")}
    assert not [name for name, text in pages.items() if re.search(r"^<!-- (generated|code):", text, re.MULTILINE)]
    modules = [file for file in (ROOT / "ray_synth").rglob("*.py") if file.name != "__init__.py"]
    assert not [file for file in modules if f"{file.name}`" not in pages["architecture.md"]]
    for section, field in Experiment.model_fields.items():
        assert section in pages["reference/settings.md"], field
