"""The sidecar as it runs beside a server: registered, merged, and on a real Kafka at the end."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from inference.host_source import OUTBOXES_FOLDER
from inference.outbox import SourceIdentity
from inference.run_sidecar import register_in_store, run_sidecar
from infra.kafka.topics import ensure_topics
from infra.stop_request import StopRequest
from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.sources import registered_keys
from schemas.clock import SystemClock
from schemas.decode import decode_event
from schemas.usage import RequestFinished
from tests.support.host_history import HostHistory
from tests.support.host_spools import outbox_events, settings_for, write_history
from tests.support.topic_reader import read_topics

pytestmark = pytest.mark.integration
TOPICS = ("usage.v1", "capacity.v1", "control.v1")


def test_story_of_a_host_reaches_kafka_under_a_registered_source(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    settings = settings_for(tmp_path)
    store_url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    upgrade(store_url)
    ensure_topics(kafka_bootstrap)
    history = HostHistory(21, requests=60)
    history.play(kills=1)
    stop = StopRequest()
    opened: list[SourceIdentity] = []
    register = register_in_store(store_url, SystemClock())

    def on_opened(identity: SourceIdentity) -> None:
        opened.append(identity)
        register(identity)

    def write() -> None:
        for _ in write_history(history, settings):
            pass
        stop.set()

    writing = threading.Thread(target=write)
    writing.start()
    left = run_sidecar(settings, SystemClock(), kafka_bootstrap, stop, on_opened=on_opened)
    writing.join()
    assert left == 0
    (identity,) = opened
    assert registered_keys(open_store(store_url))[identity.source] == identity.key.public_key_hex()
    found = read_topics(kafka_bootstrap, TOPICS, [identity.source])
    events = [decode_event(one.value) for one in found]
    finished = Counter(event.id for event in events if isinstance(event, RequestFinished))
    assert finished == Counter(list(history.opened))
    assert sorted(event.sequence for event in events) == list(range(1, len(events) + 1))


def test_kafka_that_is_away_leaves_everything_for_a_later_run(tmp_path: Path) -> None:
    settings = settings_for(tmp_path).model_copy(update={"drain_s": 3})
    history = HostHistory(22, requests=10)
    history.play()
    for _ in write_history(history, settings):
        pass
    stop = StopRequest()
    stop.set()
    left = run_sidecar(settings, SystemClock(), "127.0.0.1:1", stop, on_opened=lambda _: None)
    assert left == len(outbox_events(settings)) > 10
    assert (settings.host_folder / OUTBOXES_FOLDER).is_dir()
