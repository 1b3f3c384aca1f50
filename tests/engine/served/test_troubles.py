"""Stock `vllm serve` with a full disk that goes on serving, and is stopped too fast to finish."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.kafka.topics import ensure_topics
from tests.engine.served.host import ServedHost
from tests.engine.served.story import assert_counts_are_the_clients, requests_of, say
from tests.engine.served.traffic import KINDS, Traffic
from tests.engine.served.trouble import (
    AGAIN_S,
    SMALL,
    end_while_busy,
    fill,
    lost_by,
    published,
    spool_bytes,
)
from tests.support.servers.kafka import KafkaAwayAndBack

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(1_800),
    # kafka-python leaves the sockets of a producer that is dropped to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAwayAndBack]:
    with KafkaAwayAndBack(tmp_path_factory.mktemp("kafka")) as found:
        ensure_topics(found.bootstrap)
        yield found


@pytest.mark.deep
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
