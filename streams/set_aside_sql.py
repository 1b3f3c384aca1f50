"""SQL that shares out what the ledger holds of some hours: rolled up, or set aside and why."""

from schemas.usage import TOKEN_METERS
from streams.rollup_sql import HourRange, Offsets, billable

MEASURES = ("requests", *TOKEN_METERS, "gpu_ns")
REGISTERED = "source UUID"
"""Structure of the external table `registered`."""
_COLUMNS = {
    "usage_events": ("toInt64(1)", *TOKEN_METERS, "gpu_ns"),
    "engine_parts": ("toInt64(0)", *("toInt64(0)" for _ in TOKEN_METERS), "gpu_ns"),
}
REASONS = {
    "unregistered": "sent by a source that is not registered",
    "late": "came after its hour was closed: close it again",
    "contradicted": "several contents under its id, or dropped by decision",
    "unsigned": "no signature of its source covers it as it lies there",
}


def in_ledger(hours: HourRange) -> str:
    """By hour, everything that lies in the ledger: requests, and parts for their GPU time."""
    sums = ", ".join(f"sum({name})" for name in MEASURES)
    return (
        f"SELECT toUnixTimestamp(hour) * 1000, {sums} FROM ({_everything(hours)}) GROUP BY hour"
        " ORDER BY hour"
    )


def rolled_up(hours: HourRange) -> str:
    """By hour, what the runs in force hold."""
    sums = ", ".join(f"sum({name})" for name in MEASURES)
    return (
        f"SELECT toUnixTimestamp(hour) * 1000, {sums} FROM usage_hourly"
        f" WHERE hour >= toDateTime({hours.first_ms // 1000}, 'UTC')"
        f" AND hour < toDateTime({hours.end_ms // 1000}, 'UTC') GROUP BY hour ORDER BY hour"
    )


def events_of(hours: HourRange) -> str:
    """The first event ids of some hours."""
    return (
        f"SELECT DISTINCT toString(event_id) AS id FROM ({_everything(hours)})"
        " ORDER BY id LIMIT {most:UInt32}"
    )


def set_aside(offsets: Offsets, hours: HourRange) -> str:
    """By hour and reason, what of the ledger is not rolled up: sums, and the first event ids.

    Needs the external tables of closing, `registered` and `contents` (taken out by closing).
    """
    sums = ", ".join(f"sum({name})" for name in MEASURES)
    counted = f"SELECT hex(content_hash) FROM ({billable(offsets, hours)})"
    reason = (
        "multiIf(source NOT IN (SELECT source FROM registered), 'unregistered',"
        " NOT read, 'late',"
        " lower(hex(content_hash)) IN (SELECT content FROM contents), 'contradicted', 'unsigned')"
    )
    return (
        f"SELECT toUnixTimestamp(hour) * 1000, {reason} AS reason, {sums},"
        " arraySlice(arraySort(groupUniqArray(toString(event_id))), 1, {most:UInt32})"
        f" FROM ({_everything(hours, offsets.condition())})"
        f" WHERE hex(content_hash) NOT IN ({counted}) GROUP BY hour, reason ORDER BY hour, reason"
    )


def _everything(hours: HourRange, read: str = "1") -> str:
    return " UNION ALL ".join(
        f"SELECT toStartOfHour(event_time, 'UTC') AS hour, event_id, source, content_hash,"
        f" {read} AS read, "
        + ", ".join(
            f"{column} AS {name}" if column != name else name
            for name, column in zip(MEASURES, _COLUMNS[table], strict=True)
        )
        + f" FROM {table} FINAL WHERE {hours.condition()}"
        for table in _COLUMNS
    )
