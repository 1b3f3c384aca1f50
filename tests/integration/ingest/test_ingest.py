"""Ingest on a real broker and a real ClickHouse: everything once, refusals with their reason."""

import base64
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.kafka.topics import ensure_topics
from schemas.ids import content_hash
from tests.support.events import OCTOBER_MS, HostScript
from tests.support.ingest_log import SentLog, problems, traffic
from tests.support.ingest_process import start_worker

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def ledger(request: pytest.FixtureRequest, clickhouse_url: str) -> Iterator[Client]:
    """A ledger of this test's own."""
    database = f"ingest_{abs(hash(request.node.name))}"
    migrate(clickhouse_url, database)
    with connect(clickhouse_url, database) as client:
        yield client
        client.command(f"DROP DATABASE {database}")


@pytest.fixture
def sent(kafka_bootstrap: str) -> SentLog:
    ensure_topics(kafka_bootstrap)
    return SentLog(kafka_bootstrap)


Run = Callable[..., int]


@pytest.fixture
def run(
    request: pytest.FixtureRequest,
    kafka_bootstrap: str,
    clickhouse_url: str,
    ledger: Client,
    tmp_path: Path,
) -> Run:
    """Runs a worker until it is idle; returns its exit status."""

    def run_worker(**settings: str) -> int:
        worker = start_worker(
            kafka=kafka_bootstrap,
            clickhouse=clickhouse_url,
            database=ledger.database or "",
            group=f"group-{request.node.name}",
            folder=tmp_path,
            until_idle_s=1,
            settings=settings,
        )
        try:
            return worker.wait(120)
        finally:
            worker.kill()

    return run_worker


NOISE = [
    ("usage.v1", b"not json"),
    ("usage.v1", b"\xff\xfe"),
    ("capacity.v1", b"{}"),
    ("control.v1", b'{"type":"io.rentroll.nothing.happened.v1"}'),
    ("dlq.v1", b"not a dead letter"),
]


def test_everything_sent_is_in_the_ledger_once_and_noise_is_a_dead_letter(
    sent: SentLog, run: Run, ledger: Client
) -> None:
    host = traffic("everything", 1_500)
    sent.send(host.records, NOISE)
    assert run() == 0
    assert problems(ledger, sent) == []
    (hashes,) = zip(
        *ledger.query("SELECT content_hash FROM usage_events FINAL WHERE source = "
                      f"'{host.source}'", query_formats={"FixedString": "bytes"}).result_rows,
        strict=True,
    )
    wanted = {record.content_hash for record in host.records if b"request.finished" in record.value}
    assert set(hashes) == wanted


def test_a_refused_event_says_where_it_lay_why_and_whose_it_was(
    sent: SentLog, run: Run, ledger: Client, kafka_bootstrap: str
) -> None:
    record = HostScript("whose").request(OCTOBER_MS, "acme")
    value = record.value.replace(b'"http_status":200', b'"http_status":99')
    sent.send([], [("usage.v1", value), ("capacity.v1", record.value)])
    assert run() == 0
    assert problems(ledger, sent) == []
    rows = ledger.query(
        "SELECT topic, reason, detail, source, sequence, event_id, tenant FROM dead_letters FINAL"
        f" WHERE source = '{record.event.source}' ORDER BY topic"
    ).result_rows
    whose = (record.event.source, record.event.sequence, record.event.id, "acme")
    assert [(row[0], row[1], *row[3:]) for row in rows] == [
        ("capacity.v1", "event.wrong_topic", *whose),
        ("usage.v1", "event.invalid", *whose),
    ]
    assert rows[1][2] == "data.http_status: Input should be greater than or equal to 100, got 99"
    topic, partition, offset, _ = sent.noise[0]
    letters = [json.loads(found.value) for found in _whole_topic(kafka_bootstrap, "dlq.v1")]
    (letter,) = (
        one
        for one in letters
        if (one.get("topic"), one.get("partition"), one.get("offset")) == (topic, partition, offset)
    )
    assert base64.b64decode(letter["value_base64"]) == value


def test_a_second_worker_finds_nothing_to_do_and_changes_nothing(
    sent: SentLog, run: Run, ledger: Client
) -> None:
    sent.send(traffic("again", 300).records)
    assert run() == 0
    before = ledger.query("SELECT count() FROM usage_events").result_rows
    assert run() == 0
    assert ledger.query("SELECT count() FROM usage_events").result_rows == before


def test_the_grouping_transport_brings_the_same_rows(
    sent: SentLog, run: Run, ledger: Client
) -> None:
    sent.send(traffic("grouped", 300).records, NOISE)
    assert run(RENTROLL_INGEST_GROUPED="true") == 0
    assert problems(ledger, sent) == []


def test_a_row_that_the_ledger_refuses_is_a_dead_letter_and_the_others_are_not(
    sent: SentLog, run: Run, ledger: Client
) -> None:
    host = traffic("refused", 500)
    refused = host.records[250]
    ledger.command(
        f"ALTER TABLE usage_events ADD CONSTRAINT not_that CHECK event_id != '{refused.event.id}'"
    )
    sent.send([record for record in host.records if record is not refused])
    partition_of_refused = SentLog(sent.bootstrap)
    partition_of_refused.send([refused])
    assert run() == 0
    assert problems(ledger, sent) == []
    ((reason, detail, value),) = ledger.query(
        "SELECT reason, detail, value FROM dead_letters FINAL"
        f" WHERE source = '{host.source}' AND sequence = {refused.event.sequence}",
    ).result_rows
    assert reason == "ledger.refused"
    assert "not_that" in detail
    assert content_hash(value.encode()) == refused.content_hash


def test_events_of_more_months_than_one_insert_takes_are_not_refused(
    sent: SentLog, run: Run, ledger: Client
) -> None:
    host = HostScript("months", opened_ms=OCTOBER_MS)
    month_ms = 31 * 24 * 3_600_000
    for place in range(240):
        host.request(OCTOBER_MS + place * month_ms)
    requests = [record for record in host.records if record.topic == "usage.v1"]
    # One key, so that all of them lie in one partition and come with one insert.
    sent.send([_with_key(record) for record in requests])
    assert run() == 0
    assert problems(ledger, sent) == []


def test_sigterm_finishes_what_was_taken_and_commits_it(
    sent: SentLog, kafka_bootstrap: str, clickhouse_url: str, ledger: Client, tmp_path: Path
) -> None:
    sent.send(traffic("sigterm", 2_000).records)
    worker = start_worker(
        kafka=kafka_bootstrap,
        clickhouse=clickhouse_url,
        database=ledger.database or "",
        group="group-sigterm",
        folder=tmp_path,
        settings={"RENTROLL_INGEST_LINGER_MS": "60000", "RENTROLL_INGEST_ROWS": "100000"},
    )
    try:
        _wait_for(lambda: b"starting" in (tmp_path / "worker.log").read_bytes(), tmp_path)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    finally:
        worker.kill()


def _with_key(record: object) -> object:
    from dataclasses import replace

    return replace(record, key=b"one")  # type: ignore[type-var]


def _wait_for(happened: Callable[[], bool], folder: Path) -> None:
    del folder
    import time

    deadline = time.monotonic() + 60
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.1)


def _whole_topic(bootstrap: str, topic: str) -> list[object]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=3_000
    )
    try:
        return list(consumer)
    finally:
        consumer.close()
