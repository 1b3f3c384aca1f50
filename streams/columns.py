"""Arrow columns of the ledger's tables: which type each takes, and tables made from plain rows."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from typing import Any

import pyarrow as pa

from schemas.tables import Table

# A UUID travels as its 16 bytes; a dictionary saves ClickHouse from hashing every string again.
_SCALARS = {
    "String": pa.string(),
    "LowCardinality(String)": pa.dictionary(pa.int32(), pa.string()),
    "UUID": pa.binary(16),
    "FixedString(16)": pa.binary(16),
    "Bool": pa.bool_(),
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Int64": pa.int64(),
    "DateTime64(3, 'UTC')": pa.timestamp("ms", "UTC"),
}
_BYTES = {("dead_letters", "value"): pa.binary()}
"""Columns that ClickHouse calls String but that hold bytes of any kind."""


def arrow_type(clickhouse_type: str) -> pa.DataType:
    """The Arrow type in which we hand over a column.

    Raises:
        KeyError: If ingest writes no column of that type.
    """
    inner = clickhouse_type.removeprefix("Array(")
    if inner != clickhouse_type:
        return pa.list_(arrow_type(inner.removesuffix(")")))
    return _SCALARS[clickhouse_type]


@cache
def arrow_schema(table: Table) -> pa.Schema:
    """The schema of every Arrow table that goes into `table`: its columns, in its order."""
    return pa.schema(
        (column.name, _BYTES.get((table.name, column.name)) or arrow_type(column.type))
        for column in table.columns
    )


class _NoPandas(MetaPathFinder):
    """Stands before all other finders, and says that pandas is not installed."""

    def find_spec(self, fullname: str, *_more: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def warm_up() -> None:
    """Make Arrow ready, without pandas; call it once, when a worker starts.

    Arrow's first array imports pandas where that is installed: 60 MB and a second of CPU, for
    nothing here. Who imports it himself, later, still gets it.
    """
    nowhere = _NoPandas()
    sys.meta_path.insert(0, nowhere)
    try:
        pa.array([""])
    finally:
        sys.meta_path.remove(nowhere)


def table_of_rows(table: Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Turn rows into an Arrow table; each row names every column of `table`.

    UUIDs are 16 bytes, instants are milliseconds since the epoch.

    Raises:
        KeyError: If a row lacks a column.
        pyarrow.ArrowInvalid: If a value does not fit its column.
    """
    columns = []
    for field in arrow_schema(table):
        values = [row[field.name] for row in rows]
        if pa.types.is_dictionary(field.type):
            columns.append(pa.array(values, pa.string()).dictionary_encode())
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=arrow_schema(table))


def gather(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of one chunk per column out of several tables of the same schema."""
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()
