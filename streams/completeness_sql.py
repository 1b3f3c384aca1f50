"""SQL that reads sources, their records, intervals and parts for the completeness check."""

from schemas.control import SourceClosed, SourceOpened
from schemas.topics import event_type
from schemas.usage import UsageLost
from streams.rollup_sql import HourRange, Offsets, proven

BATCH = "batch_source UUID, number UInt32"
SPANS = "span_source UUID, first UInt32, last UInt32"
REJECTED = "hash String"
HOSTS = "host_source UUID, host UInt32"
"""Structures of the external tables: sources of one batch, proven spans, rejected contents, and
which host each source is of."""

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

LAST_SEEN = (
    "SELECT toString(source), max(ms) FROM ("
    + " UNION ALL ".join(
        f"SELECT source, max({_MS}) AS ms FROM {table} PREWHERE {{offsets}}"
        f" WHERE {_OF_BATCH} GROUP BY source"
        for table in EVENT_TABLES
    )
    + ") GROUP BY source"
)

ENGINES_OF_SOURCES = f"""
SELECT DISTINCT toString(source), toString(engine)
FROM engine_intervals
PREWHERE {{offsets}}
WHERE {_OF_BATCH}
"""

INTERVAL_COUNTS = f"""
SELECT toString(source), count()
FROM engine_intervals
PREWHERE {{offsets}}
WHERE event_time >= fromUnixTimestamp64Milli({{since_ms}}, 'UTC') AND {_OF_BATCH}
GROUP BY source
"""


def range_rows(offsets: Offsets, hours: HourRange) -> str:
    """The signed ranges that intervals carry."""
    return (
        "SELECT batch.number, range_first, range_last, range_sha256, range_signature"
        " FROM engine_intervals FINAL INNER JOIN batch ON batch.batch_source = source"
        f" PREWHERE {offsets.condition()} WHERE {hours.condition()}"
        " ORDER BY batch.number, sequence"
    )


def interval_rows(offsets: Offsets, hours: HourRange) -> str:
    """Intervals; the columns from the third on are those of `IntervalFacts`."""
    return (
        "SELECT batch.number, lower(hex(content_hash)), sequence, toString(engine),"
        " toString(replica), start_unix_ns,"
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
    """Proven parts summed by the interval that covers their ordinal.

    One life of an engine may be told by several sources of its host, one after the other, and a
    request that was open when a source ended brings its part on the next one. So parts find their
    interval by host and engine. Not by engine alone: a host that signs parts under another host's
    engine must not upset that host's identity.

    Columns: source (the interval's, or the part's where no interval covers it), engine, sequence
    of the interval (0 where there is none), parts, distinct ordinals, GPU time.
    """
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
        "engine_intervals",
        "source, engine, sequence, ordinal_end",
        offsets,
        hours,
        "ordinal_end > ordinal_start",
    )
    return (
        "SELECT toString(if(intervals.sequence = 0, parts.source, intervals.source)) AS owner,"
        " toString(parts.engine), intervals.sequence, count(), uniqExact(parts.ordinal),"
        " sum(parts.part_gpu_ns)"
        f" FROM ({_with_host(f'{inline} UNION ALL {apart}')}) AS parts"
        f" ASOF LEFT JOIN ({_with_host(intervals)}) AS intervals"
        " ON parts.host = intervals.host AND parts.engine = intervals.engine"
        " AND parts.ordinal <= intervals.ordinal_end"
        " GROUP BY owner, parts.engine, intervals.sequence"
    )


def _with_host(rows: str) -> str:
    return f"SELECT * FROM ({rows}) AS told INNER JOIN hosts ON hosts.host_source = told.source"


def dated_outside(offsets: Offsets, first_ms: int, end_ms: int) -> str:
    """Per source of the batch, its records dated before `first_ms` or from `end_ms` on.

    Columns: source, 1 for those after and 0 for those before, how many, lowest sequence, and the
    time of the record that lies farthest out.
    """
    rows = " UNION ALL ".join(
        f"SELECT source, sequence, {_MS} AS ms FROM {table} PREWHERE {offsets.condition()}"
        f" WHERE {_OF_BATCH} AND (event_time < fromUnixTimestamp64Milli({first_ms}, 'UTC')"
        f" OR event_time >= fromUnixTimestamp64Milli({end_ms}, 'UTC'))"
        for table in EVENT_TABLES
    )
    return (
        f"SELECT toString(source), ms >= {end_ms} AS after, uniqExact(sequence), min(sequence),"
        f" if(after, max(ms), min(ms)) FROM ({rows}) GROUP BY source, after ORDER BY source, after"
    )


def unregistered(offsets: Offsets, hours: HourRange, limit: int) -> str:
    """Requests in some hours of sources that are not in the batch, and what opened them."""
    return (
        "SELECT toString(one.source), one.requests, any(simpleJSONExtractString(opened.data,"
        " 'host')) FROM (SELECT source, uniqExact(event_id) AS requests FROM usage_events"
        f" PREWHERE {offsets.condition()} WHERE {hours.condition()} AND NOT {_OF_BATCH}"
        " GROUP BY source) AS one LEFT JOIN (SELECT source, data FROM fleet_events FINAL"
        f" WHERE type = '{event_type(SourceOpened)}') AS opened ON opened.source = one.source"
        f" GROUP BY one.source, one.requests ORDER BY one.requests DESC, one.source LIMIT {limit}"
    )
