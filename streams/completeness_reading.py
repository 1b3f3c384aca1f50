"""Reads from the ledger and the store what is proven of every source, in bounded batches."""

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from infra.clickhouse.client import Client, ExternalData, external
from schemas.control import SourceClosed, SourceClosedData, SourceOpened
from schemas.fleet import SignedRange
from schemas.ids import CONTENT_HASH_BYTES
from schemas.topics import event_type
from schemas.usage import UsageLostData
from streams.completeness import SourceState, Watermark, crossing_watermarks
from streams.completeness_decisions import Decisions
from streams.completeness_engines import IntervalFacts, PartsSum, TimeLine, check_engine
from streams.completeness_ranges import Problem, RangeClaim, RangeVerifier, Records
from streams.completeness_sql import (
    BATCH,
    CONTROL_ROWS,
    FIRST_SEEN,
    INTERVAL_COUNTS,
    OFFSETS,
    REJECTED,
    SPANS,
    interval_rows,
    parts_by_interval,
    record_stream,
)
from streams.registered_sources import TrustedSource, trusted_sources
from streams.rollup_sql import HourRange, Offsets
from streams.settings import StreamSettings

_OPENED = event_type(SourceOpened)
_CLOSED = event_type(SourceClosed)
_STREAMING = {
    "wait_end_of_query": 0,
    "max_bytes_before_external_sort": 500_000_000,
}
"""Rows leave while they are read, and a sort larger than this goes to the server's disk."""
_END_OF_TIME_MS = 4_102_444_800_000
_U32_BYTES = 4


@dataclass(slots=True)
class Ledger:
    """What every question to the ledger needs: the client, and how far the log had been read."""

    client: Client
    offsets: Offsets
    settings: StreamSettings


@dataclass(slots=True)
class _Job:
    """One source while its batch is read."""

    registered: TrustedSource
    state: SourceState
    claims: list[RangeClaim] = field(default_factory=list)
    intervals: list[tuple[str, IntervalFacts]] = field(default_factory=list)
    verifier: RangeVerifier | None = None
    closed: bool = False


def read_offsets(client: Client) -> Offsets:
    """The highest offset present in the ledger, plus one, per topic and partition.

    From the ledger itself and not from the consumer group: what was read is what is there, and
    it can be said again when the group is gone. That nothing below is missing is not taken from
    the offsets at all; the sources' sequences prove it.
    """
    rows = client.query(OFFSETS).result_rows
    return Offsets({(topic, partition): until for topic, partition, until in rows})


def read_sources(
    ledger: Ledger,
    store: Engine,
    decisions: Decisions,
    hours: HourRange,
    only: Collection[str] | None = None,
) -> tuple[list[SourceState], bool]:
    """What is proven of every registered source that matters to `hours`, oldest first.

    The flag says whether any source is known at all, also one that does not matter. A source
    that closed before the first hour does not matter any more: whatever it sent is older. Memory
    is bounded by the engine intervals of one batch of sources. `only` leaves out all others.
    """
    jobs, any_source = _jobs(ledger, trusted_sources(store, decisions, only), hours)
    tails: dict[str, IntervalFacts] = {}
    active = [job for job in jobs if job.state.opened_ms is not None]
    for batch in _batches(ledger, active):
        _prove_batch(ledger, batch, decisions, tails)
    return [job.state for job in jobs], any_source


def _jobs(
    ledger: Ledger, registered: Sequence[TrustedSource], hours: HourRange
) -> tuple[list[_Job], bool]:
    """Every source with what its control events say, without those that cannot matter."""
    found = {
        one.source: _Job(one, SourceState(one.source, one.host, one.registered_ms))
        for one in registered
    }
    batch = _batch_table(list(found))
    rows = ledger.client.query(
        CONTROL_ROWS.format(offsets=ledger.offsets.condition()),
        external_data=external(batch=batch),
    ).result_rows
    for source, sequence, kind, time_ms, body in rows:
        job = found[source]
        if kind == _OPENED:
            known = job.state.opened_ms
            job.state.opened_ms = time_ms if known is None else min(known, time_ms)
        elif kind == _CLOSED:
            _take_closing(job, sequence, time_ms, SourceClosedData.model_validate_json(body))
        else:
            lost = UsageLostData.model_validate_json(body)
            job.state.lost_notices.append((sequence, lost.requests))
    unseen = [source for source, job in found.items() if job.state.opened_ms is None]
    if unseen:
        _take_first_seen(ledger, found, unseen)
    for job in found.values():
        job.registered.end_with_trust(job.state)
    still_sending = _interval_counts(ledger, list(found), since_ms=hours.first_ms)
    any_source = any(job.state.opened_ms is not None for job in found.values())
    matter = (job for job in found.values() if _matters(job.state, hours, still_sending))
    ordered = sorted(matter, key=lambda job: (job.state.opened_ms or 0, job.state.source))
    return ordered, any_source


