"""The house: imports run one way, looking costs nothing, and every module says what it is for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions
from itertools import chain

import pytest

import ray_synth
from ray_synth.config import Diffusers, DiffusersSettings, Diffusion, ImageFolder, StableDiffusion
from ray_synth.stages import STAGES

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


def _distribution(named: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;! ]", named, maxsplit=1)[0]).lower()


def test_what_is_imported_is_declared() -> None:
    """A package that only happens to be installed, because another needs it, is missing on the next machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = {_distribution(need) for need in chain(project["dependencies"], *extras)}
    provided = packages_distributions()
    undeclared = {}
    for path in (ROOT / "ray_synth").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"ray_synth"}:
                if not declared & {_distribution(name) for name in provided.get(top, [top])}:
                    undeclared[top] = str(path.relative_to(ROOT))
    assert not undeclared, "add them to pyproject.toml, or use what is there"


OF_THE_WHOLE = {"architecture", "documents", "spoiled_folders", "sweep_files"}  # what tests of no single room are about


def test_tests_mirror_the_package() -> None:
    """A folder a room, and a file of its name for each module that is a room by itself."""
    house = ROOT / "ray_synth"
    rooms = {folder.parent.name for folder in house.glob("*/__init__.py")}
    folders = {file.parent.name for file in (ROOT / "tests").glob("*/*.py")}
    assert folders - {"benchmarks"} <= rooms
    files = {file.stem.removeprefix("test_") for file in (ROOT / "tests").glob("test_*.py")}
    assert files - OF_THE_WHOLE <= {file.stem for file in house.glob("*.py")}


# A command line has as many parameters as options, and these functions of Python are what people call by name.
PUBLIC_DOORS = {
    *(f"cli.{verb}" for verb in ("run", "generate", "estimate", "sweep", "submit", "plan")),
    "pipeline.run",
    "estimate.estimate_ratio",
    "classifier.losses.regularized_loss",
}


def test_functions_are_short_and_take_few_arguments() -> None:
    long, wide = [], set()
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (node.end_lineno or 0) - node.lineno >= 80:
                    long.append(f"{name}.{node.name}")
                given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                if sum(one.arg not in ("self", "cls") for one in given) > 8:
                    wide.add(f"{name}.{node.name}")
    assert not long
    assert wide <= PUBLIC_DOORS


OF_A_GENERATOR = re.compile(r"generator(\.settings)?\.kind$|^'(stable_)?diffusion'$")
KINDS = {section.__name__ for section in (Diffusion, Diffusers, DiffusersSettings, StableDiffusion, ImageFolder)}


def test_only_a_generators_own_room_asks_for_its_kind() -> None:
    """Neither by the class of its settings nor by its `kind`, which is read from files by the configuration alone."""
    asked = []
    for name, tree in modules(without=("generator", "config")):
        for node in ast.walk(tree):
            if isinstance(node, ast.Name | ast.Attribute) and _last(node) in KINDS:
                asked.append((name, node.lineno))
            if isinstance(node, ast.Compare):
                sides = (node.left, *node.comparators)
                asked += [(name, node.lineno) for side in sides if OF_A_GENERATOR.search(ast.unparse(side))]
    assert not asked


def test_only_stages_name_stages() -> None:
    """As a string that is compared, stands beside another stage's, or is looked up.

    Not meant are the sections of an experiment file, some of which share a stage's name (config/ and smoke.py, which
    shrinks them), and the part `train` of a data set.
    """
    names, found = {stage.name for stage in STAGES}, []
    for name, tree in modules(without=("stages", "config", "smoke")):
        part = {"train"} if name.split(".")[0] in ("data", "catalog") else set()
        for node in ast.walk(tree):
            texts, least = [], 1
            if isinstance(node, ast.Compare):
                texts = _texts(node.left, *node.comparators)
            elif isinstance(node, ast.Subscript):
                texts = _texts(node.slice)
            elif isinstance(node, ast.Call) and _last(node.func) in ("get", "pop", "stage", "is_complete"):
                texts = _texts(*node.args)
            elif isinstance(node, ast.Tuple | ast.List | ast.Set):
                texts, least = _texts(*node.elts), 2
            elif isinstance(node, ast.Dict):
                texts, least = _texts(*node.keys), 2
            if len(names.intersection(texts) - part) >= least:
                found.append((name, node.lineno, texts))
    assert not found


def modules(without: Sequence[str] = ()) -> Iterator[tuple[str, ast.Module]]:
    """Each module's name below the package, and its syntax; whole rooms may be left out."""
    for file in sorted((ROOT / "ray_synth").rglob("*.py")):
        parts = file.relative_to(ROOT / "ray_synth").with_suffix("").parts
        if parts[0] not in without:
            yield ".".join(parts), ast.parse(file.read_text())


def _texts(*nodes: ast.expr | None) -> list[str]:
    """The strings among some expressions."""
    return [one.value for one in nodes if isinstance(one, ast.Constant) and isinstance(one.value, str)]


def _last(node: ast.expr) -> str:
    """`c` of a.b.c."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
