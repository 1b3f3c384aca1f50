"""Ingest on a real broker and a real ClickHouse: everything once, refusals with their reason."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from kafka import KafkaConsumer

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.kafka.topics import ensure_topics
from tests.support.events import OCTOBER_MS, HostScript, Record
from tests.support.ingest_log import SentLog, problems, traffic
from tests.support.ingest_process import start_worker

pytestmark = pytest.mark.timeout(300)

MONTH_MS = 31 * 24 * 3_600_000
NOISE = [
    ("usage.v1", b"not json"),
    ("usage.v1", b"\xff\xfe"),
    ("capacity.v1", b"{}"),
    ("control.v1", b'{"type":"io.rentroll.nothing.happened.v1"}'),
    ("dlq.v1", b"not a dead letter"),
]


@dataclass(frozen=True, slots=True)
class Ingested:
    """A log with everything in it that can go right or wrong, after one worker went over it."""

    sent: SentLog
    ledger: Client
    everything: HostScript
    invalid: Record
    refused_by_a_check: Record
    run_again: Any


@pytest.fixture(scope="module")
def ingested(
    kafka_bootstrap: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ingested]:
    ensure_topics(kafka_bootstrap)
    migrate(clickhouse_url, "ingest_once")
    sent = SentLog(kafka_bootstrap)
    everything, months = traffic("everything", 1_500), HostScript("months")
    for place in range(240):
        months.request(OCTOBER_MS + place * MONTH_MS)
    invalid = HostScript("invalid").request(OCTOBER_MS, "acme")
    refused = HostScript("refused").request(OCTOBER_MS)

    with connect(clickhouse_url, "ingest_once") as ledger:
        ledger.command(
            "ALTER TABLE usage_events ADD CONSTRAINT not_that"
            f" CHECK event_id != '{refused.event.id}'"
        )
        sent.send(everything.records, NOISE)
        # One key: all months in one partition, so in one insert, more than ClickHouse takes.
        sent.send([replace(record, key=b"one") for record in months.records])
        bad = invalid.value.replace(b'"http_status":200', b'"http_status":99')
        sent.send([], [("usage.v1", bad), ("capacity.v1", invalid.value)])
        SentLog(kafka_bootstrap).send([refused])

        def run(group: str = "once", **settings: str) -> int:
            worker = start_worker(
                kafka=kafka_bootstrap,
                clickhouse=clickhouse_url,
                database="ingest_once",
                group=f"ingest-{group}",
                folder=tmp_path_factory.mktemp("worker"),
                until_idle_s=1,
                settings=settings,
            )
            try:
                return worker.wait(120)
            finally:
                worker.kill()

        assert run() == 0
        yield Ingested(sent, ledger, everything, invalid, refused, run)
        ledger.command("DROP DATABASE ingest_once")


def test_everything_sent_is_in_the_ledger_once_and_noise_is_a_dead_letter(
    ingested: Ingested,
) -> None:
    assert problems(ingested.ledger, ingested.sent) == []


def test_rows_carry_the_hash_of_the_exact_bytes_that_were_sent(ingested: Ingested) -> None:
    rows = ingested.ledger.query(
        "SELECT hex(content_hash) FROM usage_events FINAL"
        f" WHERE source = '{ingested.everything.source}'"
    ).result_rows
    wanted = {
        record.content_hash.hex().upper()
        for record in ingested.everything.records
        if b"request.finished" in record.value
    }
    assert {row[0] for row in rows} == wanted


def test_a_refused_event_says_where_it_lay_why_and_whose_it_was(ingested: Ingested) -> None:
    event = ingested.invalid.event
    rows = ingested.ledger.query(
        "SELECT topic, reason, detail, source, sequence, event_id, tenant FROM dead_letters FINAL"
        f" WHERE source = '{event.source}' ORDER BY topic"
    ).result_rows
    whose = (event.source, event.sequence, event.id, "acme")
    assert [(row[0], row[1], *row[3:]) for row in rows] == [
        ("capacity.v1", "event.wrong_topic", *whose),
        ("usage.v1", "event.invalid", *whose),
    ]
    assert rows[1][2] == "data.http_status: Input should be greater than or equal to 100, got 99"


def test_a_dead_letter_on_the_topic_holds_the_exact_bytes(ingested: Ingested) -> None:
    letters = {}
    for value in _values(ingested.sent.bootstrap, "dlq.v1"):
        if value.startswith(b"{"):
            letter = json.loads(value)
            letters[letter["topic"], letter["partition"], letter["offset"]] = letter
    for topic, partition, offset, value in ingested.sent.noise:
        if topic != "dlq.v1":
            assert base64.b64decode(letters[topic, partition, offset]["value_base64"]) == value


def test_a_row_that_the_ledger_refuses_is_a_dead_letter_with_the_servers_words(
    ingested: Ingested,
) -> None:
    event = ingested.refused_by_a_check.event
    ((reason, detail, value),) = ingested.ledger.query(
        "SELECT reason, detail, value FROM dead_letters FINAL"
        f" WHERE source = '{event.source}' AND sequence = {event.sequence}"
    ).result_rows
    assert reason == "ledger.refused"
    assert "not_that" in detail
    assert value.encode() == ingested.refused_by_a_check.value


def test_a_second_worker_finds_nothing_to_do_and_changes_nothing(ingested: Ingested) -> None:
    count = "SELECT count() FROM usage_events"
    before = ingested.ledger.query(count).result_rows
    assert ingested.run_again() == 0
    assert ingested.ledger.query(count).result_rows == before


def test_the_whole_log_again_by_the_grouping_transport_changes_nothing(
    ingested: Ingested,
) -> None:
    assert ingested.run_again("grouped", RENTROLL_INGEST_GROUPED="true") == 0
    assert problems(ingested.ledger, ingested.sent) == []


def _values(bootstrap: str, topic: str) -> list[bytes]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        consumer_timeout_ms=3_000,
    )
    try:
        return [record.value for record in consumer]
    finally:
        consumer.close()
