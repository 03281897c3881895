"""A parquet file in, columns of the types that were asked for out; types that may run code are refused unread.

An extension type is a name that a file's writer put beside a column. Whoever reads the schema has the type built by the
class that registered this name: some unpickle (Ray's `ray.data.arrow_pickled_object`). So a footer is searched for such
a name before anything parses it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

EXTENSION, SCHEMA = b"ARROW:extension:name", b"ARROW:schema"
BASE64 = re.compile(rb"[A-Za-z0-9+/]+")
SEALS = b"sha256"  # key of the table of hashes in a footer
Types = Mapping[str, Sequence[pa.DataType]]


def extension_type(schema: bytes) -> str | None:
    """Of an Arrow schema as it lies in a file: what to call the extension type that it names, or None."""
    if EXTENSION not in schema and b"ray.data." not in schema:
        return None
    known = re.search(rb"ray\.data\.\w+|arrow\.py_extension_type", schema)
    return known[0].decode() if known else "of an extension"


def extension_in(file: IO[bytes]) -> str | None:
    """The same of an open parquet file, which is left at its start; None too where the footer is not whole."""
    footer = _footer(file)
    for place in re.finditer(SCHEMA, footer):
        # Its value, in base64, stands behind a length of a few bytes, which may look like base64 too.
        for begin in range(place.end(), place.end() + 12):
            run = BASE64.match(footer, begin)
            found = extension_type(_decoded(run[0])) if run else None
            if found:
                return found
    return None


def _footer(file: IO[bytes]) -> bytes:
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(0, size - 8 - length))
    footer = file.read(length)
    file.seek(0)
    return footer


def _decoded(text: bytes) -> bytes:
    whole = len(text) - (len(text) % 4 == 1)
    try:
        return base64.b64decode(text[:whole] + b"=" * (-whole % 4))
    except binascii.Error:
        return b""


def sealed_table(columns: Mapping[str, Sequence[Any]], schema: pa.Schema | None = None) -> bytes:
    """A parquet file of columns, with a hash of each in its footer; `read_columns` reads it."""
    table, buffer = pa.table(dict(columns), schema=schema), io.BytesIO()
    seals = {name: _hash(table[name].to_pylist()) for name in table.column_names}
    with pq.ParquetWriter(buffer, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({SEALS.decode(): json.dumps(seals)})
    return buffer.getvalue()


def read_columns(file: IO[bytes], types: Types) -> dict[str, list[Any]]:
    """Some columns of a file that `sealed_table` wrote. types: those that a column may have; null: it may be missing.

    Raises:
        ValueError: an extension type, a column of another type, or one that is not what was written.
        ArrowException, OSError: a file that is torn.
    """
    if (extension := extension_in(file)) is not None:
        raise ValueError(f"it has a column of the type {extension}, which may run code when it is read")
    whole = pq.ParquetFile(file)
    for name, allowed in types.items():
        found = whole.schema_arrow.field(name).type if name in whole.schema_arrow.names else pa.null()
        if found not in allowed:
            raise ValueError(
                f"its column {name} is {'missing' if found == pa.null() else found}, and must be {allowed[0]}"
            )
    table = whole.read(columns=[name for name in types if name in whole.schema_arrow.names])
    absent = [None] * len(table)
    values: dict[str, list[Any]] = {
        name: table[name].to_pylist() if name in table.column_names else absent for name in types
    }
    seals = json.loads((whole.metadata.metadata or {}).get(SEALS, b"{}"))  # an older version wrote none
    for name, column in values.items():
        if not isinstance(seals, dict) or (name in seals and seals[name] not in ("", _hash(column))):
            raise ValueError(f"its column {name} is not what was written: its SHA-256 is another")
    return values


def _hash(values: Sequence[Any]) -> str:
    found = hashlib.sha256()
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode()
        found.update(f"{type(value).__name__} {len(data)} ".encode())
        found.update(data)
    return found.hexdigest()
