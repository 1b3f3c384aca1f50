"""Rolls replayed hours up as hour close does, and holds them to what was published."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from sqlalchemy import Engine

from infra.clickhouse.client import Client, external
from infra.store.runs import RecordedRun
from schemas.errors import ContractError
from schemas.tables import ROLLUP_KEY, Table
from schemas.units import MS_PER_HOUR, MS_PER_S
from streams.close_hours import read_books
from streams.close_sql import RUNS
from streams.completeness_decisions import Decisions
from streams.completeness_ledger import Ledger
from streams.completeness_reading import read_sources
from streams.replay_sql import (
    COMPARED,
    ROLLUP_COLUMNS,
    differing_events,
    differing_rollups,
    happened,
    row_digests,
    rows_of_event,
)
from streams.rollup import RULES_VERSION, HourSums
from streams.rollup_sql import HourRange, Offsets, insert_rollup, insert_tenants

NOT_THERE = "(not there)"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that differs in an hour.

    `subject` is an event id, the key of a roll-up row, or a run; `field` the column, or what
    is compared as a whole.
    """

    table: str
    subject: str
    field: str
    published: str
    replayed: str


@dataclass(frozen=True, slots=True)
class HourComparison:
    """One published run beside its replay; identical if there is no difference."""

    hour_ms: int
    run_id: str
    position: int
    events: int
    digest: str
    difference: Difference | None

    @property
    def identical(self) -> bool:
        """Whether digest, roll-up rows and, where they were compared, event rows are the same."""
        return self.difference is None


@dataclass(frozen=True, slots=True)
class Databases:
    """The published ledger and its replay, on one server; `None`: no published rows to compare."""

    client: Client
    published: str | None
    replayed: str


def read_vector(text: str) -> Offsets:
    """The offset vector of a run's header.

    Raises:
        ContractError: If it cannot be read.
    """
    try:
        named: dict[str, int] = json.loads(text)
        found = {}
        for name, end in named.items():
            topic, _, partition = name.rpartition("/")
            found[topic, int(partition)] = int(end)
    except (ValueError, TypeError, AttributeError) as error:
        raise ContractError(f"no offset vector: {text[:200]!r}: {error}") from error
    return Offsets(found)


def roll_up(
    ledger: Ledger, store: Engine, decisions: Decisions, runs: Mapping[int, RecordedRun]
) -> dict[int, HourSums]:
    """Write what close writes of some hours under their published runs' ids, by its own SQL.

    Args:
        ledger: The replayed one, seen below the runs' offset vector.
        store: Says which sources are registered.
        decisions: Those that counted when the runs were published.
        runs: By hour in ms since the epoch; all of one vector and one decision position.
    """
    hours = HourRange(min(runs), max(runs) + MS_PER_HOUR)
    published_ms = max(run.header.published_at_ms for run in runs.values())
    sources, _ = read_sources(ledger, store, decisions, hours, now_ms=published_ms)
    books = read_books(ledger, sources, decisions, hours)
    sums = books.sums(list(runs))
    named = [(hour // MS_PER_S, run.header.run_id) for hour, run in runs.items()]
    for written in (insert_rollup, insert_tenants):
        ledger.client.command(
            written(ledger.offsets, hours),
            external_data=external(**books.billable_tables(), runs=(RUNS, named)),
            settings={"insert_deduplicate": 0},
        )
    return sums


def compare(
    databases: Databases,
    offsets: Offsets,
    runs: Mapping[int, RecordedRun],
    sums: Mapping[int, HourSums],
) -> Iterator[HourComparison]:
    """Hold replayed hours of one vector to their published runs, in order."""
    hours = HourRange(min(runs), max(runs) + MS_PER_HOUR)
    rollups = _differing_rollups(databases, hours, runs)
    rows = _differing_rows(databases, offsets, hours)
    for hour, run in sorted(runs.items()):
        header = run.header
        difference = rows.get(hour) or _digest_difference(run, sums[hour]) or rollups.get(hour)
        yield HourComparison(
            hour, header.run_id, run.position, header.events, header.digest, difference
        )


def _digest_difference(run: RecordedRun, sums: HourSums) -> Difference | None:
    """Every row is the same, and still other events count: sources or decisions are others."""
    header = run.header
    checks = (
        ("rules_version", header.rules_version, RULES_VERSION),
        ("events", str(header.events), str(sums.measure("requests"))),
        ("digest", header.digest, sums.digest),
    )
    for field, published, replayed in checks:
        if published != replayed:
            return Difference(
                "rollup_runs", f"run {header.run_id[:12]}", field, published, replayed
            )
    return None


def _differing_rollups(
    databases: Databases, hours: HourRange, runs: Mapping[int, RecordedRun]
) -> dict[int, Difference]:
    if databases.published is None:
        return {}
    named = [(hour // MS_PER_S, run.header.run_id) for hour, run in runs.items()]
    rows = databases.client.query(
        differing_rollups((databases.published, databases.replayed), hours),
        external_data=external(runs=(RUNS, named)),
    ).result_rows
    by_hour: dict[int, list[Sequence[str]]] = {}
    for hour, side, _, *texts in rows:
        by_hour.setdefault(hour, []).append((str(side), *texts))
    return {hour: _rollup_difference(found) for hour, found in by_hour.items()}


def _rollup_difference(found: Sequence[Sequence[str]]) -> Difference:
    """The first row that one side lacks, or, if its key is on both sides, its first other field."""
    names, keys = ROLLUP_COLUMNS[2:], len(ROLLUP_KEY) - 2
    side, *first = found[0]
    subject = "/".join(first[:keys])
    if len(found) > 1 and found[1][0] != side and list(found[1][1 : keys + 1]) == first[:keys]:
        pair = (first, found[1][1:]) if side == "0" else (found[1][1:], first)
        for name, published, replayed in zip(names, *pair, strict=True):
            if published != replayed:
                return Difference("usage_hourly_runs", subject, name, published, replayed)
    there = ("there", NOT_THERE) if side == "0" else (NOT_THERE, "there")
    return Difference("usage_hourly_runs", subject, "row", *there)


def _differing_rows(
    databases: Databases, offsets: Offsets, hours: HourRange
) -> dict[int, Difference]:
    found: dict[int, Difference] = {}
    if databases.published is None:
        return found
    both = (databases.published, databases.replayed)
    for table in COMPARED:
        published, replayed = (
            {
                hour: (rows, digest)
                for hour, rows, digest in databases.client.query(
                    row_digests(database, table, offsets, hours)
                ).result_rows
            }
            for database in both
        )
        for hour in sorted(published.keys() | replayed.keys()):
            if published.get(hour) != replayed.get(hour) and hour not in found:
                found[hour] = _row_difference(databases.client, both, table, offsets, hour)
    return found


def _row_difference(
    client: Client, both: tuple[str, str], table: Table, offsets: Offsets, hour: int
) -> Difference:
    hours = HourRange(hour, hour + MS_PER_HOUR)
    ((event_id,),) = client.query(differing_events(both, table, offsets, hours)).result_rows
    sides = [
        client.query(rows_of_event(database, table, offsets, hours, event_id)).result_rows
        for database in both
    ]
    for published, replayed in zip_longest(*sides):
        if published is None or replayed is None:
            there = (NOT_THERE, "there") if published is None else ("there", NOT_THERE)
            return Difference(table.name, event_id, "row", *there)
        for name, was, now in zip(happened(table), published, replayed, strict=True):
            if was != now:
                return Difference(table.name, event_id, name, str(was), str(now))
    return Difference(table.name, event_id, "row", "differs", "differs")
