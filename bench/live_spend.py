"""How soon an event is in live spend: `python -m bench.live_spend`.

Golden-shaped events go to a real broker at a steady rate; a real worker sums them into a real
store. For each event: from when it was due to be sent until a reader sees that its offset is in the
sums, which is when the query function shows it. Broker, worker, store, producer and reader share
this machine. Required: p99 below 1 s.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kafka import KafkaProducer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from bench.golden_events import golden_values
from billing.price_book_file import EXAMPLE_PRICE_BOOK, read_price_book
from billing.price_books import import_book
from infra.kafka.topics import ensure_topics
from infra.store.engine import open_store
from infra.store.live_spend import offsets_of
from infra.store.migrate import upgrade
from schemas.topics import USAGE
from tests.support.live_process import start_live
from tests.support.servers.kafka import kafka
from tests.support.servers.postgres import postgres

P99_S_MAX = 1.0
LOOK_S = 0.01
WARM_UP_S = 5
DRAIN_S = 60


def main() -> int:
    """Run once; 0 if the requirement holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=10_000, help="events a second")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="postgresql")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder / 'store.db'}"
        if asked.store == "postgresql":
            url = stack.enter_context(postgres())
        upgrade(url)
        store = open_store(url)
        import_book(store, read_price_book(EXAMPLE_PRICE_BOOK), imported_by="bench", now_ms=1)
        bootstrap = stack.enter_context(kafka())
        ensure_topics(bootstrap)
        worker = start_live(kafka=bootstrap, store_url=url, folder=folder, group="bench")
        try:
            late_s = _measure(store, bootstrap, asked.rate, asked.seconds)
        finally:
            worker.kill()
            worker.wait(10)
            store.dispose()
    return _report(late_s, asked)


class _Reader(threading.Thread):
    """Looks again and again how far each partition is summed, and remembers when."""

    def __init__(self, store: Engine) -> None:
        super().__init__(daemon=True)
        self._store = store
        self.done = threading.Event()
        self.seen: dict[int, list[tuple[int, float]]] = {n: [] for n in range(USAGE.partitions)}

    def run(self) -> None:
        while not self.done.is_set():
            with self._store.connect() as connection:
                found = offsets_of(connection, USAGE.name)
            now_s = time.perf_counter()
            for partition, offset in found.items():
                seen = self.seen[partition]
                if not seen or seen[-1][0] < offset:
                    seen.append((offset, now_s))
            time.sleep(LOOK_S)

    def summed(self) -> int:
        return sum(seen[-1][0] for seen in self.seen.values() if seen)


def _measure(store: Engine, bootstrap: str, rate: int, seconds: int) -> list[float]:
    count = rate * (WARM_UP_S + seconds)
    records = list(golden_values(count))
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, compression_type="lz4", linger_ms=5, batch_size=262_144
    )
    reader = _Reader(store)
    reader.start()
    sent: list[tuple[float, Any]] = []
    producer.send(USAGE.name, key=records[0][0], value=records[0][1])
    producer.flush()
    _wait(reader, 1)
    started_s = time.perf_counter()
    for number, (key, value) in enumerate(records[1:]):
        due_s = started_s + number / rate
        ahead_s = due_s - time.perf_counter()
        if ahead_s > 0:
            time.sleep(ahead_s)
        sent.append((due_s, producer.send(USAGE.name, key=key, value=value)))
    producer.flush()
    _wait(reader, count)
    reader.done.set()
    reader.join()
    placed = [(due_s, future.get(timeout=1)) for due_s, future in sent[rate * WARM_UP_S :]]
    producer.close()
    return sorted(_lateness_s(reader, placed))


def _lateness_s(reader: _Reader, placed: list[tuple[float, Any]]) -> list[float]:
    """By partition and offset, so that each partition's looks are gone through once."""
    found = []
    places = dict.fromkeys(reader.seen, 0)
    for due_s, record in sorted(placed, key=lambda one: (one[1].partition, one[1].offset)):
        seen = reader.seen[record.partition]
        while seen[places[record.partition]][0] <= record.offset:
            places[record.partition] += 1
        found.append(seen[places[record.partition]][1] - due_s)
    return found


def _wait(reader: _Reader, count: int) -> None:
    end_s = time.perf_counter() + DRAIN_S
    while reader.summed() < count:
        if time.perf_counter() > end_s:
            raise SystemExit(f"only {reader.summed()} of {count} events were summed in time")
        time.sleep(LOOK_S)


def _report(late_s: list[float], asked: argparse.Namespace) -> int:
    table = Table(
        title=f"{asked.rate:,} events a second for {asked.seconds} s, {asked.store},"
        f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    for heading in ("events", "p50 ms", "p90 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="right")
    parts = [late_s[int(len(late_s) * part)] for part in (0.5, 0.9, 0.99)]
    table.add_row(f"{len(late_s):,}", *(f"{one * 1_000:.0f}" for one in (*parts, late_s[-1])))
    Console().print(table)
    holds = parts[-1] < P99_S_MAX
    print(f"required: p99 below {P99_S_MAX} s: {'ok' if holds else 'MISSED'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
