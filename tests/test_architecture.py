"""The house: imports run one way, looking costs nothing, and every module says what it is for."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import ray_synth

from .conftest import ROOT


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["ray_synth", "ray_synth.cli"])
def test_looking_imports_nothing_heavy(module: str) -> None:
    heavy = ("torch", "ray", "numpy", "diffusers", "faiss", "sklearn", "pydantic", "matplotlib")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in ray_synth.__all__:
        assert getattr(ray_synth, name) is not None
    with pytest.raises(AttributeError, match="estimate_ratio"):
        ray_synth.estimate_ration  # noqa: B018


def test_every_module_says_what_it_is_for() -> None:
    modules = (ROOT / "ray_synth").rglob("*.py")
    unnamed = [str(m.relative_to(ROOT)) for m in modules if not ast.get_docstring(ast.parse(m.read_text()))]
    assert not unnamed
