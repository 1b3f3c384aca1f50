"""Kafka goes away with records in flight, for longer than the watchdog waits, and comes back."""

import json
import threading
from pathlib import Path

from inference.host_source import open_source
from inference.publisher import PublishedCounts
from inference.settings import InferenceSettings
from inference.sidecar import publish_while
from infra.kafka.topics import ensure_topics
from infra.stop_request import StopRequest
from schemas.clock import SystemClock
from tests.support.serve_runs import wait_for
from tests.support.servers.kafka import KafkaAwayAndBack
from tests.support.simulated import record
from tests.support.topic_reader import read_topics


def test_kafka_that_comes_back_gets_everything_that_was_in_flight(tmp_path: Path) -> None:
    broker = KafkaAwayAndBack(tmp_path / "kafka")
    try:
        ensure_topics(broker.bootstrap)
        settings = InferenceSettings(host_folder=tmp_path / "host", publish_stuck_s=1)
        outbox, identity, _ = open_source(settings, SystemClock())
        counts, stop = PublishedCounts(), StopRequest()
        left: list[int] = []
        publishing = threading.Thread(
            target=lambda: left.append(
                publish_while(settings, broker.bootstrap, stop, drain_s=60, counts=counts)
            ),
            daemon=True,
        )
        publishing.start()
        # The producer knows the topic: what follows waits in it, and not for its metadata.
        outbox.take([record(0)], outbox.position)
        wait_for(lambda: outbox.pending_bytes() == 0, "the first events on Kafka")
        broker.freeze()
        for number in range(1, 21):
            outbox.take([record(number)], outbox.position)
        wait_for(lambda: counts.rebuilds >= 2, "a watchdog that tried again")
        broker.thaw()
        wait_for(lambda: outbox.pending_bytes() == 0, "everything on Kafka")
        stop.set()
        publishing.join()
        assert left == [0]
        outbox.close()
        lying = read_topics(broker.bootstrap, ["usage.v1", "control.v1"], [identity.source])
        assert {json.loads(one.value)["sequence"] for one in lying} == set(range(1, 23))
    finally:
        broker.stop()
