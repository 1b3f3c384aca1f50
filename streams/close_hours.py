"""Reads what the ledger holds hour by hour: counts, contradictions, sums."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from infra.clickhouse.client import external
from schemas.units import MS_PER_HOUR
from streams.close_sql import (
    CONTENTS,
    OF_CONTENTS,
    REQUESTS,
    collapsed_rows,
    conflicts,
    hour_sums,
    orphans,
    parts_of,
    proven_rows,
    stored_rows,
)
from streams.completeness import SourceState
from streams.completeness_decisions import Decisions
from streams.completeness_ledger import Ledger, rejected_table, spans_table
from streams.rollup import NO_COUNT, NO_SUMS, HourSums, LedgerCount
from streams.rollup_sql import HourRange

_NAMED_MAX = 1_000
"""Contradictions that are named in one batch of hours; with so many nobody reads on."""
Table = tuple[str, Sequence[Sequence[object]]]


@dataclass(slots=True)
class HourBooks:
    """What the ledger holds in each hour of one close; keys are hours in ms since the epoch.

    `proven_by_sources` counts requests as the sources' ranges prove them, by hours since the
    epoch. `quarantined` counts event ids with different contents and without a decision, `orphans`
    are requests whose parts are there without them. `taken_out` are content hashes that are not
    billed: quarantined, or by decision; `dropped` is what of the proven that is in each hour.
    `crowded` are hours with more quarantined events than one close may set aside.
    """

    ledger: Ledger
    spans: Table
    rejected: Table
    proven_by_sources: Counter[int]
    counts: dict[int, LedgerCount] = field(default_factory=dict)
    quarantined: Counter[int] = field(default_factory=Counter)
    crowded: set[int] = field(default_factory=set)
    orphans: dict[int, list[str]] = field(default_factory=dict)
    taken_out: set[str] = field(default_factory=set)
    dropped: dict[int, LedgerCount] = field(default_factory=dict)

    def count(self, hour: int) -> LedgerCount:
        """Plain counts of one hour."""
        return self.counts.get(hour, NO_COUNT)

    def billable_tables(self) -> dict[str, Table]:
        """External tables of everything that is rolled up."""
        return self.tables_without(self.taken_out)

    def tables_without(self, contents: Collection[str]) -> dict[str, Table]:
        """External tables of what is signed, without some contents (hex)."""
        structure, rows = self.rejected
        taken_out = [(one.upper(),) for one in sorted(contents)]
        return {"spans": self.spans, "rejected": (structure, [*rows, *taken_out])}

    def sums(self, hours: Sequence[int]) -> dict[int, HourSums]:
        """Digest and sums of what is to be rolled up in each of some hours."""
        rows = self.ledger.client.query(
            hour_sums(self.ledger.offsets, HourRange(min(hours), max(hours) + MS_PER_HOUR)),
            external_data=external(**self.billable_tables()),
        ).result_rows
        found = {hour: HourSums(digest, tuple(measures)) for hour, digest, *measures in rows}
        return {hour: found.get(hour, NO_SUMS) for hour in hours}

    def proven_tables(self) -> dict[str, Table]:
        """External tables of everything that a registered source signed."""
        return {"spans": self.spans, "rejected": self.rejected}


def read_books(
    ledger: Ledger, sources: Sequence[SourceState], decisions: Decisions, hours: HourRange
) -> HourBooks:
    """Count every hour, then look in bounded batches for what contradicts itself."""
    proven: Counter[int] = Counter()
    for source in sources:
        proven.update(source.findings.usage_by_hour)
    books = HourBooks(
        ledger=ledger,
        spans=spans_table(sources),
        rejected=rejected_table(sources),
        proven_by_sources=proven,
    )
    _count(books, hours)
    for batch in _batches(books, hours):
        _set_aside(books, decisions, batch)
        if any(books.count(hour).parts for hour in _hours(batch)):
            _find_orphans(books, batch)
    return books


def _asked(
    books: HourBooks, sql: str, tables: Mapping[str, Table]
) -> Iterator[tuple[int, Sequence[int]]]:
    """Rows of a count by hour."""
    for hour, *figures in books.ledger.client.query(
        sql, external_data=external(**tables)
    ).result_rows:
        yield hour, figures


def _count(books: HourBooks, hours: HourRange) -> None:
    offsets, tables = books.ledger.offsets, books.proven_tables()
    for hour, (stored,) in _asked(books, stored_rows(offsets, hours), tables):
        books.counts[hour] = LedgerCount(stored=stored)
    for hour, (rows,) in _asked(books, collapsed_rows(offsets, hours), tables):
        books.counts[hour] = replace(books.count(hour), rows=rows)
    _count_proven(books, hours, books.counts, tables)


def _count_proven(
    books: HourBooks,
    hours: HourRange,
    counts: dict[int, LedgerCount],
    tables: Mapping[str, Table],
    also: str = "1",
) -> None:
    offsets = books.ledger.offsets
    usage = proven_rows("usage_events", offsets, hours, also)
    for hour, (proven, gpu_ns) in _asked(books, usage, tables):
        counts[hour] = replace(counts.get(hour, NO_COUNT), proven=proven, gpu_ns=gpu_ns)
    apart = proven_rows("engine_parts", offsets, hours, also)
    for hour, (parts, gpu_ns) in _asked(books, apart, tables):
        counts[hour] = replace(counts.get(hour, NO_COUNT), parts=parts, parts_gpu_ns=gpu_ns)


def _set_aside(books: HourBooks, decisions: Decisions, hours: HourRange) -> None:
    """Take out of the hours what contradicts itself, and what people decided not to bill."""
    limit = books.ledger.settings.close_max_quarantined_events
    rows = books.ledger.client.query(conflicts(books.ledger.offsets, hours, limit + 1)).result_rows
    taken_out, requests = set(decisions.discarded), set(decisions.discarded_events)
    for hour, event_id, hashes in rows:
        keep = decisions.settled.get(event_id)
        books.quarantined[hour] += keep is None
        taken_out |= set(hashes) - {keep}
        requests.add(event_id)
    if len(rows) > limit:
        # Hours are listed in order: those before the last one are known whole.
        books.crowded |= {hour for hour in _hours(hours) if hour >= rows[-1][0]}
    requests |= {event_id for event_id, keep in decisions.settled.items() if not keep}
    if requests and any(books.count(hour).parts for hour in _hours(hours)):
        taken_out |= _parts_of(books, requests, taken_out, hours)
    if taken_out:
        contents: Table = (CONTENTS, [(one,) for one in sorted(taken_out)])
        tables = {**books.proven_tables(), "contents": contents}
        _count_proven(books, hours, books.dropped, tables, OF_CONTENTS)
        books.taken_out |= taken_out


def _parts_of(
    books: HourBooks, requests: Collection[str], taken_out: Collection[str], hours: HourRange
) -> set[str]:
    """Parts from other hosts of requests that are not billed: they have nobody to be added to."""
    asked: Table = (REQUESTS, [(one,) for one in sorted(requests)])
    rows = books.ledger.client.query(
        parts_of(books.ledger.offsets, hours),
        external_data=external(**books.tables_without(taken_out), requests=asked),
    ).result_rows
    return {row[0] for row in rows}


def _find_orphans(books: HourBooks, hours: HourRange) -> None:
    rows = books.ledger.client.query(
        orphans(books.ledger.offsets, hours, _NAMED_MAX),
        external_data=external(**books.billable_tables()),
    ).result_rows
    for hour, request in rows:
        books.orphans.setdefault(hour, []).append(request)


def _hours(hours: HourRange) -> range:
    return range(hours.first_ms, hours.end_ms, MS_PER_HOUR)


def _batches(books: HourBooks, hours: HourRange) -> Iterator[HourRange]:
    """Stretches of hours with a bounded number of events; those without any are left out."""
    first, end, events = 0, 0, 0
    for hour in _hours(hours):
        count = books.count(hour).rows + books.count(hour).parts
        if not count:
            continue
        if first and events + count > books.ledger.settings.close_batch_events:
            yield HourRange(first, end)
            first, events = 0, 0
        first, end, events = first or hour, hour + MS_PER_HOUR, events + count
    if first:
        yield HourRange(first, end)
