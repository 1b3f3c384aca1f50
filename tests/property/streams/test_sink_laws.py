"""Laws 1, 4 and 7 of the design at the sink: once, in any order and batching, the same bytes."""

import io
from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ids import digest_of_hashes
from schemas.tables import USAGE_EVENTS
from schemas.topics import USAGE
from streams.clickhouse_sink import insert_token
from streams.columns import gather
from streams.decode import Decoded, by_table, decode
from tests.simulation.schedule import run_schedule
from tests.support.events import OCTOBER_MS, HostScript

HOST = HostScript("sink-laws")
for _place in range(40):
    _request = HOST.request(OCTOBER_MS + _place * 60_000, gpu_ns=40_000_000 + _place)
    if _place % 7 == 0:
        HOST.part_of(_request)
HOST.lost(OCTOBER_MS + 90_000)
VALUES = [record.value for record in HOST.records if record.topic == USAGE.name]
NOISE = [b"noise", b"", b"{}", VALUES[0].replace(b'"gpus":1', b'"gpus":1.0')]

logs = st.lists(st.sampled_from([*VALUES, *NOISE, None]), min_size=1, max_size=30)
"""A partition: any records in any order, some of them several times."""


def pieces(log: Sequence[bytes | None], cuts: Sequence[int], first: int = 0) -> list[Decoded]:
    """The log decoded as fetches would bring it, cut anywhere; its first offset is `first`."""
    ends = sorted({cut % (len(log) + 1) for cut in cuts} | {0, len(log)})
    return [
        decode(USAGE.name, 1, range(first + start, first + end), log[start:end])
        for start, end in pairwise(ends)
    ]


def rows_of(decoded: Sequence[Decoded]) -> dict[str, list[dict[str, object]]]:
    return {table.name: gather(parts).to_pylist() for table, parts in by_table(decoded).items()}


def without_transport(rows: Sequence[dict[str, object]]) -> set[str]:
    return {
        repr(
            sorted((key, value) for key, value in row.items() if key not in USAGE_EVENTS.transport)
        )
        for row in rows
    }


def as_bytes(tables: Sequence[pa.Table]) -> bytes:
    whole = gather(tables)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return sink.getvalue()


@given(seed=st.integers(1_000_000, 2**40))
@settings(max_examples=25)
def test_law_1_every_record_is_in_the_ledger_once_whatever_happens(seed: int) -> None:
    """Kills, retries, rebalances, copies and replays are drawn in `tests/simulation`."""
    assert run_schedule(seed).findings == []


@given(log=logs, cuts=st.lists(st.integers(0, 100), max_size=6))
def test_law_1_every_record_becomes_one_row_or_one_refusal(
    log: list[bytes | None], cuts: list[int]
) -> None:
    decoded = pieces(log, cuts)
    offsets = [row["kafka_offset"] for rows in rows_of(decoded).values() for row in rows]
    offsets += [one.offset for piece in decoded for one in piece.refused]
    assert sorted(offsets, key=str) == sorted(range(len(log)), key=str)


@given(
    log=logs,
    cuts=st.lists(st.integers(0, 100), max_size=6),
    luck=st.randoms(use_true_random=False),
)
def test_law_4_any_order_and_any_batching_have_the_same_digest(
    log: list[bytes | None], cuts: list[int], luck: object
) -> None:
    """Copies collapse by content hash, as in the ledger."""

    def digest(decoded: Sequence[Decoded]) -> str:
        rows = [row for table in rows_of(decoded).values() for row in table]
        return digest_of_hashes({row["content_hash"] for row in rows})  # type: ignore[misc]

    shuffled = list(log)
    luck.shuffle(shuffled)  # type: ignore[attr-defined]
    expected = digest(pieces(log, []))
    assert digest(pieces(log, cuts)) == expected
    assert digest(pieces(shuffled, cuts)) == expected


@given(log=logs, cuts=st.lists(st.integers(0, 100), max_size=6))
def test_law_7_the_same_offsets_write_the_same_rows_under_the_same_token(
    log: list[bytes | None], cuts: list[int]
) -> None:
    """However they were fetched: a replay cuts elsewhere."""
    once, again = by_table(pieces(log, [])), by_table(pieces(log, cuts))
    assert once.keys() == again.keys()
    for table, parts in once.items():
        rows, replayed = gather(parts), gather(again[table])
        if table is USAGE_EVENTS:
            # Where fetches are cut decides which way decodes a row, and so what comes first.
            rows, replayed = rows.sort_by("kafka_offset"), replayed.sort_by("kafka_offset")
        assert rows.to_pylist() == replayed.to_pylist()
        bounds = ("usage.v1", 1, 0, len(log))
        assert insert_token(*bounds, rows) == insert_token(*bounds, replayed)


@given(log=logs, cuts=st.lists(st.integers(0, 100), max_size=6))
def test_law_7_the_same_fetches_write_the_same_bytes(
    log: list[bytes | None], cuts: list[int]
) -> None:
    once, again = by_table(pieces(log, cuts)), by_table(pieces(log, cuts))
    for table, parts in once.items():
        assert as_bytes(parts) == as_bytes(again[table])


@given(log=logs, cuts=st.lists(st.integers(0, 100), max_size=6), first=st.integers(1, 2**40))
def test_law_7_at_other_offsets_only_the_transport_columns_differ(
    log: list[bytes | None], cuts: list[int], first: int
) -> None:
    here, there = rows_of(pieces(log, cuts)), rows_of(pieces(log, cuts, first))
    assert here.keys() == there.keys()
    for table, rows in here.items():
        assert without_transport(rows) == without_transport(there[table])
        moved = [int(row["kafka_offset"]) + first for row in rows]  # type: ignore[call-overload]
        assert moved == [row["kafka_offset"] for row in there[table]]
