"""Reads from the ledger and the store what is proven of every source, in bounded batches."""

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from infra.clickhouse.client import ExternalData, external
from schemas.control import SourceClosed, SourceClosedData, SourceOpened
from schemas.fleet import SignedRange
from schemas.ids import CONTENT_HASH_BYTES
from schemas.topics import event_type
from schemas.units import MS_PER_S
from schemas.usage import UsageLostData
from streams.completeness import SourceState
from streams.completeness_clock import find_wrong_clocks
from streams.completeness_decisions import Decisions
from streams.completeness_identity import Identity
from streams.completeness_ledger import END_OF_TIME_MS, Ledger, batch_table
from streams.completeness_ranges import Problem, RangeClaim, RangeVerifier, Records
from streams.completeness_sql import (
    CONTROL_ROWS,
    ENGINES_OF_SOURCES,
    FIRST_SEEN,
    INTERVAL_COUNTS,
    LAST_SEEN,
    range_rows,
    record_stream,
)
from streams.registered_sources import TrustedSource, trusted_sources
from streams.rollup_sql import HourRange
from streams.settings import StreamSettings

_OPENED = event_type(SourceOpened)
_CLOSED = event_type(SourceClosed)
_STREAMING = {
    "wait_end_of_query": 0,
    "max_bytes_before_external_sort": 500_000_000,
}
"""Rows leave while they are read, and a sort larger than this goes to the server's disk."""
_U32_BYTES = 4


@dataclass(slots=True)
class _Job:
    """One source while its batch is read."""

    registered: TrustedSource
    state: SourceState
    claims: list[RangeClaim] = field(default_factory=list)
    verifier: RangeVerifier | None = None
    closed: bool = False


@dataclass(frozen=True, slots=True)
class _Jobs:
    """Sources to read, oldest first. Of `earlier` only what engines did there is of interest."""

    jobs: list[_Job]
    earlier: list[_Job]
    any_source: bool


def read_sources(
    ledger: Ledger,
    store: Engine,
    decisions: Decisions,
    hours: HourRange,
    only: Collection[str] | None = None,
    *,
    now_ms: int = END_OF_TIME_MS,
) -> tuple[list[SourceState], bool]:
    """What is proven of every registered source that matters to `hours`, oldest first.

    The flag says whether any source is known at all, also one that does not matter. A source
    that closed before the first hour does not matter any more: whatever it sent is older. Memory
    is bounded by the engine intervals of one batch of sources. `only` leaves out all others.
    Without `now_ms` no clock is found to be ahead.
    """
    found = _jobs(ledger, trusted_sources(store, decisions, only), decisions, hours)
    active = sorted(
        (job for job in (*found.earlier, *found.jobs) if job.state.opened_ms is not None),
        key=_age,
    )
    if active:
        since_ms = max((active[0].state.opened_ms or 0) - _lookback_ms(ledger.settings), 0)
        batches = list(_batches(ledger, active))
        for batch in batches:
            _prove_batch(ledger, batch, decisions)
        identity = Identity(ledger, [job.state for job in active], decisions, since_ms)
        for batch in batches:
            identity.check([job.state for job in batch])
        find_wrong_clocks(ledger, [job.state for job in active], since_ms, now_ms)
    return [job.state for job in found.jobs], found.any_source


def _jobs(
    ledger: Ledger,
    registered: Sequence[TrustedSource],
    decisions: Decisions,
    hours: HourRange,
) -> _Jobs:
    """Every source with what its control events say, without those that cannot matter."""
    found = {
        one.source: _Job(one, SourceState(one.source, one.host, one.registered_ms))
        for one in registered
    }
    batch = batch_table(list(found))
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
    for source, time_ms in _seen(ledger, FIRST_SEEN, unseen).items():
        # A source whose opening is lost still opened: at the latest when its first event arose.
        found[source].state.opened_ms = time_ms
    _take_declared_ends(ledger, found, decisions)
    for job in found.values():
        job.registered.end_with_trust(job.state)
    still_sending = _interval_counts(ledger, list(found), since_ms=hours.first_ms)
    any_source = any(job.state.opened_ms is not None for job in found.values())
    matter = [job for job in found.values() if _matters(job.state, hours, still_sending)]
    return _Jobs(sorted(matter, key=_age), _earlier(ledger, found, matter), any_source)


