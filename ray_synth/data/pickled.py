"""The bytes of a pickle in, plain values and uint8 arrays out; its opcodes are read, and nothing it names is called.

A pickle is a program: it calls what it names, and hands numpy raw memory. Here it is a description: of the few things
that the CIFAR releases hold, and of nothing else.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_VALUES = 2_000_000  # opcodes; a release's file has a tenth of them
TYPES = {"u1": 1, "i4": 4, "i8": 8}
RECONSTRUCT = tuple((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core"))
FROM_BUFFER = tuple((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core"))
KNOWN = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), *RECONSTRUCT, *FROM_BUFFER}
BYTES = {"SHORT_BINSTRING", "BINSTRING", "STRING"}  # Python 2's text, whose encoding nobody knows
TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
RAW = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NOTHING = {"PROTO", "FRAME", "STOP", "READONLY_BUFFER"}
MARK = object()


class NotPlain(ValueError):
    """It holds what no such file does. The message says what."""


@dataclass
class Named:
    """A name in a module; never looked up."""

    module: str
    name: str


@dataclass(eq=False)
class Call:
    """A name with what it would be called with, and the state that would be set."""

    name: tuple[str, str]
    arguments: tuple[Any, ...]
    state: Any = None


def plain_values(content: bytes) -> Any:
    """What a pickle of containers, text, numbers and arrays of small integers describes.

    Raises:
        NotPlain: another name or opcode, an array whose bytes are not those of its shape, or a file that is cut off.
    """
    try:
        return _value(_described(content), set())
    except NotPlain:
        raise
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise NotPlain(f"its opcodes make no sense ({error})") from None


def _described(content: bytes) -> Any:
    """The value on top of the stack at the end, with `Call`s in it."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    stopped = False
    for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
        if count > MOST_VALUES:
            raise NotPlain(f"it has more than {MOST_VALUES:,} opcodes")
        _step(opcode.name, argument, stack, memo)
        stopped = opcode.name == "STOP"
    if not stopped or len(stack) != 1:
        raise NotPlain("it is cut off")
    return stack[0]


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """What one opcode does to the stack and the memo."""
    if name in NOTHING:
        return
    if name in BYTES:
        stack.append(argument.encode("latin1"))
    elif name in TEXT or name in RAW or name in NUMBERS:
        stack.append(argument)
    elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name == "MARK":
        stack.append(MARK)
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[int(argument)])
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        stack.append(_named(argument.split(" ", 1) if name == "GLOBAL" else [stack.pop(), stack.pop()][::-1]))
    elif name in ("REDUCE", "BUILD"):
        _call(name, stack)
    else:
        _container(name, stack)


def _named(words: list[Any]) -> Named:
    module, name = words
    if not isinstance(module, str | bytes) or not isinstance(name, str | bytes):
        raise NotPlain("it names something that is no name")
    module, name = (word.decode("latin1") if isinstance(word, bytes) else word for word in (module, name))
    if (module, name) not in KNOWN:
        raise NotPlain(f"it names {module}.{name}, which no CIFAR file does")
    return Named(module, name)


def _call(name: str, stack: list[Any]) -> None:
    last, under = stack.pop(), stack[-1]
    if name == "BUILD":
        if not isinstance(under, Call) or under.state is not None:
            raise NotPlain("it sets the state of something that has none, or has it already")
        under.state = last
    else:
        if not isinstance(under, Named) or not isinstance(last, tuple):
            raise NotPlain("it calls something that is no name")
        call = Call((under.module, under.name), last)
        stack[-1] = _encoded(call) if call.name == ("_codecs", "encode") else call


def _encoded(call: Call) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    text, encoding = call.arguments
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise NotPlain("it encodes what is no text")
    return text.encode("latin1")


