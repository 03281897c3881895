"""Pages and the code in, the site's pages out: what the code says of itself is copied from it, never written by hand.

Run `python docs/generate.py OUT` (`make docs` does). A page asks with a line `<!-- generated: NAME -->` for what one of
GENERATED returns, and with `<!-- code: FILE -->` or `<!-- code: FILE::NAME -->` for a file, or one function or class
of it. A file, a name or a first line that is missing ends the build.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Pages that GitHub looks for in the root, and what they are called here.
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def first_line(module: Path) -> str:
    """What a module says of itself. SystemExit where it says nothing."""
    line = (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").partition("\n")[0].strip()
    if not line:
        raise SystemExit(f"{module.relative_to(ROOT)} has no first line; write a docstring that says what it holds")
    return line


def layer_of(name: str, layers: list[list[str]]) -> int:
    """The layer of the import contract that a module is in, from the top. What is in none comes last."""
    here = [
        index
        for index, layer in enumerate(layers)
        if any(f"{name}.".startswith(f"{one}.") or f"{one}.".startswith(f"{name}.") for one in layer)
    ]
    return min(here, default=len(layers))


def house() -> str:
    """Every room and every file with its own first line, in the order of the import contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [re.split(r"[|:\s()]+", layer) for layer in contracts["contracts"][0]["layers"]]

    def order(path: Path) -> tuple[int, str]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        return layer_of(name, layers), name

    package = ROOT / "ray_synth"
    rooms = [path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    lines: list[str] = []
    for room in sorted((room for room in rooms if room.name != "__init__.py"), key=order):
        if room.is_file():
            lines += [f"### `{room.name}`", "", first_line(room), ""]
            continue
        lines += [f"### `{room.name}/`", ""]
        if ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))):
            lines += [first_line(room / "__init__.py"), ""]
        lines += ["| file | |", "|---|---|"]
        files = [path for path in room.rglob("*.py") if path.name != "__init__.py"]
        lines += [f"| `{file.relative_to(room)}` | {_cell(first_line(file))} |" for file in sorted(files, key=order)]
        lines.append("")
    return "\n".join(lines)


def settings() -> str:
    """Every key of an experiment file: its type, default, range and description."""
    from ray_synth.config import Experiment

    schema = Experiment.model_json_schema()
    known: Mapping[str, Any] = schema["$defs"]
    lines: list[str] = []

    def table(rows: Iterator[list[str]]) -> None:
        lines.extend(["| key | type | default | allowed | |", "|---|---|---|---|---|"])
        lines.extend("| " + " | ".join(row) + " |" for row in rows)
        lines.append("")

    plain = {name: field for name, field in schema["properties"].items() if not _sections(field, known)}
    lines.append("## Of the file itself\n")
    table(_rows(plain, set(schema.get("required", ())), "", known))
    for name, field in schema["properties"].items():
        models = _sections(field, known)
        if models:
            lines.append(f"## {name}\n")
        for model in models:
            if len(models) > 1:
                lines.append(f"### kind: {model['properties']['kind']['const']}\n")
            lines.append(_paragraphs(model.get("description", "")) + "\n")
            table(_rows(model["properties"], set(model.get("required", ())), "", known))
    return "\n".join(lines)


