"""SQL that reads sources, their records, intervals and parts for the completeness check."""

from schemas.control import SourceClosed, SourceOpened
from schemas.topics import event_type
from schemas.usage import UsageLost
from streams.rollup_sql import HourRange, Offsets, proven

BATCH = "batch_source UUID, number UInt32"
SPANS = "span_source UUID, first UInt32, last UInt32"
REJECTED = "hash String"
"""Structures of the external tables: sources of one batch, proven spans, rejected contents."""

_MS = "toUnixTimestamp64Milli(event_time)"
_OF_BATCH = "source IN (SELECT batch_source FROM batch)"

_CONTROL_TYPES = ", ".join(
    f"'{event_type(one)}'" for one in (SourceOpened, SourceClosed, UsageLost)
)
EVENT_TABLES = ("usage_events", "engine_parts", "engine_intervals", "fleet_events")

OFFSETS = (
    "SELECT toString(topic), kafka_partition, max(until) FROM ("
    + " UNION ALL ".join(
        f"SELECT topic, kafka_partition, max(kafka_offset) + 1 AS until FROM {table}"
        " GROUP BY topic, kafka_partition"
        for table in (*EVENT_TABLES, "dead_letters")
    )
    + ") GROUP BY topic, kafka_partition"
)

CONTROL_ROWS = f"""
SELECT toString(source), sequence, toString(type), {_MS}, data
FROM fleet_events FINAL
PREWHERE {{offsets}}
WHERE type IN ({_CONTROL_TYPES}) AND {_OF_BATCH}
"""

FIRST_SEEN = (
    "SELECT toString(source), min(ms) FROM ("
    + " UNION ALL ".join(
        f"SELECT source, min({_MS}) AS ms FROM {table} PREWHERE {{offsets}}"
        f" WHERE {_OF_BATCH} GROUP BY source"
        for table in EVENT_TABLES
    )
    + ") GROUP BY source"
)

INTERVAL_COUNTS = f"""
SELECT toString(source), count()
FROM engine_intervals
PREWHERE {{offsets}}
WHERE event_time >= fromUnixTimestamp64Milli({{since_ms}}, 'UTC') AND {_OF_BATCH}
GROUP BY source
"""


def interval_rows(offsets: Offsets, hours: HourRange) -> str:
    """Intervals with their signed range; the last columns are those of `IntervalFacts`."""
    return (
        "SELECT batch.number, lower(hex(content_hash)), range_first, range_last, range_sha256,"
        " range_signature, sequence, toString(engine), toString(replica), start_unix_ns,"
        " end_unix_ns, owned_ns, attributed_ns, stall_ns, idle_ns, overhead_ns, startup_ns,"
        " open_step_start_ns, open_step_end_ns, unaccounted_ns, in_flight_start_ns,"
        " in_flight_end_ns, ordinal_start, ordinal_end, toUnixTimestamp64Milli(oldest_open_at)"
        " FROM engine_intervals FINAL INNER JOIN batch ON batch.batch_source = source"
        f" PREWHERE {offsets.condition()} WHERE {hours.condition()}"
        " ORDER BY batch.number, sequence"
    )


def record_stream(offsets: Offsets, hours: HourRange) -> str:
    """Every record of the batch: number of its source, sequence, content hash, and its hour.

    The hour is in hours since the epoch for a finished request, 1 for a dead letter, else 0. Of a
    dead letter that is in the ledger too by now, its row there comes first.
    """
    tables = {
        "usage_events": f"toUInt32(intDiv({_MS}, 3600000))",
        "engine_parts": "toUInt32(0)",
        "engine_intervals": "toUInt32(0)",
        "fleet_events": "toUInt32(0)",
    }
    selects = [
        f"SELECT source, sequence, content_hash, {hour} AS hour FROM {table} FINAL"
        f" PREWHERE {offsets.condition()} WHERE {hours.condition()} AND {_OF_BATCH}"
        for table, hour in tables.items()
    ]
    selects.append(
        "SELECT DISTINCT toUUIDOrZero(dead_letters.source) AS source, sequence,"
        " toFixedString(unhex(substring(content_sha256, 1, 32)), 16) AS content_hash,"
        " toUInt32(1) AS hour FROM dead_letters FINAL"
        f" PREWHERE {offsets.condition()} WHERE sequence > 0"
        " AND toUUIDOrZero(dead_letters.source) IN (SELECT batch_source FROM batch)"
    )
    return (
        f"SELECT batch.number AS number, sequence, content_hash, hour"
        f" FROM ({' UNION ALL '.join(selects)}) AS records"
        " INNER JOIN batch ON batch.batch_source = records.source"
        " ORDER BY number, sequence, content_hash, hour = 1"
    )


def parts_by_interval(offsets: Offsets, hours: HourRange) -> str:
    """Proven parts summed by the interval that covers their ordinal (0 where none does)."""
    inline = (
        "SELECT source, engine, ordinal, part_gpu_ns FROM ("
        + proven(
            "usage_events",
            "source, parts_engine, parts_ordinal, parts_gpu_ns",
            offsets,
            hours,
        )
        + ") ARRAY JOIN parts_engine AS engine, parts_ordinal AS ordinal,"
        " parts_gpu_ns AS part_gpu_ns"
    )
    apart = proven("engine_parts", "source, engine, ordinal, gpu_ns AS part_gpu_ns", offsets, hours)
    intervals = proven(
        "engine_intervals", "source, engine, sequence, ordinal_start, ordinal_end", offsets, hours
    )
    return (
        "SELECT batch.number, toString(parts.engine), intervals.sequence, count(),"
        " uniqExact(parts.ordinal), sum(parts.part_gpu_ns)"
        f" FROM ({inline} UNION ALL {apart}) AS parts"
        f" ASOF LEFT JOIN (SELECT * FROM ({intervals}) WHERE ordinal_end > ordinal_start)"
        " AS intervals ON parts.source = intervals.source AND parts.engine = intervals.engine"
        " AND parts.ordinal <= intervals.ordinal_end"
        " INNER JOIN batch ON batch.batch_source = parts.source"
        " GROUP BY batch.number, parts.engine, intervals.sequence"
    )
