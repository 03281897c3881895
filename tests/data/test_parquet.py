"""Parquet files that were changed, or that ask for code: what comes back is what was written, or nothing."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_synth.data.parquet import extension_in, read_columns, sealed_table

SCHEMA = pa.schema([("key", pa.string()), ("image", pa.binary()), ("seed", pa.int64())])
TYPES = {name: [SCHEMA.field(name).type] for name in SCHEMA.names}
ROWS = {"key": ["a", "b", "c"], "image": [b"one" * 40, b"", b"three"], "seed": [1, None, 2**62]}
FILE = sealed_table(ROWS, SCHEMA)


def read(data: bytes, types: Any = TYPES) -> dict[str, list[Any]]:
    return read_columns(io.BytesIO(data), types)


def test_what_was_written_comes_back() -> None:
    assert read(FILE) == ROWS
    assert read(FILE, {"seed": TYPES["seed"]}) == {"seed": ROWS["seed"]}
    vectors = {"value": [[0.1, 0.2], [0.3]]}
    assert read(sealed_table(vectors), {"value": [pa.string(), pa.list_(pa.float64())]}) == vectors
    assert pq.read_table(io.BytesIO(FILE)).to_pydict() == ROWS  # as others read it


@given(place=st.integers(0, len(FILE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_changes_nothing(place: int, bit: int) -> None:
    changed = bytearray(FILE)
    changed[place] ^= 1 << bit
    try:
        found = read(bytes(changed))
    except (ValueError, OSError, KeyError, MemoryError, pa.ArrowException):
        return
    assert found == ROWS


@given(length=st.integers(0, len(FILE) - 1))
def test_a_torn_file_is_noticed(length: int) -> None:
    with pytest.raises((ValueError, OSError)):
        read(FILE[:length])


def test_other_values_under_the_old_hash_are_noticed() -> None:
    table = pq.read_table(io.BytesIO(FILE))
    other = table.set_column(1, "image", pa.array([b"other"] * 3, pa.binary()))
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, other.schema) as writer:
        writer.write_table(other)
        writer.add_key_value_metadata(pq.read_metadata(io.BytesIO(FILE)).metadata)
    assert read(buffer.getvalue(), {"key": TYPES["key"]})["key"] == ROWS["key"]
    with pytest.raises(ValueError, match="column image is not what was written"):
        read(buffer.getvalue())


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({**ROWS, "seed": ["1", "2", "3"]}, "column seed is string, and must be int64"),
        ({"key": ["a"], "image": [b""]}, "column seed is missing"),
        ({**ROWS, "image": ["a", "b", "c"]}, "column image is string"),
    ],
)
def test_a_column_of_another_type_is_refused(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(sealed_table(columns))


class Built(pa.ExtensionType):
    """A type that does something when a schema that names it is read."""

    ran: Path

    def __init__(self) -> None:
        super().__init__(pa.binary(), "tests.built")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Built:
        os.close(os.open(cls.ran, os.O_CREAT))
        return cls()


@pytest.fixture
def registered(tmp_path: Path) -> Any:
    Built.ran = tmp_path / "ran"
    pa.register_extension_type(Built())
    yield Built.ran
    pa.unregister_extension_type("tests.built")


@pytest.mark.parametrize("letters", range(12))  # where the schema begins in its base64, and how long it is
@pytest.mark.parametrize("nested", [False, True])
def test_an_extension_type_is_refused_before_it_is_built(registered: Path, letters: int, nested: bool) -> None:
    harm: Any = pa.ExtensionArray.from_storage(Built(), pa.array([b"x"], pa.binary()))
    if nested:
        harm = pa.StructArray.from_arrays([harm], ["inner"])
    buffer = io.BytesIO()
    table = pa.table({"key": ["a"], "image": harm, "seed": [1], "x" * (letters + 1): [1]})
    pq.write_table(table.replace_schema_metadata({"note": "y" * letters}), buffer)
    assert extension_in(io.BytesIO(buffer.getvalue())) is not None
    with pytest.raises(ValueError, match="may run code when it is read"):
        read(buffer.getvalue())
    assert not registered.exists()
    pq.read_schema(io.BytesIO(buffer.getvalue()))
    assert registered.exists()  # as whoever does not look would have it


def test_a_second_schema_in_the_footer_hides_no_type(registered: Path) -> None:
    """Of a key that stands twice some readers take the first, others the last."""
    harm = pa.ExtensionArray.from_storage(Built(), pa.array([b"x"], pa.binary()))
    schema = base64.b64encode(pa.table({"image": harm}).schema.serialize())
    buffer, table = io.BytesIO(), pa.table(ROWS, schema=SCHEMA)
    with pq.ParquetWriter(buffer, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"arrow:schema": schema})
    twice = buffer.getvalue().replace(b"arrow:schema", b"ARROW:schema")
    with pytest.raises(ValueError, match="may run code"):
        read(twice)
    assert not registered.exists()