def _rows(fields: Mapping[str, Any], required: set[str], prefix: str, known: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, field in fields.items():
        if "const" in field:
            continue  # the kind, which is the heading
        types, ranges = _type(field, known)
        default = "**needed**" if name in required else _value(field.get("default"))
        inner = _sections(field, known)
        if inner and isinstance(field.get("default"), dict):
            default = "as below"
        text = _cell(field.get("description", "") or (inner[0].get("description", "") if inner else ""))
        yield [f"`{prefix}{name}`", types, default, ranges, text]
        for model in inner:
            yield from _rows(model["properties"], set(model.get("required", ())), f"{prefix}{name}.", known)


def _sections(field: Mapping[str, Any], known: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models that a key may hold, or a map of them."""
    found = [
        known[option["$ref"].rpartition("/")[2]] if "$ref" in option else option
        for option in (field, *field.get("anyOf", ()), *field.get("oneOf", ()))
        if "$ref" in option or "properties" in option
    ]
    values = field.get("additionalProperties")
    return found or (_sections(values, known) if isinstance(values, dict) else [])


def _type(field: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[str, str]:
    """A key's type and what is allowed, in words."""
    options = field.get("anyOf") or field.get("oneOf") or [field]
    types, ranges = [], []
    for option in options:
        if "$ref" in option:
            types.append("section")
        elif "enum" in option:
            types.append(" or ".join(f"`{value}`" for value in option["enum"]))
        elif option.get("type") == "array":
            item = option.get("items", {}) or (option.get("prefixItems") or [{}])[0]
            types.append(f"list of {_type(item, known)[0]}" if item else "list")
            least, most = option.get("minItems", 0), option.get("maxItems")
            ranges += [f"{most} of them" if least == most else f"at most {most}"] if most else []
        elif option.get("type") == "object":
            inner = option.get("additionalProperties")
            types.append(f"name: {_type(inner, known)[0]}" if isinstance(inner, dict) else "name: value")
        else:
            types.append(
                {"null": "null", "integer": "whole number", "string": "text", "boolean": "true or false"}.get(
                    option.get("type", ""), option.get("type", "any")
                )
            )
        ranges += _range(option)
    return " or ".join(dict.fromkeys(types)), ", ".join(dict.fromkeys(ranges))


def _range(option: Mapping[str, Any]) -> list[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {option[key]:,}" for key, sign in signs.items() if key in option]
    if "pattern" in option:
        said.append(f"matches `{option['pattern']}`")
    return said


def _value(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value not in ({}, []) else "empty"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def _paragraphs(text: str) -> str:
    return "\n\n".join(_cell(part) for part in text.split("\n\n"))


def names() -> str:
    """The public names, each where the package says that it lives."""
    import ray_synth

    return "\n\n".join(
        f"::: {module}.{name}\n    options: {{heading_level: 2}}" for name, module in ray_synth._ROOMS.items()
    )


def commands() -> str:
    """The help of the command and of each verb, as it is printed."""
    import typer

    from ray_synth.cli import app

    top = typer.main.get_command(app)
    parts = []

    def said(command: Any, name: str, parent: Any = None) -> Any:
        context = type(command).context_class(command, info_name=name, parent=parent, terminal_width=100)
        parts.append(f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```")
        return context

    context = said(top, "ray-synth")
    for verb in top.list_commands(context):  # type: ignore[attr-defined]
        said(top.get_command(context, verb), verb, context)  # type: ignore[attr-defined]
    return "\n\n".join(parts)


def pipelines() -> str:
    """The classes of diffusers that kind: diffusers takes, from their rows."""
    from ray_synth.text_to_image import ROWS

    lines = [
        "| class | models | steps | guidance, as what | `strength` | `lora` on | pixels | dtype on a GPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        guidance = f"{row.sampling['guidance_scale']:g}, `{row.guidance}`"
        adapted = ", ".join(f"`{part}`" for part in row.lora) or "no"
        cells = [
            f"`{row.name}`", row.said, f"{row.sampling['num_inference_steps']}", guidance,
            "yes" if row.image_to_image else "no", adapted, f"{row.size}, multiples of {row.multiple}", row.dtype,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


GENERATED: dict[str, Callable[[], str]] = {
    "house": house,
    "settings": settings,
    "names": names,
    "commands": commands,
    "pipelines": pipelines,
}


def code(where: str) -> str:
    """A file, or one function or class of it, as a code block."""
    path, _, name = where.partition("::")
    file = ROOT / path
    if not file.exists():
        raise SystemExit(f"a page shows {where}, and there is no {path}")
    text = file.read_text(encoding="utf-8")
    if name:
        nodes = [node for node in ast.parse(text).body if getattr(node, "name", None) == name]
        if not nodes:
            raise SystemExit(f"a page shows {where}, and {path} has no {name}")
        node = nodes[0]
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)  # noqa: S101
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        text = "\n".join(text.splitlines()[start - 1 : node.end_lineno])
    language = {".py": "python", ".yaml": "yaml"}.get(file.suffix, "text")
    return f'````{language} title="{path}"\n{text.rstrip()}\n````'


def expanded(text: str) -> str:
    """A page with all that it asks for."""
    text = re.sub(r"^<!-- generated: (\w+) -->$", lambda asked: GENERATED[asked[1]](), text, flags=re.MULTILINE)
    return re.sub(r"^<!-- code: (\S+) -->$", lambda asked: code(asked[1]), text, flags=re.MULTILINE)


def of_the_root(text: str) -> str:
    """A page of the repository's root, its links seen from the site's."""
    for name, page in ROOT_PAGES.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text.replace("](docs/", "](")


def main() -> None:
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(DOCS, out, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name, page in ROOT_PAGES.items():
        (out / page).write_text(of_the_root((ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")
    for file in out.rglob("*.md"):
        file.write_text(expanded(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