def _matters(state: SourceState, hours: HourRange, still_sending: Mapping[str, int]) -> bool:
    """A copied closing with an older time must not hide a source that still sends intervals."""
    if state.opened_ms is not None and state.opened_ms >= hours.end_ms:
        return False
    closed_before = state.closed_ms is not None and state.closed_ms < hours.first_ms
    return not closed_before or state.source in still_sending


def _take_closing(job: _Job, sequence: int, time_ms: int, closing: SourceClosedData) -> None:
    signed, state = closing.range, job.state
    if not job.registered.signed("closed", signed):
        state.unsigned_ranges += 1
        return
    job.claims.append(RangeClaim(signed.sequence_first, signed.sequence_last, signed.sha256))
    job.closed = True
    state.final_sequence = sequence
    state.closed_ms = max(time_ms, state.closed_ms or 0)


def _take_first_seen(ledger: Ledger, found: Mapping[str, _Job], unseen: Sequence[str]) -> None:
    """A source whose opening is lost still opened: at the latest when its first event arose."""
    rows = ledger.client.query(
        FIRST_SEEN.format(offsets=ledger.offsets.condition()),
        external_data=external(batch=_batch_table(unseen)),
    ).result_rows
    for source, time_ms in rows:
        found[source].state.opened_ms = time_ms


def _interval_counts(ledger: Ledger, sources: Sequence[str], since_ms: int) -> dict[str, int]:
    rows = ledger.client.query(
        INTERVAL_COUNTS.format(offsets=ledger.offsets.condition(), since_ms=since_ms),
        external_data=external(batch=_batch_table(sources)),
    ).result_rows
    return {row[0]: row[1] for row in rows}


