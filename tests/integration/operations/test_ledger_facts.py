"""Ledger and store tell their holes, held hours and dead letters as metrics."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.store.engine import open_store
from infra.store.hours import record_hour
from infra.store.migrate import upgrade
from infra.store.sources import register_source
from schemas.clock import FixedClock
from schemas.periods import parse_period
from schemas.units import NS_PER_MS
from streams.facts_exporter import MISSED_MAX, FactsExporter, Servers
from streams.ledger_facts import FACTS
from streams.settings import StreamSettings
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript
from tests.support.ledger import LedgerWriter

pytestmark = pytest.mark.timeout(120)
DATABASE = "ledger_facts"
NOW_MS = OCTOBER_MS + 12 * HOUR_MS
OCTOBER = parse_period("2026-10").start


@pytest.fixture
def ledger(clickhouse_url: str) -> Iterator[Client]:
    migrate(clickhouse_url, DATABASE)
    with connect(clickhouse_url, DATABASE) as client:
        yield client
        client.command(f"DROP DATABASE {DATABASE}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    upgrade(url)
    engine = open_store(url)
    yield engine
    engine.dispose()


def facts(clickhouse_url: str, store: Engine, now_ms: int = NOW_MS) -> dict[str, int]:
    servers = Servers(lambda: connect(clickhouse_url, DATABASE), store)
    exporter = FactsExporter(servers, StreamSettings(), FixedClock(now_ms * NS_PER_MS))
    assert exporter.refresh()
    assert exporter.unready() == []
    lines = [line for line in exporter.text().splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0].removeprefix("rentroll_"): int(line.rsplit(" ", 1)[1])
            for line in lines}  # fmt: skip


def host(name: str) -> HostScript:
    """Ten hours of a request each, with an interval at the end of each hour."""
    script = HostScript(name)
    for hour in range(10):
        script.request(OCTOBER_MS + hour * HOUR_MS + 60_000)
        script.interval(OCTOBER_MS + (hour + 1) * HOUR_MS)
    return script


def test_a_hole_counts_once_it_is_settled_and_not_when_it_was_dead_lettered(
    ledger: Client, store: Engine, clickhouse_url: str
) -> None:
    writer = LedgerWriter(ledger)
    whole, holed, lettered = host("whole"), host("holed"), host("lettered")
    writer.write(whole.records)
    # Twice, as after a crash; without two requests in the middle.
    kept = [one for one in holed.records if one.event.sequence not in (6, 8)]
    writer.write(kept)
    writer.write(kept)
    writer.write(one for one in lettered.records if one.event.sequence != 6)
    writer.write_dead_letter(lettered.records[5])
    found = facts(clickhouse_url, store)
    assert found["ledger_missing_sequences"] == 2
    assert found["ledger_sources_with_holes"] == 1
    assert found['ledger_dead_letters{reason="malformed"}'] == 1

    writer.write(one for one in holed.records if one.event.sequence in (6, 8))
    assert facts(clickhouse_url, store)["ledger_missing_sequences"] == 0


def test_what_is_on_its_way_or_long_past_is_no_hole(
    ledger: Client, store: Engine, clickhouse_url: str
) -> None:
    script = host("late")
    # The last request has not arrived, and its interval is five minutes old.
    LedgerWriter(ledger).write(one for one in script.records if one.event.sequence != 20)
    last_ms = OCTOBER_MS + 10 * HOUR_MS
    just_now = facts(clickhouse_url, store, last_ms + 300_000)
    assert just_now["ledger_missing_sequences"] == 0
    assert facts(clickhouse_url, store, last_ms + 900_000)["ledger_missing_sequences"] == 1
    after_days = last_ms + 4 * 24 * HOUR_MS
    assert facts(clickhouse_url, store, after_days)["ledger_missing_sequences"] == 0


def test_hours_sources_and_the_newest_event_are_told(
    ledger: Client, store: Engine, clickhouse_url: str
) -> None:
    empty = facts(clickhouse_url, store)
    assert (empty["hours_held"], empty["hours_oldest_held_seconds"]) == (0, 0)
    assert "hours_published_age_seconds" not in empty
    for hour, state in enumerate(("published", "held", "held", "published")):
        record_hour(store, OCTOBER + timedelta(hours=hour), state, "because", NOW_MS)  # type: ignore[arg-type]
    register_source(
        store, source="s", host="h", public_key="k", registered_by="test", now_ms=NOW_MS
    )
    found = facts(clickhouse_url, store)
    assert found["hours_held"] == found["hours_published"] == 2
    assert found["hours_oldest_held_seconds"] == 10 * 3_600
    assert found["hours_published_age_seconds"] == 8 * 3_600
    assert found["sources_registered"] == 1


def test_a_server_that_is_away_leaves_the_last_facts_and_their_age(
    ledger: Client, store: Engine, clickhouse_url: str
) -> None:
    address = [clickhouse_url]
    clock = FixedClock(NOW_MS * NS_PER_MS)
    servers = Servers(lambda: connect(address[0], DATABASE), store)
    exporter = FactsExporter(servers, StreamSettings(), clock)
    assert exporter.unready()
    assert exporter.refresh()
    address[0] = "http://127.0.0.1:1"
    clock.advance(90 * 10**9)
    for _ in range(MISSED_MAX):
        assert not exporter.refresh()
    text = exporter.text()
    assert "rentroll_facts_age_seconds 90\n" in text
    assert "rentroll_facts_failed_total 3\n" in text
    assert "rentroll_hours_held 0\n" in text
    assert exporter.unready() == ["ledger or store did not answer 3 times"]


def test_the_command_prints_every_fact_once(
    ledger: Client, store: Engine, clickhouse_url: str, tmp_path: Path
) -> None:
    LedgerWriter(ledger).write(host("now").records)
    environment = os.environ | {
        "RENTROLL_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "RENTROLL_CLICKHOUSE_URL": clickhouse_url,
        "RENTROLL_CLICKHOUSE_DATABASE": DATABASE,
        "RENTROLL_STORE_URL": str(store.url),
        "RENTROLL_STRIPE_API_KEY": "sk_test_0123456789",
    }
    command = [sys.executable, "-m", "rentroll", "metrics", "--once"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [metric.full_name for fact in FACTS for metric in fact.metrics]
    always = [name for name in told if "age_seconds" not in name]
    assert [name for name in always if f"# TYPE {name} gauge" not in done.stdout] == []
