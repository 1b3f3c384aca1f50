"""Law 7: the same records, read again and cut anywhere, write the same bytes."""

from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import Table
from streams.archive_records import batches_of, from_parquet, table_of_records, to_parquet
from streams.columns import gather
from streams.decode import Decoded, Refused, decode
from streams.record_batch import RecordBatch
from streams.replay_reading import regrouped
from tests.support.archives import raw_records
from tests.support.ingest_log import traffic

HOST = traffic("replayed", 60)
EVENTS = {
    topic: [one.value for one in HOST.records if one.topic == topic]
    for topic in ("usage.v1", "capacity.v1", "control.v1")
}
TRANSPORT = ("topic", "kafka_partition", "kafka_offset")
noise = st.none() | st.binary(max_size=20) | st.sampled_from([b"{}", b"[1]", b"\xff"])


@st.composite
def logs(draw: st.DrawFn) -> tuple[str, list[bytes | None]]:
    """Events of one topic in any order, some of them often, with noise between them."""
    topic = draw(st.sampled_from(sorted(EVENTS)))
    kinds = st.sampled_from(EVENTS[topic]) | noise
    return topic, draw(st.lists(kinds, min_size=1, max_size=30))


def rows_as_bytes(parts: Sequence[Decoded], *, transport: bool = True) -> dict[Table, bytes]:
    """Every table's rows as Arrow's own format writes them, of plain values."""
    found = {}
    for table in {table for part in parts for table in part.tables}:
        rows = gather([part.tables[table] for part in parts if table in part.tables])
        if not transport:
            rows = rows.drop_columns([name for name in TRANSPORT if name in rows.column_names])
        rows = rows.sort_by("kafka_offset") if transport else rows
        plain = pa.Table.from_pylist(rows.to_pylist())
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, plain.schema) as stream:
            stream.write_table(plain)
        found[table] = sink.getvalue().to_pybytes()
    return found


def refused(parts: Sequence[Decoded]) -> list[Refused]:
    return sorted((one for part in parts for one in part.refused), key=lambda one: one.offset)


@given(log=logs(), cuts=st.lists(st.integers(1, 30), max_size=4), rows=st.integers(1, 12))
def test_records_from_the_archive_write_the_bytes_that_they_wrote_from_kafka(
    log: tuple[str, list[bytes | None]], cuts: list[int], rows: int
) -> None:
    topic, values = log
    records = raw_records(values, 5)
    at_first = [decode(topic, 1, records.offsets, values)]
    borders = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    again = []
    for start, end in pairwise(borders):
        part = raw_records(values[start:end], 5 + start)
        content = to_parquet(from_parquet(to_parquet(table_of_records(topic, 1, part))))
        for offsets, batch in batches_of(content, rows):
            again.append(decode(topic, 1, offsets, batch))
    assert rows_as_bytes(again) == rows_as_bytes(at_first)
    assert refused(again) == refused(at_first)


@given(log=logs(), offset=st.integers(0, 10**9), partition=st.integers(0, 9))
def test_records_that_lie_elsewhere_write_the_same_but_for_where_they_lay(
    log: tuple[str, list[bytes | None]], offset: int, partition: int
) -> None:
    topic, values = log
    here = decode(topic, 1, list(range(len(values))), values)
    there = decode(topic, partition, [offset + n for n in range(len(values))], values)
    assert rows_as_bytes([here], transport=False) == rows_as_bytes([there], transport=False)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), max_size=20),
    rows=st.integers(1, 20),
)
def test_regrouping_keeps_every_record_in_its_partitions_order(
    sizes: list[tuple[int, int]], rows: int
) -> None:
    ends = {0: 0, 1: 0, 2: 0}
    batches, sent = [], {0: list[int](), 1: list[int](), 2: list[int]()}
    for partition, size in sizes:
        start = ends[partition]
        ends[partition] = end = start + size
        offsets = list(range(start, end))
        sent[partition] += offsets
        batches.append(
            RecordBatch(
                "usage.v1", partition, start, end, 999, offsets[:], [b"%d" % n for n in offsets]
            )
        )
    found = {0: list[int](), 1: list[int](), 2: list[int]()}
    for batch in regrouped(iter(batches), rows):
        assert batch.values == [b"%d" % n for n in batch.offsets]
        assert (batch.start, batch.end) == (batch.offsets[0], batch.offsets[-1] + 1)
        found[batch.partition] += batch.offsets
    assert found == sent
