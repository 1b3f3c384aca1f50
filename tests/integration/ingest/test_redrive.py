"""Dead letters go back to their topic once, byte for byte, also when the redrive is killed."""

import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.kafka.records import TopicRecords
from infra.kafka.topics import ensure_topics
from infra.store.decisions import Decider, decisions_after
from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.sources import register_source
from schemas.clock import FixedClock
from schemas.periods import parse_hour
from schemas.units import NS_PER_MS
from streams.close import HourVerdict, close_hours
from streams.dead_letter_book import Letter, Wanted, discard, in_ledger, letters
from streams.redrive import Redriven, redrive
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript
from tests.support.ingest_log import SentLog
from tests.support.ingest_process import start_worker
from tests.support.redrive_process import killed_redrives

pytestmark = pytest.mark.timeout(600)
STEPS = ("before-intent", "after-intent", "before-send", "after-send")
ADA = Decider("ada", "the check is gone", 7)
DATABASE = "redrive"


@dataclass(slots=True)
class Refused:
    """A log with requests that a CHECK of the ledger refused, and the CHECK is gone by now."""

    kafka: str
    clickhouse: str
    store_url: str
    ledger: Client
    store: Engine
    host: HostScript
    run_worker: Any

    def letters(self) -> list[Letter]:
        """Its dead letters, by sequence."""
        wanted = Wanted(source=self.host.source)
        found = letters(self.ledger, self.store, wanted).letters
        return sorted(found, key=lambda one: one.sequence)

    def lying(self) -> Counter[bytes]:
        """How often each record's exact bytes lie on `usage.v1`."""
        return Counter(one.value for one in TopicRecords(self.kafka).behind("usage.v1", {}))

    def redriven(self, some: Sequence[Letter]) -> Iterator[Redriven]:
        return redrive(self.ledger, self.store, TopicRecords(self.kafka), some, ADA)

    def rows(self) -> list[tuple[int, str, str]]:
        """Sequence, content hash and id of its requests in the ledger."""
        rows = self.ledger.query(
            "SELECT sequence, hex(content_hash), toString(event_id) FROM usage_events FINAL"
            f" WHERE source = '{self.host.source}' ORDER BY sequence"
        ).result_rows
        return [(sequence, content, event_id) for sequence, content, event_id in rows]

    def closed_hour(self) -> HourVerdict:
        """Its first hour, closed as if its source had been registered from the start."""
        register_source(
            self.store,
            source=self.host.source,
            host=self.host.host,
            public_key=self.host.key.public_key_hex(),
            registered_by="test",
            now_ms=OCTOBER_MS,
        )
        clock = FixedClock((OCTOBER_MS + 100 * HOUR_MS) * NS_PER_MS)
        hour = parse_hour("2026-10-01T00")
        return close_hours(self.ledger, self.store, hour, clock=clock).hours[0]

    def servers(self) -> dict[str, str]:
        """As a process of its own is told them."""
        return {
            "kafka": self.kafka,
            "clickhouse": self.clickhouse,
            "database": DATABASE,
            "store_url": self.store_url,
        }


@pytest.fixture(scope="module")
def refused(
    kafka_bootstrap: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Refused]:
    folder: Path = tmp_path_factory.mktemp("redrive")
    ensure_topics(kafka_bootstrap)
    migrate(clickhouse_url, DATABASE)
    store_url = f"sqlite:///{folder / 'store.db'}"
    upgrade(store_url)
    store = open_store(store_url)
    host = HostScript("redrive")
    for place in range(8):
        host.request(OCTOBER_MS + 60_000 * (place + 1))
    host.interval(OCTOBER_MS + HOUR_MS)
    host.closed(OCTOBER_MS + HOUR_MS)
    with connect(clickhouse_url, DATABASE) as ledger:

        def run_worker() -> int:
            worker = start_worker(
                kafka=kafka_bootstrap,
                clickhouse=clickhouse_url,
                database=DATABASE,
                group="redrive",
                folder=folder / "worker",
                until_idle_s=1,
            )
            try:
                return worker.wait(180)
            finally:
                worker.kill()

        ledger.command(
            "ALTER TABLE usage_events ADD CONSTRAINT not_these"
            f" CHECK source != '{host.source}' OR sequence > 7"
        )
        SentLog(kafka_bootstrap).send(host.records)
        assert run_worker() == 0
        ledger.command("ALTER TABLE usage_events DROP CONSTRAINT not_these")
        yield Refused(kafka_bootstrap, clickhouse_url, store_url, ledger, store, host, run_worker)
        ledger.command(f"DROP DATABASE {DATABASE}")
    store.dispose()


def by_sequence(done: Iterable[Redriven]) -> list[str]:
    return [one.outcome for one in sorted(done, key=lambda one: one.letter.sequence)]


def test_redrive_is_exactly_once_wherever_it_is_killed_and_its_hour_closes(
    refused: Refused,
) -> None:
    """Six letters: one per step at which a redrive dies, one that is sent twice, one discarded."""
    found, host = refused.letters(), refused.host
    assert [one.sequence for one in found] == [2, 3, 4, 5, 6, 7]
    assert {one.reason for one in found} == {"ledger.refused"}
    killed, twice, discarded = found[:4], found[4], found[5]
    places = {step: letter.place for step, letter in zip(STEPS, killed, strict=True)}
    assert set(killed_redrives(refused.servers(), places).values()) == {-signal.SIGKILL}
    discard(refused.store, [discarded], ADA)

    first = list(refused.redriven(refused.letters()))
    again = list(refused.redriven([*refused.letters(), twice]))

    assert by_sequence(first) == ["sent", "sent", "sent", "already there", "sent", "not sent"]
    assert by_sequence(again) == ["already there"] * 6 + ["not sent"]
    assert {one.detail for one in first if one.letter.place == discarded.place} == {
        "discarded by ada: the check is gone"
    }
    lying = refused.lying()
    for letter in found:
        value = host.records[letter.sequence - 1].value
        assert lying[value] == (1 if letter is discarded else 2), letter.sequence
    kinds = sorted(one.kind for one in decisions_after(refused.store, 0))
    assert kinds == ["discard_dead_letter"] + ["redrive_dead_letter"] * 5

    assert refused.run_worker() == 0
    assert len(in_ledger(refused.ledger, found)) == 5
    sent = [one for one in host.records[1:9] if one.event.sequence != discarded.sequence]
    assert refused.rows() == [
        (one.event.sequence, one.content_hash.hex().upper(), one.event.id) for one in sent
    ]
    later = refused.redriven(refused.letters()[:5])
    assert [one.detail for one in later] == ["in the ledger"] * 5
    hour = refused.closed_hour()
    assert (hour.state, hour.reason, hour.events, hour.copies) == ("published", "", 7, 0)
