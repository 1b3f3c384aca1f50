"""SQL that compares a replayed ledger with the published one, table by table on one server."""

from schemas.tables import (
    ENGINE_INTERVALS,
    ENGINE_PARTS,
    FLEET_EVENTS,
    ROLLUP_KEY,
    ROLLUP_MEASURES,
    USAGE_EVENTS,
    Table,
)
from streams.rollup_sql import HourRange, Offsets

COMPARED = (USAGE_EVENTS, ENGINE_PARTS, ENGINE_INTERVALS, FLEET_EVENTS)
"""Tables whose rows belong to an hour by their event time."""
ROLLUP_COLUMNS = (*ROLLUP_KEY, *ROLLUP_MEASURES)
SOURCE_TIMES = (
    "SELECT toString(source), min(event_time_ms), maxIf(event_time_ms, closes) FROM ("
    "SELECT source, toUnixTimestamp64Milli(event_time) AS event_time_ms,"
    " type LIKE '%.source.closed.%' AS closes FROM fleet_events FINAL) GROUP BY source"
)
"""Per source its first control event, and when it closed (0: it did not), from control events."""


def happened(table: Table) -> list[str]:
    """The columns that say what happened, not how a row got there."""
    return [name for name in table.column_names() if name not in table.transport]


def row_digests(database: str, table: Table, offsets: Offsets, hours: HourRange) -> str:
    """Per hour, how many rows there are and a digest over all that they say."""
    row = f"hex(sipHash128({', '.join(happened(table))}))"
    return (
        "SELECT toUnixTimestamp(toStartOfHour(event_time, 'UTC')) * 1000 AS hour_ms, count(),"
        f" lower(hex(SHA256(arrayStringConcat(arraySort(groupArray({row}))))))"
        f" FROM {database}.{table.name} FINAL PREWHERE {offsets.condition()}"
        f" WHERE {hours.condition()} GROUP BY hour_ms"
    )


def differing_events(
    databases: tuple[str, str], table: Table, offsets: Offsets, hours: HourRange
) -> str:
    """The first event whose rows differ: its id, and the content hashes on each side."""
    row = f"sipHash128({', '.join(happened(table))})"
    sides = " UNION ALL ".join(
        f"SELECT {side} AS side, event_id, content_hash, {row} AS row FROM {database}.{table.name}"
        f" FINAL PREWHERE {offsets.condition()} WHERE {hours.condition()}"
        for side, database in enumerate(databases)
    )
    return (
        "SELECT toString(event_id) FROM (SELECT event_id, content_hash, groupArray(side) AS sides"
        f" FROM ({sides}) GROUP BY event_id, content_hash, row)"
        " WHERE sides != [0, 1] AND sides != [1, 0] ORDER BY event_id LIMIT 1"
    )


def rows_of_event(
    database: str, table: Table, offsets: Offsets, hours: HourRange, event_id: str
) -> str:
    """What a database says of one event, each content a row, every value as text."""
    columns = ", ".join(_as_text(name) for name in happened(table))
    return (
        f"SELECT {columns} FROM {database}.{table.name} FINAL PREWHERE {offsets.condition()}"
        f" WHERE {hours.condition()} AND event_id = '{event_id}' ORDER BY content_hash"
    )


def differing_rollups(databases: tuple[str, str], hours: HourRange) -> str:
    """Roll-up rows that only one side has, of each run the first two by their key.

    Needs the external table `runs`.
    """
    columns = ", ".join(ROLLUP_COLUMNS)
    sides = " UNION ALL ".join(
        f"SELECT {side} AS side, {columns} FROM {database}.usage_hourly_runs FINAL"
        f" WHERE hour >= toDateTime({hours.first_ms // 1000}, 'UTC')"
        f" AND hour < toDateTime({hours.end_ms // 1000}, 'UTC')"
        " AND run_id IN (SELECT run_id FROM runs)"
        for side, database in enumerate(databases)
    )
    texts = ", ".join(f"toString({name})" for name in ROLLUP_COLUMNS[2:])
    return (
        "SELECT toUnixTimestamp(hour) * 1000, sides[1], toString(run_id),"
        f" {texts} FROM (SELECT {columns}, groupArray(side) AS sides FROM ({sides})"
        f" GROUP BY {columns}) WHERE length(sides) = 1 ORDER BY {columns} LIMIT 2 BY run_id"
    )


def _as_text(name: str) -> str:
    return "lower(hex(content_hash))" if name == "content_hash" else f"toString({name})"