def _container(name: str, stack: list[Any]) -> None:
    """Lists, tuples and dictionaries."""
    if name in ("EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT"):
        stack.append({"EMPTY_LIST": [], "EMPTY_TUPLE": (), "EMPTY_DICT": {}}[name])
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        size = int(name[-1])
        if len(stack) < size:
            raise NotPlain("it is cut off")
        stack[-size:] = [tuple(stack[-size:])]
    elif name in ("LIST", "TUPLE", "DICT"):
        items = _since_mark(stack)
        stack.append(_pairs({}, items) if name == "DICT" else items if name == "LIST" else tuple(items))
    elif name in ("APPEND", "APPENDS"):
        items = [stack.pop()] if name == "APPEND" else _since_mark(stack)
        if not isinstance(stack[-1], list):
            raise NotPlain("it adds to something that is no list")
        stack[-1].extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else _since_mark(stack)
        if not isinstance(stack[-1], dict):
            raise NotPlain("it sets a key of something that is no dictionary")
        _pairs(stack[-1], items)
    elif name == "POP":
        stack.pop()
    else:
        raise NotPlain(f"it has the opcode {name}, which no CIFAR file has")


def _since_mark(stack: list[Any]) -> list[Any]:
    at = max(place for place, value in enumerate(stack) if value is MARK)
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _pairs(into: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2 or not all(isinstance(key, str | bytes) for key in items[::2]):
        raise NotPlain("a key of it is no text")
    into.update(zip(items[::2], items[1::2], strict=True))
    return into


def _value(described: Any, seen: set[int]) -> Any:
    """A value without `Call`s: arrays in their places. A container stands in one place, so nothing grows."""
    if isinstance(described, Call):
        return _made(described)
    if isinstance(described, Named) or described is MARK:
        raise NotPlain("a name in it stands for nothing")
    if not isinstance(described, list | tuple | dict):
        return described
    if described and id(described) in seen:
        raise NotPlain("one container of it stands in two places")
    seen.add(id(described))
    if isinstance(described, dict):
        return {key: _value(value, seen) for key, value in described.items()}
    return type(described)(_value(value, seen) for value in described)


def _made(call: Call) -> Any:
    """The array that a call stands for."""
    if call.name in RECONSTRUCT:
        kind, _, code = call.arguments
        if not isinstance(kind, Named) or (kind.module, kind.name) != ("numpy", "ndarray") or code not in (b"b", "b"):
            raise NotPlain("it makes an array of no known kind")
        _, shape, dtype, fortran, content = call.state
        return _array(shape, dtype, content, fortran=fortran)
    if call.name in FROM_BUFFER:
        content, dtype, shape, order = call.arguments
        return _array(shape, dtype, content, fortran=order in ("F", b"F"))
    raise NotPlain(f"it calls {'.'.join(call.name)}, which no CIFAR file does")


def _array(shape: Any, dtype: Any, content: Any, *, fortran: Any) -> np.ndarray:
    """Bytes as an array, whose size was checked."""
    code = dtype.arguments[0] if isinstance(dtype, Call) and dtype.name == ("numpy", "dtype") else None
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if code not in TYPES:
        raise NotPlain(f"it holds an array of type {code!r}, which no CIFAR file does")
    swapped = isinstance(dtype.state, tuple) and len(dtype.state) > 1 and dtype.state[1] in (">", b">")
    if (
        not isinstance(content, bytes | bytearray)
        or not isinstance(shape, tuple)
        or len(shape) not in (1, 2)
        or swapped
        or fortran
    ):
        raise NotPlain("it holds an array of a form that no CIFAR file has")
    if not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise NotPlain(f"it holds an array of shape {str(shape)[:60]}, which no CIFAR file does")
    rows, columns = (*shape, 1)[:2]
    if rows * columns * TYPES[code] != len(content):
        raise NotPlain(f"it holds {len(content):,} bytes for an array of shape {shape}")
    return np.frombuffer(content, dtype=f"<{code}" if code != "u1" else code).reshape(shape)
