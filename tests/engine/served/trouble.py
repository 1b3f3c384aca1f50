"""A host in trouble: Kafka goes away until the disk is full, and it is told to stop while busy."""

import threading
import time
from collections.abc import Sequence

from schemas.control import SourceClosed
from schemas.decode import decode_event
from schemas.envelope import Envelope
from schemas.usage import UsageLost
from tests.engine.served.host import ServedHost
from tests.engine.served.story import say
from tests.engine.served.traffic import BRIEF, LONG_ANSWERS, Seen, Traffic
from tests.support.servers.kafka import KafkaAwayAndBack
from tests.support.topic_reader import read_topics

TOPICS = ("usage.v1", "capacity.v1", "control.v1")
SMALL = {
    "outbox_max_bytes": 131_072,
    "outbox_batch_records": 64,
    "spool_max_bytes": 131_072,
    "spool_segment_bytes": 8_192,
    "publish_stuck_s": 10,
}
"""A disk that is full soon after Kafka is away."""
FULL_BYTES = 120_000
FULL_S, AGAIN_S = 180, 120


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
            full = spool_bytes(host, "doors") > FULL_BYTES
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
