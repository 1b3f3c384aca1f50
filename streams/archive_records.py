"""Raw records of one partition as columns: built, digested, written to Parquet and back. Pure.

The content digest is over the records, not over the file: another writer, another compression
or another cut into row groups leaves it as it is.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from schemas.errors import ContractError

ROW_GROUP_RECORDS = 50_000
ZSTD_LEVEL = 3
_WORD = pa.dictionary(pa.int32(), pa.string())
_HEADERS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
SCHEMA = pa.schema(
    [
        pa.field("topic", _WORD, nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("timestamp_type", pa.int32(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", _HEADERS, nullable=False),
    ]
)
"""Everything that the broker keeps of a record. `timestamp_type`: 0 is the producer's time,
1 the broker's. Only key, value and the value of a header may be missing, which is not empty."""

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(slots=True)
class RawRecords:
    """Records of one partition, oldest first; a column each, all of the same length."""

    offsets: list[int] = field(default_factory=list)
    timestamps_ms: list[int] = field(default_factory=list)
    timestamp_types: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)
    size_bytes: int = 0
    """Of keys and values, about."""

    def __len__(self) -> int:
        return len(self.offsets)

    def extend(self, more: "RawRecords") -> None:
        """Append records that follow."""
        self.offsets += more.offsets
        self.timestamps_ms += more.timestamps_ms
        self.timestamp_types += more.timestamp_types
        self.keys += more.keys
        self.values += more.values
        self.headers += more.headers
        self.size_bytes += more.size_bytes

    def without_those_before(self, offset: int) -> "RawRecords":
        """Those from `offset` on; the same object where none lies before it."""
        gone = sum(one < offset for one in self.offsets)
        if not gone:
            return self
        return RawRecords(
            self.offsets[gone:],
            self.timestamps_ms[gone:],
            self.timestamp_types[gone:],
            self.keys[gone:],
            self.values[gone:],
            self.headers[gone:],
            self.size_bytes,
        )


def table_of_records(topic: str, partition: int, records: RawRecords) -> pa.Table:
    """The records as an Arrow table of `SCHEMA`."""
    count = len(records)
    zeros = pa.repeat(pa.scalar(0, pa.int32()), count)
    headers = [[{"key": key, "value": value} for key, value in one] for one in records.headers]
    columns = [
        pa.DictionaryArray.from_arrays(zeros, [topic]),
        pa.repeat(pa.scalar(partition, pa.int32()), count),
        pa.array(records.offsets, pa.int64()),
        pa.array(records.timestamps_ms, pa.int64()),
        pa.array(records.timestamp_types, pa.int32()),
        pa.array(records.keys, pa.binary()),
        pa.array(records.values, pa.binary()),
        pa.array(headers, _HEADERS),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def to_parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file, compressed by zstd, each page with its checksum."""
    sink = pa.BufferOutputStream()
    parquet.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP_RECORDS,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=["topic"],
        column_encoding={"offset": "DELTA_BINARY_PACKED", "timestamp_ms": "DELTA_BINARY_PACKED"},
        write_statistics=["offset", "timestamp_ms"],
        write_page_checksum=True,
        store_schema=True,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_parquet(content: bytes) -> pa.Table:
    """The records of a file that `to_parquet` made.

    Raises:
        ContractError: If it is no such file.
    """
    try:
        table = parquet.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"not a Parquet file: {error}") from error
    if not table.schema.equals(SCHEMA):
        raise ContractError(f"columns {table.schema.names} are not those of an archive")
    return table


def batches_of(content: bytes, rows: int) -> Iterator[tuple[list[int], list[bytes | None]]]:
    """Offsets and values of a file in pieces of at most `rows`; memory holds two row groups.

    Raises:
        ContractError: If it is no file that `to_parquet` made.
    """
    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        for batch in file.iter_batches(rows, columns=["offset", "value"]):
            yield batch.column("offset").to_pylist(), batch.column("value").to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ContractError(f"not a Parquet file of records: {error}") from error


def content_sha256(table: pa.Table) -> str:
    """SHA-256 over every record's every field, as hex.

    For each column in the order of `SCHEMA`: its name, how many values follow, then numbers as
    8 bytes (little-endian) each, and texts as all their lengths (-1 where there is none) before
    all their bytes. A header list is its length, then its keys and values as two columns.
    """
    running = hashlib.sha256(b"rentroll archive records 1")
    for name in SCHEMA.names:
        column = table.column(name)
        if name == "topic":
            column = column.cast(pa.string())
        _add(running, name, column.combine_chunks())
    return running.hexdigest()


def _add(running: "hashlib._Hash", name: str, column: pa.Array) -> None:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    running.update(f"{name} {len(column)} ".encode())
    if pa.types.is_integer(column.type):
        running.update(_numbers(column))
    elif pa.types.is_list(column.type):
        running.update(_numbers(pc.list_value_length(column)))
        inner = column.flatten()
        _add(running, f"{name}.key", inner.field("key"))
        _add(running, f"{name}.value", inner.field("value"))
    else:
        running.update(_numbers(pc.fill_null(pc.binary_length(column), -1)))
        running.update(_joined(column.drop_null()))


def _numbers(column: pa.Array) -> memoryview:
    wide = pc.cast(column, pa.int64())
    return memoryview(wide.buffers()[1] or b"")[wide.offset * 8 : (wide.offset + len(wide)) * 8]


def _joined(column: pa.Array) -> memoryview:
    if not len(column):
        return memoryview(b"")
    offsets = memoryview(column.buffers()[1]).cast("i")
    first, last = offsets[column.offset], offsets[column.offset + len(column)]
    return memoryview(column.buffers()[2] or b"")[first:last]
