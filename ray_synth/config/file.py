"""An experiment file and overrides in, a checked `Experiment` out; what is wrong in one line each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ray_synth.config.experiment import Experiment
from ray_synth.config.generator import GENERATORS, GeneratorSettings, kind_of
from ray_synth.config.section import short
from ray_synth.config.sweep import Dimension
from ray_synth.errors import InputError


def load_experiment(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, seed: int | None = None
) -> Experiment:
    """Read, override and check an experiment file.

    Args:
        path: YAML file, read safely (no tags, no duplicate keys). Its `base`, a path seen from the file, is read first;
            the file's sections are laid over the base's, key by key.
        overrides: dotted key -> value, as `--set data.shots=5` gives them.
        seed: replaces the file's `seed`.

    Raises:
        InputError: for anything wrong in the file or the overrides, one line per problem.
    """
    path = Path(path)
    raw, files = _with_bases(path)
    label = path.name if len(files) == 1 else f"{path.name} (base {', '.join(file.name for file in files[1:])})"
    for key, value in (overrides or {}).items():
        _override(raw, key, value)
    if seed is not None:
        raw["seed"] = seed
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(raw, item) for item in error.errors())
        raise InputError("\n".join(f"{label}: {problem}" for problem in problems)) from None


def _with_bases(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """What stands in the file over what stands in its base, and so on down; and the files, the first one first."""
    raw = _read_file(path, f"experiment file not found: {path}")
    files = [path]
    while (base := raw.pop("base", None)) is not None:
        if not isinstance(base, str):
            raise InputError(f"{files[-1]}: base must be the path of an experiment file, got {short(base)}")
        below = files[-1].parent / base
        if below.resolve() in [file.resolve() for file in files]:
            chain = " -> ".join(str(file) for file in [*files, below])
            raise InputError(f"{files[-1]}: base: {base} leads back to a file that stands on it ({chain})")
        under = _read_file(below, f"{files[-1]}: base not found: {below}")
        raw = _merged(under, raw)
        files.append(below)
    return raw, files


def _read_file(path: Path, missing: str) -> dict[str, Any]:
    """What a YAML file says. missing: the message when there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{missing}{_near_files(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"experiment file {path} cannot be read as UTF-8 text: {error}") from None
    try:
        raw = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except Exception as error:  # PyYAML's constructors raise whatever Python raises on odd scalars
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a plain YAML file: {reason}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold sections such as 'name:' and 'data:', got {type(raw).__name__}")
    raw = dict(raw)
    raw.pop("digest", None)  # of an experiment.yaml out of a run folder, which can be run again
    return raw


def _merged(under: Mapping[str, Any], over: Mapping[str, Any], place: tuple[str, ...] = ()) -> dict[str, Any]:
    """Sections of both, key by key; of everything else the upper one."""
    merged = dict(under)
    for name, value in over.items():
        before, here = merged.get(name), (*place, str(name))
        merged[name] = value
        if isinstance(before, dict) and isinstance(value, dict) and not _replaces(before, value, here):
            merged[name] = _merged(before, value, here)
    return merged


def _replaces(under: Mapping[str, Any], over: Mapping[str, Any], place: tuple[str, ...]) -> bool:
    """A generator of another kind has other keys, and so has a searched setting of another form."""
    if place == ("generator",):
        return "kind" in over and over["kind"] != kind_of(under)
    forms = ({"low", "high", "scale"}, {"choices"}, {"tied_to", "factor"})
    kept = [form for form in forms if form & set(under)]
    return place[:2] == ("sweep", "space") and bool(kept) and not any(form & set(over) for form in kept)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`key.path=value` strings into overrides; values are read as YAML (5, 0.1, null, [1, 2], text)."""
    overrides: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set needs key.path=value, got {text!r}; type --set data.shots=5")
        if not value.strip():
            raise InputError(f"--set {key}= has no value; type --set {key}=null if none is meant")
        try:
            overrides[key.strip()] = yaml.load(value, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(f"--set {key}: the value {value!r} is not plain YAML: {reason}") from None
    return overrides


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, and aliases (an experiment has no use for them)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(
                    None, None, f"a key must be text, got {key!r}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed here", event.start_mark)
        return super().compose_node(parent, index)


# YAML 1.1 reads 1:30 as 90, 010 as 8, no as false and 1e-3 as text; YAML 1.2's core schema does not, and nor do we.
_CORE = {
    "tag:yaml.org,2002:bool": r"true|True|TRUE|false|False|FALSE",
    "tag:yaml.org,2002:int": r"[-+]?[0-9]+",
    "tag:yaml.org,2002:float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
}
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _CORE.items():
    _StrictLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), None)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))


def _override(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here = raw
    for depth, name in enumerate(parents):
        below = here.get(name)
        if below is None:
            below = {}
        if not isinstance(below, dict):
            raise InputError(f"--set {key}: {'.'.join(parents[: depth + 1])} is {below!r}, not a section")
        here[name] = dict(below)
        here = here[name]
    here[last] = value


def _problem(raw: Any, error: Any) -> str:
    """One pydantic error as one line: the key, the value received, what is allowed, what to type."""
    # pydantic names the branches of a union too.
    names = [str(part) for part in error["loc"] if part != "int" and not str(part).startswith("tuple[")]
    key = ".".join(names)
    generator = GENERATORS.get(kind_of(raw.get("generator", {})), GeneratorSettings)
    received = short(error["input"])
    kind = error["type"]
    if kind == "extra_forbidden":
        known = list(_model_at(names[:-1], generator).model_fields)
        close = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.5)
        prefix = key.removesuffix(names[-1])
        hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
        return f"unknown key {key}; {hint}"
    if kind == "missing":
        return f"{key} is missing; add '{names[-1]}: ...' to the file or type --set {key}=VALUE"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "value_error" and not key:
        return message
    if kind == "value_error":
        about = re.split(r"[ :.]", message)[0]
        return f"{key}.{message}" if about in _model_at(names, generator).model_fields else f"{key}: {message}"
    return f"{key}: {message}, got {received}{_example(_model_at(names[:-1], generator), key)}"


def _model_at(names: list[str], generator: type[BaseModel]) -> type[BaseModel]:
    """The section that a key leads to. generator: settings of the kind that the file names."""
    model: type[BaseModel] = Experiment
    for i, name in enumerate(names):
        if i == 0 and name == "generator":
            model = generator
            continue
        if names[:2] == ["sweep", "space"] and i > 0:
            return Dimension  # whatever the searched setting is called
        field = model.model_fields.get(name)
        candidates = [field.annotation, *get_args(field.annotation)] if field is not None else []
        below = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not below:
            break
        model = below[0]
    return model


def _example(section: type[BaseModel], key: str) -> str:
    field = section.model_fields.get(key.rpartition(".")[2])
    if field is None or field.is_required() or field.default is None or isinstance(field.default, BaseModel):
        return ""
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    if " " in "".join(word for word in (default if isinstance(default, list) else [default]) if isinstance(word, str)):
        return ""  # words of a person's language, not a form to fill in
    return f"; type --set {key}={str(default).replace(' ', '')}"


def _near_files(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("sweeps")
    if not folder.is_dir():
        return ""
    found = sorted(str(p) for p in folder.glob("*.yaml"))
    close = difflib.get_close_matches(str(path), found, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""
