"""Fills the log with events and noise, and says what of it is missing or doubled in a ledger."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaProducer

from infra.clickhouse.client import Client
from tests.support.events import OCTOBER_MS, HostScript, Record

TABLES = ("usage_events", "engine_parts", "engine_intervals", "fleet_events")


def traffic(name: str, requests: int) -> HostScript:
    """One host's whole life: every kind of event that goes to the ledger."""
    host = HostScript(name)
    for place in range(requests):
        request = host.request(OCTOBER_MS + 60_000 + place * 3, f"tenant-{place % 5}")
        if place % 100 == 0:
            host.part_of(request)
    host.lost(OCTOBER_MS + 90_000)
    host.interval(OCTOBER_MS + 1_200_000)
    host.closed(OCTOBER_MS + 1_300_000)
    return host


@dataclass(slots=True)
class SentLog:
    """What was sent, to be found again."""

    bootstrap: str
    events: list[Record] = field(default_factory=list)
    noise: list[tuple[str, int, int, bytes]] = field(default_factory=list)
    """Topic, partition, offset and value of records that must be refused."""

    def send(self, records: Iterable[Record], noise: Iterable[tuple[str, bytes]] = ()) -> None:
        """Append events, and values that are none, each to its topic."""
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, compression_type="lz4")
        for record in records:
            producer.send(record.topic, key=record.key, value=record.value)
            self.events.append(record)
        for topic, value in noise:
            future: Any = producer.send(topic, key=b"noise", value=value)
            placed = future.get(timeout=30)
            self.noise.append((topic, placed.partition, placed.offset, value))
        producer.close()


def copies_of(ledger: Client, records: Iterable[Record]) -> Counter[str]:
    """How often each event is in the ledger, after identical copies were collapsed."""
    found: Counter[str] = Counter({record.event.id: 0 for record in records})
    for table in TABLES:
        rows = ledger.query(f"SELECT event_id, content_hash FROM {table} FINAL").result_rows
        for event_id, _ in rows:
            if str(event_id) in found:
                found[str(event_id)] += 1
    return found


def problems(ledger: Client, sent: SentLog) -> list[str]:
    """Events that are missing, doubled or changed, and refusals that are missing; in words."""
    found = copies_of(ledger, sent.events)
    wrong = [f"{event} is there {count} times" for event, count in found.items() if count != 1]
    rows = ledger.query(
        "SELECT topic, kafka_partition, kafka_offset, value FROM dead_letters FINAL",
        query_formats={"String": "bytes"},
    ).result_rows
    letters = {(_text(topic), partition, offset): value for topic, partition, offset, value in rows}
    for topic, partition, offset, value in sent.noise:
        if letters.get((topic, partition, offset)) != value:
            wrong.append(f"no dead letter for {topic}/{partition}/{offset}")
    return wrong


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
