"""How long months of the ledger are kept, and what must be true before one is dropped.

ClickHouse's own TTL deletes by the clock alone: it cannot ask whether a month is invoiced, and it
would take single rows out of what a source's sequences prove. So lifetimes are applied here: whole
months, by dropping partitions, when nobody needs them any more.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, select

from infra.clickhouse.client import Client
from infra.store.decisions import append_decision, decisions_after
from infra.store.hours import period_problems
from infra.store.tables import invoices
from schemas.clock import Clock, utc
from schemas.errors import ContractError
from schemas.periods import Period, parse_period
from schemas.units import NS_PER_MS
from streams.retention_sql import told_later
from streams.settings import StreamSettings

DROP_MONTHS = "drop_months"
EVENT_TABLES = ("usage_events", "engine_parts", "engine_intervals")
"""They go together: none of them proves anything without the others."""
ROLLUP_TABLES = ("usage_hourly_runs",)
SETTLED_STATES = frozenset({"issued", "paid", "void", "uncollectible", "carried", "empty"})
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Month:
    """One month of some tables: what there is, whether its time is over, and who still needs it.

    `refusals` are empty where it may be dropped; they are only asked for when its time is over.
    """

    period: Period
    tables: tuple[str, ...]
    rows: int
    stored_bytes: int
    is_over: bool
    refusals: tuple[str, ...]


def plan_retention(
    client: Client, store: Engine, *, clock: Clock, settings: StreamSettings | None = None
) -> list[Month]:
    """Every month in the ledger, oldest first, with what may be dropped of it; looks only."""
    wanted = settings or StreamSettings()
    now = utc(clock.now_ns())
    return [
        *_months(client, store, EVENT_TABLES, wanted.retention_events_days, now),
        *_months(client, store, ROLLUP_TABLES, wanted.retention_rollups_days, now),
    ]


def drop_months(
    client: Client, store: Engine, months: Sequence[Month], *, decided_by: str, clock: Clock
) -> None:
    """Drop months whose time is over; the decision is written first, and for ever.

    From then on the hours before are never closed again: without their events they could only be
    held, or be published as nothing. Running it again after a crash drops what is left.

    Raises:
        ContractError: If a month may not be dropped; then none is.
    """
    for month in months:
        if not month.is_over or month.refusals:
            why = "; ".join(month.refusals) or "its time is not over"
            raise ContractError(f"month {month.period.name} of {', '.join(month.tables)}: {why}")
    ends = [one.period.end for one in months if one.tables == EVENT_TABLES]
    if ends and max(ends) > (dropped_until(store) or datetime.fromtimestamp(0, UTC)):
        append_decision(
            store,
            kind=DROP_MONTHS,
            subject=json.dumps({"until": f"{max(ends):%Y-%m}"}),
            reason="its lifetime is over",
            decided_by=decided_by,
            now_ms=clock.now_ns() // NS_PER_MS,
        )
    for month in months:
        for table in month.tables:
            client.command(f"ALTER TABLE {table} DROP PARTITION {month.period.start:%Y%m}")


def dropped_until(store: Engine) -> datetime | None:
    """The end of the months whose events are dropped; None while none are.

    Raises:
        ContractError: If such a decision cannot be read.
    """
    ends = []
    for one in decisions_after(store, 0):
        if one.kind != DROP_MONTHS:
            continue
        try:
            ends.append(parse_period(str(json.loads(one.subject)["until"])).start)
        except (ValueError, KeyError, TypeError) as error:
            raise ContractError(
                f"decision {one.position} ({one.kind}) cannot be read: {one.subject[:200]!r}"
            ) from error
    return max(ends, default=None)


def refuse_dropped(store: Engine, period: Period) -> None:
    """Hours whose events are gone cannot be proven, closed or looked at again.

    Raises:
        ContractError: If `period` begins before the end of the dropped months.
    """
    until = dropped_until(store)
    if until is not None and period.start < until:
        raise ContractError(
            f"period: {period.name} begins before {until:%Y-%m}; the events of that time were"
            " dropped when their lifetime was over, and what was published of it stays"
        )


def _months(
    client: Client, store: Engine, tables: tuple[str, ...], days: int, now: datetime
) -> list[Month]:
    rows = client.query(
        "SELECT partition, sum(rows), sum(bytes_on_disk) FROM system.parts"
        " WHERE active AND database = currentDatabase() AND table IN {tables:Array(String)}"
        " GROUP BY partition ORDER BY partition",
        parameters={"tables": list(tables)},
    ).result_rows
    found: list[Month] = []
    earlier: list[str] = []
    for partition, count, stored_bytes in rows:
        period = parse_period(f"{partition[:4]}-{partition[4:]}")
        is_over = (now - period.end).total_seconds() >= days * _DAY_S
        refusals: list[str] = []
        if is_over:
            refusals = [*earlier, *_refusals(client, store, tables, period, days, now)]
            if refusals and not earlier:
                earlier = [f"an earlier month, {period.name}, must stay"]
        found.append(Month(period, tables, count, stored_bytes, is_over, tuple(refusals)))
    return found


def _refusals(
    client: Client,
    store: Engine,
    tables: tuple[str, ...],
    period: Period,
    days: int,
    now: datetime,
) -> list[str]:
    refusals = [*period_problems(store, period)[:3], *_unsettled(client, store, period)]
    if tables == EVENT_TABLES:
        refusals += _needed_later(client, period, days, now)
    return refusals


def _unsettled(client: Client, store: Engine, period: Period) -> list[str]:
    """Tenants with usage in the period whose invoices are missing or under way."""
    rows = client.query(
        "SELECT DISTINCT toString(tenant) FROM usage_hourly WHERE hour >= {first:DateTime('UTC')}"
        " AND hour < {end:DateTime('UTC')} ORDER BY 1",
        parameters={"first": period.start, "end": period.end},
    ).result_rows
    states: dict[str, set[str]] = {}
    with store.connect() as connection:
        for tenant, state in connection.execute(
            select(invoices.c.tenant, invoices.c.state).where(invoices.c.period == period.name)
        ):
            states.setdefault(tenant, set()).add(state)
    unsettled = [
        f"{tenant} ({', '.join(sorted(states.get(tenant, {'no invoice'}) - SETTLED_STATES))})"
        for (tenant,) in rows
        if not states.get(tenant) or states[tenant] - SETTLED_STATES
    ]
    return [f"not invoiced to the end: {', '.join(unsettled[:5])}"] if unsettled else []


def _needed_later(client: Client, period: Period, days: int, now: datetime) -> list[str]:
    """Sources and engines that began in the period and tell of a month that is kept.

    A source is proven from its first record, an engine's life from its first interval.
    """
    kept_from_s = int(now.timestamp()) - days * _DAY_S
    found = []
    for what, tables in (("source", EVENT_TABLES), ("engine", EVENT_TABLES[1:])):
        rows = client.query(told_later(what, tables, period, kept_from_s)).result_rows
        if rows:
            names = ", ".join(row[0] for row in rows)
            found.append(f"a month that is kept is proven from here on, by {what} {names}")
    return found
