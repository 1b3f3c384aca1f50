"""SQL that counts hours, finds what contradicts itself in them, and reads runs back."""

from schemas.tables import ROLLUP_MEASURES
from streams.completeness_sql import EVENT_TABLES
from streams.rollup_sql import DIGEST, HourRange, Offsets, billable, proven

_HOUR_MS = "toUnixTimestamp(toStartOfHour(event_time, 'UTC')) * 1000 AS hour_ms"
_SUMS = ", ".join(f"sum({name})" for name in ROLLUP_MEASURES)
RUNS = "run_hour_s UInt32, run_id FixedString(64)"
"""Structure of the external table `runs`."""
REQUESTS = "request_id String"
"""Structure of the external table `requests`."""
CONTENTS = "content String"
OF_CONTENTS = "lower(hex(content_hash)) IN (SELECT content FROM contents)"
"""Structure of the external table `contents`, and the condition of being named there."""


def stored_rows(offsets: Offsets, hours: HourRange) -> str:
    """Requests per hour with all their copies."""
    return (
        f"SELECT {_HOUR_MS}, count() FROM usage_events"
        f" PREWHERE {offsets.condition()} WHERE {hours.condition()} GROUP BY hour_ms"
    )


def collapsed_rows(offsets: Offsets, hours: HourRange) -> str:
    """Requests per hour, one copy each, signed or not."""
    return (
        f"SELECT {_HOUR_MS}, count() FROM usage_events FINAL"
        f" PREWHERE {offsets.condition()} WHERE {hours.condition()} GROUP BY hour_ms"
    )


def proven_rows(table: str, offsets: Offsets, hours: HourRange, also: str = "1") -> str:
    """Proven rows per hour that meet `also`, and their GPU time."""
    rows = proven(table, f"{_HOUR_MS}, gpu_ns", offsets, hours, also)
    return f"SELECT hour_ms, count(), sum(gpu_ns) FROM ({rows}) GROUP BY hour_ms"


def conflicts(offsets: Offsets, hours: HourRange, limit: int) -> str:
    """Event ids with more than one content, whoever sent them: of any source, tenant and kind.

    An id carries its time, so two records with one id lie in one hour.
    """
    rows = " UNION ALL ".join(
        f"SELECT event_time, event_id, content_hash FROM {table} FINAL"
        f" PREWHERE {offsets.condition()} WHERE {hours.condition()}"
        for table in EVENT_TABLES
    )
    return (
        f"SELECT {_HOUR_MS}, toString(event_id), groupUniqArray(lower(hex(content_hash))) AS hashes"
        f" FROM ({rows}) GROUP BY hour_ms, event_id HAVING length(hashes) > 1"
        f" ORDER BY hour_ms, event_id LIMIT {limit}"
    )


def parts_of(offsets: Offsets, hours: HourRange) -> str:
    """Content hashes of proven parts of the requests in the external table `requests`.

    Only of those that are not billed: some content of a settled conflict may still be.
    """
    owners = proven("usage_events", "event_id", offsets, hours)
    parts = proven("engine_parts", "content_hash, request", offsets, hours)
    return (
        f"SELECT lower(hex(content_hash)) FROM ({parts})"
        " WHERE toString(request) IN (SELECT request_id FROM requests)"
        f" AND request NOT IN (SELECT event_id FROM ({owners}))"
    )


def orphans(offsets: Offsets, hours: HourRange, limit: int) -> str:
    """Requests whose parts are proven and which themselves are not."""
    parts = proven("engine_parts", f"{_HOUR_MS}, request", offsets, hours)
    owners = proven("usage_events", "event_id", offsets, hours)
    return (
        f"SELECT DISTINCT hour_ms, toString(request) FROM ({parts})"
        f" WHERE request NOT IN (SELECT event_id FROM ({owners}))"
        f" ORDER BY hour_ms, request LIMIT {limit}"
    )


def hour_sums(offsets: Offsets, hours: HourRange) -> str:
    """What would be rolled up, per hour: digest and the sum of every measure."""
    return (
        f"SELECT toUnixTimestamp(hour) * 1000, {DIGEST}, {_SUMS}"
        f" FROM ({billable(offsets, hours)}) GROUP BY hour"
    )


def run_sums(hours: HourRange) -> str:
    """What was written under the runs of the external table: rows, and the sum of every measure."""
    return (
        f"SELECT toString(run_id), count(), {_SUMS} FROM usage_hourly_runs FINAL"
        f" WHERE hour >= toDateTime({hours.first_ms // 1000}, 'UTC')"
        f" AND hour < toDateTime({hours.end_ms // 1000}, 'UTC')"
        " AND run_id IN (SELECT run_id FROM runs) GROUP BY run_id"
    )


def tenant_sums(hours: HourRange) -> str:
    """Requests that were written by tenant under the runs of the external table."""
    return (
        "SELECT toString(run_id), sum(requests) FROM run_tenants FINAL"
        f" WHERE hour >= toDateTime({hours.first_ms // 1000}, 'UTC')"
        f" AND hour < toDateTime({hours.end_ms // 1000}, 'UTC')"
        " AND run_id IN (SELECT run_id FROM runs) GROUP BY run_id"
    )


def published_runs(hours: HourRange) -> str:
    """Every run of these hours that ClickHouse shows as published."""
    return (
        "SELECT toString(run_id) FROM rollup_runs FINAL"
        f" WHERE hour >= toDateTime({hours.first_ms // 1000}, 'UTC')"
        f" AND hour < toDateTime({hours.end_ms // 1000}, 'UTC')"
    )
