"""What closing one hour costs, for three sizes of it: `python -m bench.close`.

Each size has a ledger of its own, filled through our decoder and sink with records that two hosts
signed. Timed is `close_hours` on one hour: proving both sources, digesting, rolling up, verifying,
publishing; then the same again, when nothing has changed. Required: four times the events take at
most 4.6 times as long (15% above linear).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from infra.clickhouse.client import connect
from infra.clickhouse.migrate import migrate
from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.sources import register_source
from schemas.clock import SystemClock
from schemas.periods import parse_hour
from schemas.topics import TOPICS
from streams.clickhouse_sink import ClickHouseSink
from streams.close import close_hours
from streams.decode import decode
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript
from tests.support.servers.clickhouse import clickhouse

RELATIVE_MAX = 1.15
HOUR = parse_hour("2026-10-01T00")
INSERT_ROWS = 20_000
INTERVALS = 720


def main() -> int:
    """Print seconds and microseconds per event of each size, and whether it is linear."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=25_000, help="of the smallest size")
    asked = parser.parse_args()
    per_event = []
    with clickhouse() as url, tempfile.TemporaryDirectory(prefix="rentroll-bench-") as folder:
        for times in (1, 2, 4):
            events = asked.events * times
            first_s, again_s = _measured(url, Path(folder), events)
            per_event.append(first_s / events)
            print(
                f"{events:>9,} events: closed in {first_s:.2f} s ({first_s / events * 1e6:.1f} us"
                f" an event), closed again unchanged in {again_s:.2f} s"
            )
    ratio = per_event[-1] / per_event[0]
    verdict = "ok" if ratio <= RELATIVE_MAX else "MISSED"
    print(f"cost per event, 4 x / 1 x: {ratio:.2f} (required: at most {RELATIVE_MAX}) {verdict}")
    return 0 if ratio <= RELATIVE_MAX else 1


def _measured(url: str, folder: Path, events: int) -> tuple[float, float]:
    """Seconds of the first close and of the second."""
    database, store_url = f"bench_close_{events}", f"sqlite:///{folder}/{events}.db"
    migrate(url, database)
    upgrade(store_url)
    hosts = [_host(f"host-{number}", events // 2) for number in range(2)]
    _fill(url, database, hosts)
    store, took = open_store(store_url), []
    for host in hosts:
        register_source(
            store,
            source=host.source,
            host=host.host,
            public_key=host.key.public_key_hex(),
            registered_by="bench",
            now_ms=OCTOBER_MS,
        )
    with connect(url, database) as client:
        for _ in range(2):
            began_s = time.perf_counter()
            closing = close_hours(client, store, HOUR, clock=SystemClock())
            took.append(time.perf_counter() - began_s)
            (verdict,) = closing.hours
            if verdict.state != "published" or verdict.events != events:
                raise SystemExit(f"{events} events: {verdict}")
        client.command(f"DROP DATABASE {database} SYNC")
    store.dispose()
    return took[0], took[1]


def _host(name: str, requests: int) -> HostScript:
    """A host that served so many requests in the hour, with an interval every five seconds."""
    host = HostScript(name, host=name)
    every = max(requests // INTERVALS, 1)
    for number in range(requests):
        at_ms = OCTOBER_MS + number * (HOUR_MS - 1) // requests
        host.request(at_ms, tenant=f"tenant-{number % 50}", gpu_ns=1_000_000 + number)
        if number % every == every - 1:
            host.interval(at_ms + 1)
    host.interval(OCTOBER_MS + HOUR_MS)
    host.closed(OCTOBER_MS + HOUR_MS)
    return host


def _fill(url: str, database: str, hosts: list[HostScript]) -> None:
    sink = ClickHouseSink(url, database)
    for topic in TOPICS:
        values = [one.value for host in hosts for one in host.records if one.topic == topic.name]
        for start in range(0, len(values), INSERT_ROWS):
            some = values[start : start + INSERT_ROWS]
            decoded = decode(topic.name, 0, range(start, start + len(some)), some)
            for table, rows in decoded.tables.items():
                sink.insert(table, rows, f"{topic.name}/{start}")


if __name__ == "__main__":
    sys.exit(main())
