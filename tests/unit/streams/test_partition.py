"""One partition: what is admitted, when a range is written, what a promise binds."""

from dataclasses import replace

import pytest

from schemas.errors import IngestError
from streams.partition import Limits, Partition, Piece, Run, promise, promised_end

LIMITS = Limits(rows=10, size_bytes=1_000, quiet_s=1.0, wait_s=3.0)


def fetched(start: int, end: int, *, holes: set[int] = frozenset()) -> Run:  # type: ignore[assignment]
    offsets = [offset for offset in range(start, end) if offset not in holes]
    return Run(start, end, offsets, [b"%d" % offset for offset in offsets])


def piece(run: Run, size: int = 0) -> Piece[str]:
    return Piece(run.start, run.end, len(run.offsets), size, f"{run.start}-{run.end}")


def feed(partition: Partition[str], run: Run, now_s: float = 0.0) -> None:
    for admitted in partition.admit(run):
        partition.add(piece(admitted), now_s)


def fresh(written: int = 100, promised: int | None = None) -> Partition[str]:
    return Partition(written=written, promised=promised, confirmed=written)


def write(partition: Partition[str], now_s: float = 0.0) -> tuple[int, int]:
    """Go through the protocol once; returns the range."""
    pieces = partition.take(LIMITS, now_s)
    start, end = partition.written, pieces[-1].end
    if partition.promised is None:
        partition.promise_made(end)
    partition.range_written()
    return start, end


def test_a_range_is_written_when_it_has_rows_enough() -> None:
    partition = fresh()
    partition.log_end = 500
    feed(partition, fetched(100, 109))
    assert not partition.ready(LIMITS, 0.5)
    feed(partition, fetched(109, 110))
    assert partition.ready(LIMITS, 0.5)
    assert write(partition) == (100, 110)


def test_a_range_is_written_when_it_has_bytes_enough() -> None:
    partition = fresh()
    partition.add(piece(fetched(100, 101), size=1_000), 0.0)
    assert partition.ready(LIMITS, 0.0)


def test_a_range_is_written_when_no_record_came_for_a_while() -> None:
    partition = fresh()
    feed(partition, fetched(100, 101), now_s=5.0)
    assert not partition.ready(LIMITS, 5.9)
    assert partition.ready(LIMITS, 6.0)


def test_a_range_may_grow_while_the_log_holds_more() -> None:
    partition = fresh()
    partition.log_end = 500
    feed(partition, fetched(100, 105))
    assert not partition.ready(LIMITS, 2.9)
    assert partition.ready(LIMITS, 3.0)


def test_a_range_is_written_in_time_however_steadily_records_trickle_in() -> None:
    partition = fresh()
    for second in range(4):
        feed(partition, fetched(100 + second, 101 + second), now_s=second * 0.9)
    many = replace(LIMITS, rows=100)
    assert not partition.ready(many, 2.9)
    assert partition.ready(many, 3.0)


def test_a_range_that_is_worth_an_insert_is_written_at_once_at_the_end_of_the_log() -> None:
    partition = fresh()
    feed(partition, fetched(100, 102))
    assert not partition.ready(LIMITS, 0.0)
    feed(partition, fetched(102, 103))
    assert partition.ready(LIMITS, 0.0)
    partition.log_end = 104
    assert not partition.ready(LIMITS, 0.0)


def test_nothing_is_written_where_nothing_waits() -> None:
    assert not fresh().ready(LIMITS, 1e9)
    assert not fresh(promised=120).ready(LIMITS, 1e9)


def test_a_promised_range_is_written_exactly_however_it_is_fetched() -> None:
    partition = fresh(promised=115)
    feed(partition, fetched(100, 104))
    assert not partition.ready(LIMITS, 1e9), "a promise is not kept in part"
    feed(partition, fetched(104, 130))
    assert partition.ready(LIMITS, 0.0)
    assert write(partition) == (100, 115)
    assert write(partition) == (115, 130)


def test_a_promised_range_may_end_in_a_hole() -> None:
    partition = fresh(promised=115)
    feed(partition, fetched(100, 112, holes={110, 111}))
    feed(partition, fetched(112, 120, holes={112, 113, 114}))
    assert write(partition) == (100, 115)
    assert write(partition) == (115, 120)


def test_what_is_known_is_not_admitted_again() -> None:
    partition = fresh()
    feed(partition, fetched(100, 105))
    assert partition.admit(fetched(100, 105)) == []
    (run,) = partition.admit(fetched(102, 108))
    assert (run.start, run.end, list(run.offsets)) == (105, 108, [105, 106, 107])


def test_a_fetch_behind_a_gap_is_refused() -> None:
    with pytest.raises(IngestError, match="starts at 101, expected was 100"):
        fresh().admit(fetched(101, 105))


def test_records_that_arrive_while_a_range_is_written_continue_it() -> None:
    partition = fresh()
    feed(partition, fetched(100, 110))
    partition.take(LIMITS, 0.0)
    partition.promise_made(110)
    assert partition.expected == 110
    feed(partition, fetched(110, 140))
    assert not partition.ready(LIMITS, 1e9), "one range at a time"
    partition.range_written()
    assert write(partition) == (110, 140)


def test_a_range_is_confirmed_by_the_next_promise_only() -> None:
    partition = fresh()
    feed(partition, fetched(100, 110))
    write(partition)
    assert (partition.written, partition.confirmed) == (110, 100)
    assert not partition.settled
    feed(partition, fetched(110, 120))
    partition.take(LIMITS, 0.0)
    partition.promise_made(120)
    assert partition.confirmed == 110


def test_a_plain_commit_settles_a_partition_that_has_nothing_to_do() -> None:
    partition = fresh()
    feed(partition, fetched(100, 110))
    write(partition)
    partition.settled_up_to_written()
    assert partition.settled
    feed(partition, fetched(110, 111))
    assert not partition.settled


def test_a_range_holds_no_more_than_its_limit_but_at_least_one_fetch() -> None:
    partition = fresh()
    for start in range(100, 130, 6):
        feed(partition, fetched(start, start + 6))
    assert write(partition) == (100, 106)
    partition = fresh()
    feed(partition, fetched(100, 150))
    assert write(partition) == (100, 150)


def test_a_partition_is_full_when_a_range_waits_unless_a_promise_needs_more() -> None:
    partition = fresh()
    feed(partition, fetched(100, 110))
    assert partition.full(LIMITS)
    bound = fresh(promised=200)
    feed(bound, fetched(100, 150))
    assert not bound.full(LIMITS), "it would wait for ever"
    feed(bound, fetched(150, 200))
    assert bound.full(LIMITS)


def test_what_retention_removed_is_skipped() -> None:
    partition = fresh(promised=110)
    partition.skip_to(105)
    feed(partition, fetched(105, 110))
    assert write(partition) == (105, 110)
    gone = fresh(promised=110)
    gone.skip_to(120)
    assert gone.promised is None
    with pytest.raises(IngestError, match="cannot skip"):
        gone.skip_to(119)


def test_writing_without_a_promise_is_refused() -> None:
    with pytest.raises(IngestError, match="without a promise"):
        fresh().range_written()


def test_a_promise_is_read_back_as_it_was_made() -> None:
    assert promised_end(promise(250), 100) == 250
    assert promised_end("", 100) is None


@pytest.mark.parametrize("metadata", ["x", "{}", "[]", '{"e":"9"}', '{"e":true}', '{"e":100}', "7"])
def test_metadata_of_another_program_stops_ingest(metadata: str) -> None:
    with pytest.raises(IngestError, match="commit metadata"):
        promised_end(metadata, 100)