def _age(job: _Job) -> tuple[int, str]:
    return job.state.opened_ms or 0, job.state.source


def _lookback_ms(settings: StreamSettings) -> int:
    return settings.close_lookback_s * MS_PER_S


def _earlier(ledger: Ledger, found: Mapping[str, _Job], matter: Collection[_Job]) -> list[_Job]:
    """Of each engine that goes on in a source which matters, the last source before those.

    Its last interval says where the engine stood, and parts of requests that were open when it
    ended may lie on the next source, and the other way round.
    """
    if len(matter) == len(found):
        return []
    engines: dict[tuple[str, str], list[_Job]] = {}
    rows = ledger.client.query(
        ENGINES_OF_SOURCES.format(offsets=ledger.offsets.condition()),
        external_data=external(batch=batch_table(list(found))),
    ).result_rows
    for source, engine in rows:
        engines.setdefault((found[source].state.host, engine), []).append(found[source])
    wanted = {job.state.source for job in matter}
    earlier: dict[str, _Job] = {}
    for jobs in engines.values():
        older = [job for job in jobs if job.state.source not in wanted]
        if older and len(older) < len(jobs):
            last = max(older, key=_age)
            earlier[last.state.source] = last
    return list(earlier.values())


def _take_declared_ends(ledger: Ledger, found: Mapping[str, _Job], decisions: Decisions) -> None:
    """A source that was declared gone ends there, unless it said itself where it ends."""
    ended = {
        source: lost_from
        for source, job in found.items()
        if (lost_from := decisions.lost_from(source)) is not None
        and job.state.final_sequence is None
    }
    last_seen = _seen(ledger, LAST_SEEN, list(ended))
    for source, lost_from in ended.items():
        state = found[source].state
        state.final_sequence, state.is_gone = lost_from, True
        state.closed_ms = last_seen.get(source)


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


def _seen(ledger: Ledger, question: str, sources: Sequence[str]) -> dict[str, int]:
    """The time in ms of each source's first or last event; nothing for one that sent nothing."""
    if not sources:
        return {}
    rows = ledger.client.query(
        question.format(offsets=ledger.offsets.condition()),
        external_data=external(batch=batch_table(sources)),
    ).result_rows
    return {row[0]: row[1] for row in rows}


def _interval_counts(ledger: Ledger, sources: Sequence[str], since_ms: int) -> dict[str, int]:
    rows = ledger.client.query(
        INTERVAL_COUNTS.format(offsets=ledger.offsets.condition(), since_ms=since_ms),
        external_data=external(batch=batch_table(sources)),
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


def _prove_batch(ledger: Ledger, batch: Sequence[_Job], decisions: Decisions) -> None:
    since_ms = min(job.state.opened_ms or 0 for job in batch) - _lookback_ms(ledger.settings)
    hours = HourRange(max(since_ms, 0), END_OF_TIME_MS)
    sources = external(batch=batch_table([job.state.source for job in batch]))
    _read_ranges(ledger, batch, hours, sources)
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
        job.state.problems += _unsigned_tail(job)
        job.state.problems += job.registered.unreached(job.state, closed=job.closed)
        job.claims = []


def _unsigned_tail(job: _Job) -> Iterator[Problem]:
    """What a source that was declared gone had sent, and can sign no more."""
    state = job.state
    signed = max((claim.last for claim in job.claims), default=0)
    if state.is_gone and state.final_sequence is not None and signed + 1 < state.final_sequence:
        yield Problem(
            signed + 1,
            f"it was declared gone from sequence {state.final_sequence} on, and what it sent from"
            f" sequence {signed + 1} on is under no signed range: declare it lost from there",
        )


def _read_ranges(
    ledger: Ledger, batch: Sequence[_Job], hours: HourRange, sources: ExternalData
) -> None:
    rows = ledger.client.query(range_rows(ledger.offsets, hours), external_data=sources).result_rows
    for number, first, last, sha256, signature in rows:
        job = batch[number]
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
