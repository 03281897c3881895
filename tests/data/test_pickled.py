"""A CIFAR pickle is read as a description: what it says comes out, and nothing that it names is done."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_synth.config import Data
from ray_synth.data.pickled import NotPlain, plain_values
from ray_synth.data.readers import read_images
from ray_synth.errors import InputError

PIXELS = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype(np.uint8)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", [str, str.encode])
def test_every_protocol_says_the_same(protocol: int, text: Any) -> None:
    content = {text("data"): PIXELS, text("labels"): [3, 300], text("filenames"): [text("a.png"), text("b.png")]}
    found = plain_values(pickle.dumps(content, protocol=protocol))
    assert list(found) == list(content)
    assert np.array_equal(found[text("data")], PIXELS)
    assert {**found, text("data"): 0} == {**content, text("data"): 0}


def python2(data: bytes = PIXELS.tobytes(), shape: tuple[int, int] = (2, 3072), dtype: bytes = b"u1") -> bytes:
    """As cPickle of Python 2 wrote the releases: protocol 2, text as SHORT_BINSTRING."""
    parts = [
        b"\x80\x02}(U\x0bbatch_labelU\x03oneU\x06labels](K\x03K\x05eU\x04datacnumpy.core.multiarray\n_reconstruct\n"
    ]
    parts += [b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01", b"".join(b"J" + struct.pack("<i", n) for n in shape)]
    parts += [
        b"\x86cnumpy\ndtype\nU" + bytes([len(dtype)]) + dtype + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    ]
    parts += [b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tbu."]
    return b"".join(parts)


def test_what_python_2_wrote_is_read() -> None:
    assert pickle.loads(python2(), encoding="bytes").keys() == {b"batch_label", b"labels", b"data"}  # noqa: S301 - ours
    found = plain_values(python2())
    assert (found[b"batch_label"], found[b"labels"]) == (b"one", [3, 5])
    assert np.array_equal(found[b"data"], PIXELS)
    assert plain_values(b"(dp1\nS'num'\np2\nI12\nsS'names'\n(lp3\nS'cat'\nas.") == {b"num": 12, b"names": [b"cat"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python2(shape=(2, 4000)), r"6,144 bytes for an array of shape \(2, 4000\)"),
        (python2(data=b""), r"0 bytes for an array of shape \(2, 3072\)"),
        (python2(shape=(-2, -3072)), r"an array of shape \(-2, -3072\)"),
        (python2(shape=(2**31 - 1, 2**31 - 1)), "bytes for an array of shape"),
        (python2(dtype=b"O"), "an array of type 'O'"),
        (python2(dtype=b"V3072"), "an array of type 'V3072'"),
        (python2()[:-100], "make no sense"),
        (python2()[:-1], "make no sense|is cut off"),
        (b"", "make no sense|is cut off"),
        (b"cnumpy\nndarray\n(K\x02\x85cnumpy\ndtype\nU\x02u1\x85RtR.", "calls numpy.ndarray, which no CIFAR file does"),
        (b"cos\nsystem\n(U\x02lstR.", "names os.system, which no CIFAR file does"),
        (b"(U\x02osU\x06systemios\nsystem\n.", "opcode INST"),
        (b"]q\x00(h\x00h\x00e.", "in two places"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b".", "make no sense|is cut off"),
        (b"B\xff\xff\xff\xffabc.", "make no sense"),
        (b"cnumpy\nndarray\n.", "a name in it stands for nothing"),
        (b"K\x01K\x02b.", "sets the state of something that has none"),
    ],
)
def test_what_no_release_holds_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(NotPlain, match=message):
        plain_values(content)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(at=st.integers(0, 400), put=st.binary(max_size=4), gone=st.integers(0, 4))
def test_a_spoiled_pickle_is_refused_or_plain(at: int, put: bytes, gone: int) -> None:
    content = python2(data=bytes(16), shape=(2, 8))
    try:
        found = plain_values(content[:at] + put + content[at + gone :])
    except NotPlain:
        return
    kinds = (type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, np.ndarray)
    flat = [*found, *found.values()] if isinstance(found, dict) else [found]
    assert all(isinstance(value, kinds) for value in flat)


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        content: dict[str, Any] = {"label_names": ["a", "b"], "data": PIXELS, "labels": [0, "b"]}
        (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"data_batch_1 does not hold uint8 \[N,3072\] pixels"):
        read_images(Data(kind="cifar10", path=str(tmp_path)))
