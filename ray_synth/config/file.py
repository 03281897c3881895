"""An experiment file and overrides in, a checked `Experiment` out; what is wrong in one line each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ray_synth.config.experiment import Experiment
from ray_synth.config.generator import GENERATORS, GeneratorSettings, kind_of
from ray_synth.config.overrides import merged, overridden
from ray_synth.config.section import short
from ray_synth.config.sweep import Dimension
from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError, did_you_mean


def load_experiment(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, seed: int | None = None
) -> Experiment:
    """Read, override and check an experiment file.

    Args:
        path: YAML file as `read_yaml` takes it: no tags, no aliases, no key twice. Its `base`, a path seen from the
            file, is read first; the file's sections are laid over the base's, key by key.
        overrides: key -> value, as `--set data.shots=5` gives them. Keys may be dotted; a section is laid over the
            file's, key by key.
        seed: replaces the file's `seed`.

    Raises:
        InputError: for anything wrong in the file or the overrides, one line per problem.
    """
    path = Path(path)
    raw, files = _with_bases(path)
    label = path.name if len(files) == 1 else f"{path.name} (base {', '.join(file.name for file in files[1:])})"
    raw = overridden(raw, {} if overrides is None else overrides)
    raw = raw if seed is None else overridden(raw, {"seed": seed})
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
        raw = merged(under, raw)
        files.append(below)
    return raw, files


def _read_file(path: Path, missing: str) -> dict[str, Any]:
    """What a YAML file says. missing: the message when there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise InputError(
            f"{path} is a folder; give the experiment file in it, such as {path}/experiment.yaml"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{missing}{_near_files(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"experiment file {path} cannot be read as UTF-8 text: {error}") from None
    try:
        raw = read_yaml(text)
    except InputError as error:
        raise InputError(f"{path} is not a plain YAML file: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold sections such as 'name:' and 'data:', got {type(raw).__name__}")
    raw = dict(raw)
    raw.pop("format", None)
    raw.pop("digest", None)  # of an experiment.yaml out of a run folder, which can be run again
    return raw


def _problem(raw: Any, error: Any) -> str:
    """One pydantic error as one line: the key, the value received, what is allowed, what to type."""
    # pydantic names the branches of a union too.
    names = [str(part) for part in error["loc"] if part != "int" and not str(part).startswith("tuple[")]
    key = ".".join(names)
    generator = GENERATORS.get(kind_of(raw.get("generator", {})), GeneratorSettings)
    received = short(error["input"])
    kind = error["type"]
    if kind == "extra_forbidden":
        hint = did_you_mean(names[-1], _model_at(names[:-1], generator).model_fields)
        prefix = key.removesuffix(names[-1])
        return f"unknown key {key}; {hint.replace('did you mean ', f'did you mean {prefix}')}"
    if kind == "model_type" and names[:2] == ["sweep", "space"] and len(names) > 2:
        return f"{key} must be a range, choices or null, got {received}; type --set {_choices(key, error['input'])}"
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


def _choices(key: str, value: Any) -> str:
    """What makes a bare value, or a bare list of them, the choices of a searched setting."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    plain = values and all(isinstance(each, str | int | float) for each in values)
    return f"'{key}.choices=[{', '.join(map(str, values)) if plain else '...'}]'"


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
    return f"; {did_you_mean(str(path), found)}" if found else ""
