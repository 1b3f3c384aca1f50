"""Live spend over a real broker: every event once, whoever is killed, corrected by hour close."""

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from sqlalchemy import Engine, func, select

from infra.kafka.topics import ensure_topics
from infra.store.live_spend import offset_of, read_windows
from infra.store.tables import live_windows
from schemas.topics import USAGE
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, Record
from tests.support.live_process import start_live
from tests.support.spend_examples import TOKEN_E9

pytestmark = pytest.mark.timeout(240)

_names = itertools.count(1)
ON_SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
"""What happens around the store is the same on both; one test of each kind goes to both."""
REQUEST_E9 = 100 * TOKEN_E9["input"] + 20 * TOKEN_E9["output"]
"""What one request of `HostScript` costs by `SPEND_BOOK`."""
StartLive = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def tenant() -> str:
    """Nobody else's: the topic is shared by all tests, and each test's store sums all of it."""
    return f"tenant-{os.getpid()}-{next(_names)}"


@pytest.fixture
def live(
    kafka_bootstrap: str, store_url: str, priced_store: Engine, tmp_path: Path
) -> Iterator[StartLive]:
    """Starts workers of one group of their own; all are gone when the test ends."""
    ensure_topics(kafka_bootstrap)
    started: list[subprocess.Popen[bytes]] = []
    group = f"live-{os.getpid()}-{next(_names)}"

    def start(**more: object) -> subprocess.Popen[bytes]:
        worker = start_live(
            kafka=kafka_bootstrap,
            store_url=store_url,
            folder=tmp_path / f"live-{len(started)}",
            group=group,
            **more,  # type: ignore[arg-type]
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.wait(20)


def send(bootstrap: str, records: list[Record], copies: int = 1) -> None:
    """Each record so often, as a producer would that was not sure."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, compression_type="lz4")
    for record in records:
        for _ in range(copies):
            producer.send(record.topic, key=record.key, value=record.value)
    producer.close()


def requests_of(tenant: str, count: int, at_ms: int = OCTOBER_MS + 60_000) -> list[Record]:
    host = HostScript(f"live {tenant} {at_ms}")
    return [host.request(at_ms + place, tenant) for place in range(count)]


def spent(store: Engine, tenant: str, grain: str = "hour") -> tuple[int, int]:
    """Requests and amount of a tenant over all windows."""
    found = read_windows(store, tenant, grain, 0, 2**60)  # type: ignore[arg-type]
    return (
        sum(one["requests"] for one in found.values()),
        sum(one["amount_e9"] for one in found.values()),
    )


def wait_for(what: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_requests_and_their_estimated_cost_are_readable_once_per_event(
    kafka_bootstrap: str, priced_store: Engine, live: StartLive, tenant: str
) -> None:
    send(kafka_bootstrap, requests_of(tenant, 50), copies=3)
    assert live(until_idle_s=0.5).wait(90) == 0
    assert spent(priced_store, tenant, "minute") == (50, 50 * REQUEST_E9)
    assert spent(priced_store, tenant, "hour") == (50, 50 * REQUEST_E9)


@ON_SQLITE
def test_killed_at_any_step_of_a_commit_the_next_worker_gets_the_same_sums(
    kafka_bootstrap: str, priced_store: Engine, live: StartLive, tenant: str
) -> None:
    records = requests_of(tenant, 600)
    send(kafka_bootstrap, records[:200])
    for step in ("before-commit:1", "after-commit:2"):
        dying = live(die_at=step, settings={"RENTROLL_LIVE_COMMIT_MS": "20"})
        # Something to commit, again and again, whatever was summed before.
        for first in range(40):
            if dying.poll() is not None:
                break
            send(kafka_bootstrap, records[200 + first * 10 : 210 + first * 10])
            time.sleep(0.5)
        assert dying.wait(60) == -9, step
    send(kafka_bootstrap, records)
    assert live(until_idle_s=0.5).wait(90) == 0
    assert spent(priced_store, tenant) == (600, 600 * REQUEST_E9)


@ON_SQLITE
def test_copy_that_comes_after_a_restart_is_known(
    kafka_bootstrap: str, priced_store: Engine, live: StartLive, tenant: str
) -> None:
    records = requests_of(tenant, 20)
    send(kafka_bootstrap, records)
    assert live(until_idle_s=0.5).wait(90) == 0
    send(kafka_bootstrap, records)
    assert live(until_idle_s=0.5).wait(90) == 0
    assert spent(priced_store, tenant) == (20, 20 * REQUEST_E9)


def test_two_workers_share_the_partitions_and_their_sums_add_up(
    kafka_bootstrap: str, priced_store: Engine, live: StartLive, tenant: str
) -> None:
    workers = [live(), live()]
    records = requests_of(tenant, 400)
    send(kafka_bootstrap, records[:200])
    wait_for(lambda: spent(priced_store, tenant)[0] == 200)
    workers[0].terminate()
    assert workers[0].wait(60) == 0
    send(kafka_bootstrap, records[200:])
    wait_for(lambda: spent(priced_store, tenant)[0] == 400)
    assert spent(priced_store, tenant) == (400, 400 * REQUEST_E9)


@ON_SQLITE
def test_partial_sums_lie_by_partition_and_the_offsets_are_at_the_logs_ends(
    kafka_bootstrap: str, priced_store: Engine, live: StartLive, tenant: str
) -> None:
    send(kafka_bootstrap, requests_of(tenant, 100))
    assert live(until_idle_s=0.5).wait(90) == 0
    consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap)
    places = [TopicPartition(USAGE.name, number) for number in range(USAGE.partitions)]
    ends = consumer.end_offsets(places)
    consumer.close()
    for place in places:
        assert offset_of(priced_store, place.topic, place.partition) == ends[place]
    counted = select(func.count(func.distinct(live_windows.c.kafka_partition))).where(
        live_windows.c.tenant == tenant
    )
    with priced_store.connect() as connection:
        assert connection.execute(counted).scalar_one() == USAGE.partitions


@ON_SQLITE
def test_windows_are_of_the_time_at_which_a_request_was_admitted(
    kafka_bootstrap: str, priced_store: Engine, live: StartLive, tenant: str
) -> None:
    send(kafka_bootstrap, requests_of(tenant, 1, OCTOBER_MS + HOUR_MS - 1))
    send(kafka_bootstrap, requests_of(tenant, 1, OCTOBER_MS + HOUR_MS))
    assert live(until_idle_s=0.5).wait(90) == 0
    for start_ms in (OCTOBER_MS, OCTOBER_MS + HOUR_MS):
        found = read_windows(priced_store, tenant, "hour", start_ms, start_ms + HOUR_MS)
        assert [one["requests"] for one in found.values()] == [1]
