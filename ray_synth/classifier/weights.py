"""A weights file, local or of a package, in, named tensors or only their shapes out; what does not fit is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ray_synth.config import RANDOM, Classifier
from ray_synth.errors import InputError
from ray_synth.features.packaged import PACKAGES, packaged_state

WRAPPERS = ("state_dict", "model", "state_dict_ema")  # keys under which training scripts put the weights
NAMED = 3  # layers that a message names


def packaged_name(model: str) -> str | None:
    """The name by which `features.packaged` knows the classifier's model, if it does."""
    name = model.removeprefix("timm:")
    return name if model != name and name in PACKAGES else None


def starting_weights(settings: Classifier, *, shapes_only: bool = False) -> dict[str, torch.Tensor] | None:
    """What the classifier starts from: its file, or what a package ships for its model; None: as it is drawn.

    Raises:
        InputError: as of `read_weights`, or a package that is not installed.
    """
    if settings.weights == RANDOM:
        return None
    if settings.weights is not None:
        return read_weights(settings.weights, shapes_only=shapes_only)
    name = packaged_name(settings.model)
    return None if name is None else packaged_state(name, shapes_only=shapes_only)


def read_weights(path: str | Path, *, shapes_only: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file or of a plain state dict; on the meta device if only shapes are wanted.

    Raises:
        InputError: no file, a file that cannot be read, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"classifier.weights must be a local file, got {str(path)!r}, which is none; "
            "type --set classifier.weights=FILE"
        )
    try:
        found = (
            _read_safetensors(path, shapes_only) if path.suffix == ".safetensors" else _read_pickle(path, shapes_only)
        )
    except Exception as error:  # SafetensorError, UnpicklingError, RuntimeError, EOFError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"classifier.weights: {path} is neither safetensors nor a plain state dict ({reason}); a pickle that holds "
            "more than tensors can run any code and is not opened: save it again with safetensors"
        ) from None
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _read_safetensors(path: Path, shapes_only: bool) -> dict[str, torch.Tensor]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    if not shapes_only:
        loaded: dict[str, torch.Tensor] = load_file(path)
        return loaded
    with safe_open(path, "pt") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118


def _read_pickle(path: Path, shapes_only: bool) -> Mapping[str, torch.Tensor]:
    found: Any = torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise ValueError("it holds something else than named tensors")
    return found


def misfit(
    wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], *, loose: Iterable[str] = ()
) -> str | None:
    """What keeps `given` from being the state of a model with the state `wanted`, or None if nothing does.

    loose: starts of names that may be missing or of another shape, such as the head's.
    """
    loose = tuple(loose)
    checked = {name for name in wanted if not (loose and name.startswith(loose))}
    missing = sorted(checked - set(given))
    unexpected = sorted(name for name in set(given) - set(wanted) if not (loose and name.startswith(loose)))
    shapes = [
        f"{name} is {list(given[name].shape)} where the model has {list(wanted[name].shape)}"
        for name in sorted(checked & set(given))
        if given[name].shape != wanted[name].shape
    ]
    parts = [_named("missing", missing), _named("unknown", unexpected), _named("of another shape", shapes)]
    return "; ".join(part for part in parts if part) or None


def _named(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what}: {', '.join(names[:NAMED])}{more}"
