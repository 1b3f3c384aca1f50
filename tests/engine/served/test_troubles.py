"""Stock `vllm serve` in trouble: Kafka away, disk full, told to stop while it is busy."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from infra.kafka.topics import ensure_topics
from schemas.control import SourceClosed
from schemas.decode import decode_event
from schemas.envelope import Envelope
from schemas.usage import UsageLost
from tests.engine.served.host import ServedHost
from tests.engine.served.story import (
    assert_counts_are_the_clients,
    intervals_of,
    requests_of,
    say,
    told,
)
from tests.engine.served.traffic import BRIEF, KINDS, LONG_ANSWERS, Seen, Traffic
from tests.support.servers.kafka import KafkaAwayAndBack
from tests.support.topic_reader import read_topics

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(1_800),
    # kafka-python leaves the sockets of a producer that is dropped to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
TOPICS = ("usage.v1", "capacity.v1", "control.v1")
SMALL = {
    "outbox_max_bytes": 65_536,
    "outbox_batch_records": 64,
    "spool_max_bytes": 65_536,
    "spool_segment_bytes": 8_192,
    "publish_stuck_s": 10,
}
"""A disk that is full soon after Kafka is away."""
FULL_S, AGAIN_S = 120, 90


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAwayAndBack]:
    with KafkaAwayAndBack(tmp_path_factory.mktemp("kafka")) as found:
        ensure_topics(found.bootstrap)
        yield found


def published(broker: KafkaAwayAndBack, host: ServedHost) -> list[Envelope]:
    """Everything of the host on Kafka, by sequence; copies are equal, and taken once."""
    by_sequence: dict[int, Envelope] = {}
    values: dict[int, bytes] = {}
    lying = read_topics(broker.bootstrap, TOPICS, [host.source])
    for one in lying:
        event = decode_event(one.value)
        assert values.setdefault(event.sequence, one.value) == one.value
        by_sequence[event.sequence] = event
    assert sorted(by_sequence) == list(range(1, len(by_sequence) + 1))
    assert isinstance(by_sequence[len(by_sequence)], SourceClosed)
    say(f"{len(lying)} records on Kafka, {len(by_sequence)} events")
    return [by_sequence[number] for number in sorted(by_sequence)]


def fill(host: ServedHost) -> list[Seen]:
    """Brief requests until the disk is full, and a few more."""
    seen: list[Seen] = []
    deadline_s = time.monotonic() + FULL_S
    full = False
    while not full:
        assert time.monotonic() < deadline_s
        seen += Traffic(host, seed=len(seen), kinds=BRIEF).run(40)
        full = any(one.status == 503 for one in seen)
        if host.settings.spool_when_full == "count":
            full = spool_bytes(host, "doors") > 60_000
    return seen + Traffic(host, seed=len(seen), kinds=BRIEF).run(40)


def spool_bytes(host: ServedHost, kind: str) -> int:
    """What one of its processes has on disk."""
    (folder,) = (host.settings.host_folder / kind).iterdir()
    return sum(path.stat().st_size for path in folder.glob("*.spool"))


def wait_served(host: ServedHost) -> None:
    deadline_s = time.monotonic() + AGAIN_S
    while not host.post("v1/completions", prompt="hello", max_tokens=1).ok:
        assert time.monotonic() < deadline_s
        time.sleep(0.5)


def end_while_busy(host: ServedHost, requests: int) -> list[Seen]:
    """SIGTERM in the middle of long answers; what their clients saw."""
    seen: list[Seen] = []
    traffic = Traffic(host, seed=9, kinds=LONG_ANSWERS)
    busy = threading.Thread(target=lambda: seen.extend(traffic.run(requests, threads=requests)))
    busy.start()
    time.sleep(2)
    host.end()
    busy.join()
    return seen


def lost_by(events: Sequence[Envelope]) -> int:
    return sum(event.data.requests for event in events if isinstance(event, UsageLost))


def test_full_disk_refuses_new_work_loses_nothing_and_a_busy_server_finishes_when_told_to_stop(
    tmp_path: Path, model: Path, broker: KafkaAwayAndBack
) -> None:
    host = ServedHost(tmp_path, model, "--shutdown-timeout 60", bootstrap=broker.bootstrap, **SMALL)
    try:
        host.wait_ready()
        seen = Traffic(host, seed=3).run(len(KINDS))
        broker.stop()
        away = fill(host)
        broker.start()
        wait_served(host)
        seen += away + Traffic(host, seed=4).run(len(KINDS))
    finally:
        seen += end_while_busy(host, 6)
    events = published(broker, host)
    requests = requests_of(events)
    refused = [one for one in seen if one.status == 503]
    say(f"disk full, refuse: {len(refused)} turned away; {told(seen, events)}")
    assert len(refused) >= 10
    assert not any(one.request for one in refused)
    assert not lost_by(events)
    assert [one.broken for one in seen if one.broken] == []
    assert assert_counts_are_the_clients(host, seen, requests) > 60
    assert not any(one.data.unaccounted_ns for one in intervals_of(events))
    busy = [requests[one.request.removeprefix("rr1-")] for one in seen if "long" in one.kind]
    answers = [event.data for event in busy if event.data.http_status == 200]
    assert len(answers) >= 5
    assert {data.outcome for data in answers} == {"length"}
    assert {data.output_text_tokens for data in answers} == {150}


def test_full_disk_that_counts_serves_everybody_and_says_how_many_requests_it_lost(
    tmp_path: Path, model: Path, broker: KafkaAwayAndBack
) -> None:
    policy = {"spool_when_full": "count"}
    # A second is too short for the answers in progress: vLLM then kills its engine.
    options = "--shutdown-timeout 1"
    host = ServedHost(tmp_path, model, options, bootstrap=broker.bootstrap, **SMALL, **policy)
    try:
        host.wait_ready()
        broker.stop()
        seen = fill(host)
        broker.start()
        deadline_s = time.monotonic() + AGAIN_S
        while spool_bytes(host, "doors") > 30_000 or spool_bytes(host, "engines") > 30_000:
            assert time.monotonic() < deadline_s
            time.sleep(0.5)
        after = Traffic(host, seed=4).run(len(KINDS))
    finally:
        busy = end_while_busy(host, 6)
    events = published(broker, host)
    requests = requests_of(events)
    lost = lost_by(events)
    missing = [one for one in seen if one.request.removeprefix("rr1-") not in requests]
    outcomes = Counter(event.data.outcome for event in requests.values())
    say(
        f"disk full, count: {len(seen) + len(after) + len(busy)} requests of clients,"
        f" {len(requests)} events {dict(outcomes)}, {lost} declared lost, {len(missing)} missing"
    )
    assert {one.status for one in seen} == {200}
    assert lost == len(missing) > 0
    assert_counts_are_the_clients(host, after, requests)
    died = [requests[one.request.removeprefix("rr1-")].data for one in busy if one.request]
    assert {data.outcome for data in died} <= {"engine_death", "length", "refused"}
    assert "engine_death" in {data.outcome for data in died}
