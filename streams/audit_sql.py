"""SQL that folds a tenant's events again, and reads what was published of them."""

from schemas.tables import ROLLUP_KEY, ROLLUP_MEASURES
from streams.rollup_sql import DIGEST, HourRange, Offsets, billable

_KEY = ", ".join(ROLLUP_KEY[3:])
_HOUR_MS = "toUnixTimestamp(hour) * 1000 AS hour_ms"
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in ROLLUP_MEASURES)
_OF_RUNS = "(toUInt32(hour), run_id) IN (SELECT run_hour_s, run_id FROM runs)"
MINE = "tenant = {tenant:String}"
"""One tenant; the other questions take all."""


def folded_rows(offsets: Offsets, hours: HourRange) -> str:
    """The roll-up rows that a tenant's events make."""
    return (
        f"SELECT hour_ms, {_KEY}, {', '.join(ROLLUP_MEASURES)} FROM"
        f" (SELECT {_HOUR_MS}, {_KEY}, {_SUMS} FROM"
        f" (SELECT * FROM ({billable(offsets, hours)}) WHERE {MINE}) GROUP BY hour_ms, {_KEY})"
    )


def folded_tenants(offsets: Offsets, hours: HourRange, whose: str = MINE) -> str:
    """Per hour and tenant: how many events, and the digest over them."""
    return (
        f"SELECT {_HOUR_MS}, tenant, count(), {DIGEST}"
        f" FROM ({billable(offsets, hours)}) WHERE {whose} GROUP BY hour_ms, tenant"
    )


def stored_rows(hours: HourRange) -> str:
    """A tenant's published rows of the runs in the external table `runs`."""
    return (
        f"SELECT {_HOUR_MS}, {_KEY}, {', '.join(ROLLUP_MEASURES)} FROM usage_hourly_runs FINAL"
        f" WHERE {_between(hours)} AND {MINE} AND {_OF_RUNS}"
    )


def stored_tenants(hours: HourRange, whose: str = MINE) -> str:
    """Per hour and tenant of the runs in `runs`: how many events, and the digest over them."""
    return (
        f"SELECT {_HOUR_MS}, tenant, events, toString(digest) FROM run_tenants FINAL"
        f" WHERE {_between(hours)} AND {whose} AND {_OF_RUNS}"
    )


def unbilled_events(offsets: Offsets, hours: HourRange) -> str:
    """Events of tenants that lie in the ledger and do not count: their ids, the first few."""
    counted = f"SELECT hex(content_hash) FROM ({billable(offsets, hours)})"
    return (
        "SELECT toString(event_id) FROM usage_events FINAL"
        f" PREWHERE {offsets.condition()} WHERE {hours.condition()}"
        f" AND has({{tenants:Array(String)}}, tenant) AND hex(content_hash) NOT IN ({counted})"
        " ORDER BY event_id LIMIT {most:UInt32}"
    )


def _between(hours: HourRange) -> str:
    return (
        f"hour >= toDateTime({hours.first_ms // 1000}, 'UTC')"
        f" AND hour < toDateTime({hours.end_ms // 1000}, 'UTC')"
    )