def _batches(ledger: Ledger, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    counts = _interval_counts(ledger, [job.state.source for job in jobs], since_ms=0)
    batch: list[_Job] = []
    held = 0
    for job in jobs:
        count = counts.get(job.state.source, 0)
        if batch and held + count > ledger.settings.close_batch_intervals:
            yield batch
            batch, held = [], 0
        batch.append(job)
        held += count
    if batch:
        yield batch


def _prove_batch(
    ledger: Ledger,
    batch: Sequence[_Job],
    decisions: Decisions,
    tails: dict[str, IntervalFacts],
) -> None:
    since_ms = min(job.state.opened_ms or 0 for job in batch) - (
        ledger.settings.close_lookback_s * 1_000
    )
    hours = HourRange(max(since_ms, 0), _END_OF_TIME_MS)
    sources = external(batch=_batch_table([job.state.source for job in batch]))
    _read_intervals(ledger, batch, hours, sources)
    for job in batch:
        job.verifier = RangeVerifier(
            job.claims,
            decisions.losses_of(job.state.source),
            max_candidates=ledger.settings.close_max_candidates,
        )
    for number, records in _records(ledger, hours, sources):
        verifier = batch[number].verifier
        if verifier is not None:
            verifier.feed(records)
    for job in batch:
        if job.verifier is not None:
            job.state.findings = job.verifier.finish()
            job.verifier = None
        job.state.problems += job.state.findings.problems
        job.state.problems += job.registered.unreached(job.state, closed=job.closed)
    sums = _parts(ledger, batch, hours)
    for number, job in enumerate(batch):
        _check_engines(job, sums.get(number, {}), decisions, tails)


def _read_intervals(
    ledger: Ledger, batch: Sequence[_Job], hours: HourRange, sources: ExternalData
) -> None:
    rows = ledger.client.query(
        interval_rows(ledger.offsets, hours), external_data=sources
    ).result_rows
    for number, content_hash, first, last, sha256, signature, *facts in rows:
        job = batch[number]
        interval = IntervalFacts(*facts)
        job.intervals.append((content_hash, interval))
        signed = SignedRange(
            sequence_first=first, sequence_last=last, sha256=sha256, signature=signature
        )
        if job.registered.signed("interval", signed):
            job.claims.append(RangeClaim(first, last, sha256))
        else:
            job.state.unsigned_ranges += 1


def _records(
    ledger: Ledger, hours: HourRange, sources: ExternalData
) -> Iterator[tuple[int, Records]]:
    """Every record of the batch's sources, by source and sequence, as they stream in."""
    with ledger.client.query_arrow_stream(
        record_stream(ledger.offsets, hours), external_data=sources, settings=_STREAMING
    ) as blocks:
        for block in blocks:
            numbers = _u32(block.column("number"))
            sequences = _u32(block.column("sequence"))
            hours_of = _u32(block.column("hour"))
            hashes = _fixed(block.column("content_hash"), CONTENT_HASH_BYTES)
            start = 0
            for number, end in _runs(numbers):
                yield (
                    number,
                    Records(
                        sequences[start:end],
                        hashes[start * CONTENT_HASH_BYTES : end * CONTENT_HASH_BYTES],
                        hours_of[start:end],
                    ),
                )
                start = end


def _runs(numbers: "array[int]") -> Iterator[tuple[int, int]]:
    """Each number of an ascending column with the index behind its last row."""
    start = 0
    while start < len(numbers):
        number = numbers[start]
        low, high = start, len(numbers)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if numbers[middle] <= number else (low, middle)
        yield number, low
        start = low


def _u32(column: "object") -> "array[int]":
    found: array[int] = array("I")
    found.frombytes(_fixed(column, _U32_BYTES))
    return found


def _fixed(column: "object", width: int) -> bytes:
    """The bytes of an Arrow column of fixed width and without nulls."""
    offset, length = column.offset, len(column)  # type: ignore[attr-defined,arg-type]
    buffer = column.buffers()[1]  # type: ignore[attr-defined]
    return memoryview(buffer)[offset * width : (offset + length) * width].tobytes()


def _parts(
    ledger: Ledger, batch: Sequence[_Job], hours: HourRange
) -> dict[int, dict[tuple[str, int], PartsSum]]:
    """Per source of the batch, sums of parts by engine and interval; interval 0 is none."""
    rows = ledger.client.query(
        parts_by_interval(ledger.offsets, hours),
        external_data=external(
            batch=_batch_table([job.state.source for job in batch]),
            spans=spans_table([job.state for job in batch]),
            rejected=rejected_table([job.state for job in batch]),
        ),
    ).result_rows
    found: dict[int, dict[tuple[str, int], PartsSum]] = {}
    for number, engine, sequence, parts, ordinals, gpu_ns in rows:
        found.setdefault(number, {})[engine, sequence] = PartsSum(parts, ordinals, gpu_ns)
    return found


def _check_engines(
    job: _Job,
    sums: Mapping[tuple[str, int], PartsSum],
    decisions: Decisions,
    tails: dict[str, IntervalFacts],
) -> None:
    """Hold the proven intervals to the identity, and take the watermarks from them."""
    state, findings = job.state, job.state.findings
    proven = [
        one
        for content_hash, one in job.intervals
        if bytes.fromhex(content_hash) not in findings.rejected
        and any(first <= one.sequence <= last for first, last in findings.spans)
    ]
    job.intervals = []
    state.watermarks = crossing_watermarks(
        Watermark(one.sequence, one.oldest_open_ms) for one in proven
    )
    excused = sorted(
        {
            *findings.dead_letters,
            *(one for pair in findings.unproven for one in pair),
            *(one for pair in decisions.losses_of(state.source) for one in pair),
            *job.registered.beyond_trust(),
        }
    )
    engines: dict[str, list[IntervalFacts]] = {}
    for one in proven:
        engines.setdefault(one.engine, []).append(one)
        state.time_lines.setdefault(one.engine, TimeLine(one.replica)).add(one)
    for engine, intervals in engines.items():
        by_interval = {
            sequence: one for (of, sequence), one in sums.items() if of == engine and sequence
        }
        state.problems += check_engine(intervals, by_interval, excused, tails.get(engine))
        tails[engine] = intervals[-1]
    if state.final_sequence is not None and not excused:
        state.problems += _uncovered(state.final_sequence, sums)
    state.problems.sort(key=lambda problem: problem.sequence)


def _uncovered(final_sequence: int, sums: Mapping[tuple[str, int], PartsSum]) -> Iterator[Problem]:
    """Parts of a closed source that no interval of their engine covers."""
    for (engine, sequence), one in sorted(sums.items()):
        if sequence == 0:
            yield Problem(
                final_sequence,
                f"engine {engine}: {one.parts} parts with {one.gpu_ns} ns of GPU time lie in no"
                " interval, and the source is closed",
            )


def _batch_table(sources: Sequence[str]) -> tuple[str, list[tuple[str, int]]]:
    return BATCH, [(source, number) for number, source in enumerate(sources)]


def spans_table(states: Sequence[SourceState]) -> tuple[str, list[tuple[str, int, int]]]:
    """The external table `spans`: what is proven."""
    rows = [(one.source, first, last) for one in states for first, last in one.findings.spans]
    return SPANS, rows


def rejected_table(states: Sequence[SourceState]) -> tuple[str, list[tuple[str]]]:
    """The external table `rejected`: records beside the one that the source signed."""
    hashes = {one.hex().upper() for state in states for one in state.findings.rejected}
    return REJECTED, [(one,) for one in sorted(hashes)]
