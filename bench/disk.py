"""Bytes per event on disk against the entropy of each column: `python -m bench.disk`.

Golden-shaped events go through our decoder and sink into the ledger and are merged. A column's
entropy is the least of four codes, each with what its reader must be told first:

    values    the Shannon entropy of its values, plus every distinct value once
    bytes     the entropy of each byte of its values, place by place
    deltas    both of these for the difference to the row before, in the table's order

Each is a real upper bound on what the column says, seen alone: what could be told from *other*
columns is not in it. Required: all columns together take at most 1.15 times their entropies.
"""

import argparse
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from bench.golden_events import golden_values
from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from schemas.tables import USAGE_EVENTS, Column
from schemas.topics import USAGE
from streams.clickhouse_sink import ClickHouseSink
from streams.decode import decode
from tests.support.servers.clickhouse import clickhouse

DATABASE = "bench_disk"
RATIO_MAX = 1.15
INSERT_ROWS = 20_000
WIDTHS = {"UInt16": 2, "UInt32": 4, "UInt64": 8, "Int64": 8, "DateTime64(3, 'UTC')": 8}


def main() -> int:
    """Print every column's bytes an event, its entropy and their ratio, then the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    asked = parser.parse_args()
    table = Table(title=f"usage_events, {asked.events:,} events; bytes an event")
    for heading in ("column", "on disk", "entropy", "ratio", "excess"):
        table.add_column(heading, justify="left" if heading == "column" else "right")
    stored_sum = entropy_sum = 0.0
    with clickhouse() as url:
        migrate(url, DATABASE)
        value_bytes = _fill(url, asked.events)
        with connect(url, DATABASE) as client:
            client.command("OPTIMIZE TABLE usage_events FINAL")
            for column, stored in _stored(client, asked.events):
                entropy = min(_entropies(client, column, asked.events))
                stored_sum, entropy_sum = stored_sum + stored, entropy_sum + entropy
                ratio = f"{stored / entropy:.2f}" if entropy > 0.01 else "-"
                excess = f"{stored - entropy:+.2f}"
                table.add_row(column.name, f"{stored:.2f}", f"{entropy:.2f}", ratio, excess)
            client.command(f"DROP DATABASE {DATABASE} SYNC")
    Console(width=100).print(table)
    ratio_of_all = stored_sum / entropy_sum
    verdict = "ok" if ratio_of_all <= RATIO_MAX else "MISSED"
    print(
        f"{value_bytes} bytes an event as JSON; {stored_sum:.1f} on disk, entropies"
        f" {entropy_sum:.1f}: {ratio_of_all:.2f} (required: at most {RATIO_MAX}) {verdict}"
    )
    return 0 if ratio_of_all <= RATIO_MAX else 1


def _fill(url: str, events: int) -> int:
    """Insert golden events; returns the mean bytes of their JSON."""
    sink, total = ClickHouseSink(url, DATABASE), 0
    for start in range(0, events, INSERT_ROWS):
        values = [value for _, value in golden_values(min(INSERT_ROWS, events - start), start)]
        total += sum(map(len, values))
        decoded = decode(USAGE.name, 0, range(start, start + len(values)), values)
        for table, rows in decoded.tables.items():
            sink.insert(table, rows, f"{start}")
    return total // events


def _stored(client: Client, events: int) -> Iterator[tuple[Column, float]]:
    """Compressed bytes an event of each column, marks and indices left out."""
    rows = client.query(
        "SELECT column, sum(column_data_compressed_bytes) FROM system.parts_columns"
        " WHERE active AND database = currentDatabase() AND table = 'usage_events' GROUP BY column"
    ).result_rows
    sizes: dict[str, int] = {row[0]: row[1] for row in rows}
    for column in USAGE_EVENTS.columns:
        yield column, sizes[column.name] / events


def _entropies(client: Client, column: Column, events: int) -> Iterator[float]:
    """Bytes an event of each code that fits the column's type."""
    inner = (
        column.type.removeprefix("Array(").removesuffix(")")
        if (column.type.startswith("Array"))
        else column.type
    )
    value = f"arrayJoin({column.name})" if inner != column.type else column.name
    rows = f"SELECT {value} AS value FROM usage_events ORDER BY {', '.join(USAGE_EVENTS.order_by)}"
    if inner in WIDTHS:
        number = "toInt64(toUnixTimestamp64Milli(value))" if "Date" in inner else "toInt64(value)"
        yield from _number_codes(
            client, f"SELECT {number} AS v FROM ({rows})", WIDTHS[inner], events
        )
    else:
        width = "16" if inner in ("UUID", "FixedString(16)") else "length(toString(v))"
        text = "reinterpretAsString(value)" if inner == "UUID" else "toString(value)"
        plain = f"SELECT {text} AS v FROM ({rows})"
        yield from _text_codes(client, plain, width, events)


def _number_codes(client: Client, rows: str, width: int, events: int) -> Iterator[float]:
    before = "lagInFrame(v, 1, v) OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)"
    deltas = f"SELECT v - {before} AS v FROM ({rows})"
    for code in (rows, deltas):
        ((entropy, distinct),) = client.query(
            f"SELECT entropy(v), uniqExact(v) FROM ({code})"
        ).result_rows
        yield entropy / 8 + distinct * width / events
        places = ", ".join(f"entropy(bitAnd(bitShiftRight(v, {8 * one}), 255))" for one in range(8))
        (of_bytes,) = client.query(f"SELECT {places} FROM ({code})").result_rows
        yield sum(of_bytes) / 8


def _text_codes(client: Client, rows: str, width: str, events: int) -> Iterator[float]:
    ((entropy, distinct_bytes, longest),) = client.query(
        f"SELECT entropy(v), (SELECT sum({width}) FROM (SELECT DISTINCT v FROM ({rows}))),"
        f" max(length(v)) FROM ({rows})"
    ).result_rows
    yield entropy / 8 + distinct_bytes / events
    if not longest:
        return
    places = ", ".join(f"entropy(substring(v, {one + 1}, 1))" for one in range(longest))
    (of_bytes,) = client.query(f"SELECT {places} FROM ({rows})").result_rows
    yield sum(of_bytes) / 8


if __name__ == "__main__":
    sys.exit(main())
