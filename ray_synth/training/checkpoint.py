"""All that the next update depends on in, bytes out; and back, bit for bit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Protocol

import torch
from safetensors import torch as safetensors
from torch import nn

from ray_synth.errors import Spoiled
from ray_synth.runs import RunFolder

Tensors = Mapping[str, torch.Tensor]
DONE = "loop/done"  # the tensor that every checkpoint holds
SEAL, NO_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"'), "0" * 64


class Checkpoints(Protocol):
    """Where a training keeps what it needs to go on after a kill."""

    def load(self) -> bytes | None: ...
    def save(self, data: bytes) -> None: ...


class Stateful(Protocol):
    """Something that the next update depends on."""

    def tensors(self) -> Tensors: ...
    def restore(self, tensors: Tensors) -> None: ...


class FolderCheckpoints:
    """A training's checkpoint as a file of the run folder."""

    def __init__(self, folder: RunFolder, name: str):
        self.folder, self.name = folder, name

    def load(self) -> bytes | None:
        return self.folder.read(self.name) if self.folder.exists(self.name) else None

    def save(self, data: bytes) -> None:
        self.folder.write(self.name, data)

    def remove(self) -> None:
        self.folder.remove(self.name)


def sealed(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file that holds a hash of itself, as it is with zeros in the hash's place."""
    plain = safetensors.save(dict(tensors))
    start = 8 + int.from_bytes(plain[:8], "little")
    # Not by safetensors, which writes metadata in another order each time: the same tensors are to be the same bytes.
    header = {"__metadata__": {**(metadata or {}), "sha256": NO_SEAL}, **json.loads(plain[8:start])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = bytearray(len(text).to_bytes(8, "little") + text + plain[start:])
    place = data.index(NO_SEAL.encode())
    data[place : place + len(NO_SEAL)] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def opened(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises ValueError where it is torn, or another than was written."""
    length = int.from_bytes(data[:8], "little")  # of a header of JSON
    header, rest = data[8 : 8 + length], memoryview(data)
    seal = SEAL.search(header)  # an older version wrote none
    if seal is not None:
        first, last = 8 + seal.start(1), 8 + seal.end(1)
        found = hashlib.sha256(rest[:first])
        found.update(NO_SEAL.encode())
        found.update(rest[last:])
        if found.hexdigest() != seal[1].decode():
            raise ValueError("it is not what was written: its SHA-256 is another")
    try:
        return safetensors.load(data), json.loads(header).get("__metadata__", {})
    except Exception as error:  # SafetensorError, of no public name
        raise ValueError(str(error)) from None


def read_tensors(folder: RunFolder, name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file of the run folder. Raises Spoiled where they are not those that were written."""
    try:
        return opened(folder.read(name))
    except ValueError as error:
        raise Spoiled(
            f"{folder.url}/{name} cannot be read: {error}; move it away and run the same command again, which makes it "
            "anew",
            name,
        ) from None


def refuse_torn(folder: RunFolder, name: str) -> None:
    """Raise Spoiled for a checkpoint that is there and not what was written."""
    if folder.exists(name):
        read_tensors(folder, name)


def pack(parts: Mapping[str, Tensors]) -> bytes:
    """Named tensors of named parts as a safetensors file: `PART/NAME`."""
    return sealed({f"{part}/{name}": tensor for part, own in parts.items() for name, tensor in own.items()})


def unpack(data: bytes) -> dict[str, dict[str, torch.Tensor]] | None:
    """What `pack` got, without parts that are empty; None for a file that is torn or of an older version: what it was
    of is begun anew."""
    try:
        tensors, _ = opened(data)
    except ValueError:
        return None
    if DONE not in tensors:
        return None
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        part, name = key.split("/", 1)
        parts.setdefault(part, {})[name] = tensor
    return parts


def updates_done(data: bytes) -> int:
    """Updates that a checkpoint holds; 0 for a file of an older version, which is begun anew."""
    parts = unpack(data)
    return int(parts["loop"]["done"]) if parts is not None else 0


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a trained model must keep: the adapters of a frozen one, else the whole state. Copies, on the CPU."""
    state = model.state_dict()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    names = [name for name in state if not frozen or name in trained]
    return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in names}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All that the optimizer remembers, flat: `state/PARAMETER/NAME` and `group/GROUP/NAME`; copies on the CPU."""
    saved = optimizer.state_dict()
    places = [(f"state/{i}", state) for i, state in saved["state"].items()]
    places += [(f"group/{i}", group) for i, group in enumerate(saved["param_groups"])]  # LAMB counts steps there
    return {
        f"{place}/{name}": value.detach().to("cpu", copy=True).contiguous()
        for place, values in places
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` gave, into an optimizer made with the same settings for the same model."""
    saved = optimizer.state_dict()
    saved["state"] = {}
    for key, value in tensors.items():
        where, index, name = key.split("/", 2)
        place = saved["state"].setdefault(int(index), {}) if where == "state" else saved["param_groups"][int(index)]
        place[name] = value.clone()
    optimizer.load_state_dict(saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                # The fused step walks memory, not indices: a channels_last weight needs channels_last moments.
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
