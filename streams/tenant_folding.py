"""Folds a tenant's events into hours again as closing did, beside what was published of them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from infra.clickhouse.client import Client, ExternalData, external
from infra.store.runs import RecordedRun
from schemas.tables import ROLLUP_KEY
from schemas.units import MS_PER_HOUR, MS_PER_S
from streams.audit_sql import (
    folded_rows,
    folded_tenants,
    stored_rows,
    stored_tenants,
    unbilled_events,
)
from streams.close_sql import RUNS
from streams.rollup import EMPTY_DIGEST
from streams.rollup_sql import HourRange
from streams.run_inputs import RunInputs, inputs_of_runs
from streams.settings import StreamSettings

UNBILLED_SHOWN = 5
Rows = dict[tuple[str, ...], tuple[int, ...]]
"""Measures (`ROLLUP_MEASURES`) by key (`ROLLUP_KEY` behind the tenant)."""
Progress = Callable[[str, int, int], None]
_KEYS = len(ROLLUP_KEY) - 3


@dataclass(slots=True)
class TenantHour:
    """What one tenant has in one hour: its roll-up rows, its events and the digest over them."""

    rows: Rows = field(default_factory=dict)
    events: int = 0
    digest: str = EMPTY_DIGEST


@dataclass(frozen=True, slots=True)
class OtherEvents:
    """A run whose digest does not come out of the ledger's events any more.

    `tenants` have other events than were published, `unbilled` are the first ids of events of
    theirs that lie in the ledger and do not count: nobody signed them as they are.
    """

    hour_ms: int
    published: str
    folded: str
    tenants: tuple[str, ...]
    unbilled: tuple[str, ...]


@dataclass(slots=True)
class Fold:
    """A tenant's hours as its events make them, and runs that other events were made from."""

    hours: dict[int, TenantHour] = field(default_factory=dict)
    other_events: list[OtherEvents] = field(default_factory=list)


def fold_tenant(
    client: Client,
    store: Engine,
    runs: Mapping[int, RecordedRun],
    *,
    tenant: str,
    settings: StreamSettings,
    progress: Progress = lambda *_: None,
) -> Fold:
    """Fold the events of published runs again, of one tenant into rows, of all into digests.

    Args:
        client: The ledger.
        store: The billing store: sources, decisions, runs.
        runs: By hour in ms since the epoch.
        tenant: Whose rows.
        settings: Bounds of reading.
        progress: Told after each group of hours.
    """
    fold = Fold()
    for inputs in inputs_of_runs(client, store, runs, settings):
        tables = external(**inputs.books.billable_tables())
        mine = {"tenant": tenant}
        sql = (inputs.ledger.offsets, inputs.span)
        rows = client.query(folded_rows(*sql), mine, external_data=tables).result_rows
        tables = external(**inputs.books.billable_tables())
        sums = client.query(folded_tenants(*sql), mine, external_data=tables).result_rows
        found = _hours(rows, sums)
        fold.hours |= {hour: found.get(hour, TenantHour()) for hour in inputs.runs}
        fold.other_events += _other_events(client, inputs)
        progress("folding", len(fold.hours), len(runs))
    fold.other_events.sort(key=lambda one: one.hour_ms)
    return fold


def published_hours(
    client: Client, runs: Mapping[int, RecordedRun], *, tenant: str
) -> dict[int, TenantHour]:
    """What the ledger says was published of a tenant under some runs."""
    if not runs:
        return {}
    hours = HourRange(min(runs), max(runs) + MS_PER_HOUR)
    mine = {"tenant": tenant}
    rows = client.query(stored_rows(hours), mine, external_data=_runs(runs)).result_rows
    sums = client.query(stored_tenants(hours), mine, external_data=_runs(runs)).result_rows
    found = _hours(rows, sums)
    return {hour: found.get(hour, TenantHour()) for hour in runs}


def _runs(runs: Mapping[int, RecordedRun]) -> ExternalData:
    return external(
        runs=(RUNS, [(hour // MS_PER_S, run.header.run_id) for hour, run in runs.items()])
    )


def _hours(
    rows: Iterable[Sequence[Any]], sums: Iterable[Sequence[Any]]
) -> defaultdict[int, TenantHour]:
    found: defaultdict[int, TenantHour] = defaultdict(TenantHour)
    for hour, *row in rows:
        found[hour].rows[tuple(row[:_KEYS])] = tuple(map(int, row[_KEYS:]))
    for hour, _, events, digest in sums:
        found[hour].events, found[hour].digest = int(events), digest
    return found


def _other_events(client: Client, inputs: RunInputs) -> list[OtherEvents]:
    found = []
    sums = inputs.books.sums(list(inputs.runs))
    for hour, run in inputs.runs.items():
        if sums[hour].digest == run.header.digest:
            continue
        one = HourRange(hour, hour + MS_PER_HOUR)
        tenants = _differing_tenants(client, inputs, one, run)
        unbilled = client.query(
            unbilled_events(inputs.ledger.offsets, one),
            {"tenants": tenants, "most": UNBILLED_SHOWN},
            external_data=external(**inputs.books.billable_tables()),
        ).result_rows
        found.append(
            OtherEvents(
                hour,
                run.header.digest,
                sums[hour].digest,
                tuple(tenants),
                tuple(event_id for (event_id,) in unbilled),
            )
        )
    return found


def _differing_tenants(
    client: Client, inputs: RunInputs, hour: HourRange, run: RecordedRun
) -> list[str]:
    folded = client.query(
        folded_tenants(inputs.ledger.offsets, hour, "1"),
        external_data=external(**inputs.books.billable_tables()),
    ).result_rows
    stored = client.query(
        stored_tenants(hour, "1"), external_data=_runs({hour.first_ms: run})
    ).result_rows
    return sorted({tenant for _, tenant, *_ in set(map(tuple, folded)) ^ set(map(tuple, stored))})
