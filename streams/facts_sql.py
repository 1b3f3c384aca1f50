"""SQL that counts what the ledger knows about its own health, for metrics."""

_MS = "toUnixTimestamp64Milli(event_time)"
_TABLES = ("usage_events", "engine_parts", "engine_intervals", "fleet_events")
DAY_MS = 86_400_000
"""A request may have been admitted so long before its sequence was given."""

DEAD_LETTERS = (
    "SELECT toString(reason), count() FROM dead_letters FINAL GROUP BY reason ORDER BY reason"
)

NEWEST_EVENT = f"SELECT max({_MS}) FROM usage_events WHERE event_time > now() - INTERVAL 7 DAY"


def missing_sequences(now_ms: int, lookback_ms: int, settle_ms: int) -> str:
    """Per source with a hole: how many sequences nobody has, of those that should be there.

    The last interval that is older than `settle_ms` tells up to which sequence everything was
    sent by then, the first one within `lookback_ms` where the looking begins.
    """
    since_ms, until_ms = now_ms - lookback_ms, now_ms - settle_ms
    spans = (
        "SELECT source, min(sequence) AS low, max(sequence) AS high FROM engine_intervals"
        f" WHERE {_between(since_ms, until_ms)} GROUP BY source HAVING high > low"
    )
    records = [
        f"SELECT source, sequence FROM {table} WHERE {_between(since_ms - DAY_MS, now_ms)}"
        for table in _TABLES
    ]
    records.append(
        "SELECT toUUIDOrZero(dead_letters.source) AS source, sequence FROM dead_letters"
        " WHERE sequence > 0"
    )
    return (
        "SELECT toString(source), (any(high) - any(low)) - groupBitmap(sequence) AS missing"
        f" FROM ({' UNION ALL '.join(records)}) AS records"
        f" INNER JOIN ({spans}) AS spans USING (source)"
        " WHERE sequence > low AND sequence <= high"
        " GROUP BY source HAVING missing > 0 ORDER BY source"
    )


def _between(start_ms: int, end_ms: int) -> str:
    return (
        f"event_time >= fromUnixTimestamp64Milli({start_ms}, 'UTC')"
        f" AND event_time < fromUnixTimestamp64Milli({end_ms}, 'UTC')"
    )
