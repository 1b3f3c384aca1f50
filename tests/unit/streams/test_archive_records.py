"""Raw records keep every byte in Parquet, and their digest is over the records alone."""

import hashlib

import pyarrow as pa
import pytest
from pyarrow import parquet

from schemas.errors import ContractError
from streams.archive_records import (
    RawRecords,
    batches_of,
    content_sha256,
    from_parquet,
    table_of_records,
    to_parquet,
)
from tests.support.archives import raw_records

VALUES = [b'{"a":1}', None, b"", b"\xff\x00", b"x" * 5_000]


def table(records: RawRecords | None = None) -> pa.Table:
    return table_of_records("usage.v1", 3, records or raw_records(VALUES, 7))


def test_every_field_comes_back_and_missing_is_not_empty() -> None:
    back = from_parquet(to_parquet(table()))
    assert back.equals(table())
    assert back.column("value").to_pylist() == VALUES
    assert back.column("key").to_pylist()[:2] == [None, b"key 1"]
    assert back.column("headers").to_pylist()[2] == [
        {"key": "trace", "value": b"2"},
        {"key": "empty", "value": None},
    ]
    assert set(back.column("topic").to_pylist()) == {"usage.v1"}


def test_the_same_records_are_the_same_bytes() -> None:
    assert to_parquet(table()) == to_parquet(table())


def test_digest_is_of_the_records_and_not_of_the_file() -> None:
    sink = pa.BufferOutputStream()
    parquet.write_table(table(), sink, compression="gzip", row_group_size=2)
    other = from_parquet(sink.getvalue().to_pybytes())
    assert sink.getvalue().to_pybytes() != to_parquet(table())
    assert content_sha256(other) == content_sha256(table()) == content_sha256(table().slice(0))


def test_digest_of_a_slice_is_that_of_its_records() -> None:
    part = raw_records(VALUES, 7).without_those_before(9)
    assert content_sha256(table().slice(2)) == content_sha256(table(part))


@pytest.mark.parametrize("field", ["offsets", "timestamps_ms", "timestamp_types"])
def test_digest_covers_numbers(field: str) -> None:
    records = raw_records(VALUES, 7)
    getattr(records, field)[-1] += 1
    assert content_sha256(table(records)) != content_sha256(table())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("values", b""),
        ("keys", b"x"),
        ("headers", [("trace", b"0")]),
        ("headers", [("tracf", b"1")]),
        ("headers", []),
    ],
)
def test_digest_covers_keys_values_and_headers(field: str, value: object) -> None:
    records = raw_records(VALUES, 7)
    getattr(records, field)[1] = value
    assert content_sha256(table(records)) != content_sha256(table())


def test_digest_tells_where_one_value_ends_and_the_next_begins() -> None:
    one, other = raw_records([b"ab", b"c"]), raw_records([b"a", b"bc"])
    assert content_sha256(table(one)) != content_sha256(table(other))


def test_digest_is_written_down() -> None:
    """By hand, as its docstring says it: who has only the text can check an archive."""
    records = RawRecords([5], [6], [1], [b"k"], [None], [[("h", b"v")]])
    expected = hashlib.sha256(b"rentroll archive records 1")

    def numbers(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "little", signed=True) for value in values)

    for part in (
        *(b"topic 1 ", numbers(8), b"usage.v1", b"partition 1 ", numbers(3)),
        *(b"offset 1 ", numbers(5), b"timestamp_ms 1 ", numbers(6)),
        *(b"timestamp_type 1 ", numbers(1), b"key 1 ", numbers(1), b"k"),
        *(b"value 1 ", numbers(-1), b"headers 1 ", numbers(1)),
        *(b"headers.key 1 ", numbers(1), b"h", b"headers.value 1 ", numbers(1), b"v"),
    ):
        expected.update(part)
    assert content_sha256(table(records)) == expected.hexdigest()


def test_batches_bring_offsets_and_values_in_order() -> None:
    found = list(batches_of(to_parquet(table()), 2))
    assert [offsets for offsets, _ in found] == [[7, 8], [9, 10], [11]]
    assert [value for _, values in found for value in values] == VALUES


def test_a_file_that_is_none_is_refused() -> None:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"offset": [1]}), sink)
    for content in (b"", b"PAR1", b"noise" * 100, sink.getvalue().to_pybytes()):
        with pytest.raises(ContractError):
            from_parquet(content)
        with pytest.raises(ContractError):
            list(batches_of(content, 10))
