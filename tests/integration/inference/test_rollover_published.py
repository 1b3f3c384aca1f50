"""Sources that follow each other reach Kafka whole, their sidecar killed again and again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest

from inference.host_source import outboxes_of
from inference.settings import InferenceSettings
from infra.kafka.topics import ensure_topics
from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.sources import registered_keys
from schemas.control import SourceClosed, SourceOpened
from schemas.decode import decode_event
from schemas.envelope import Envelope
from schemas.usage import RequestFinished
from tests.support.host_history import HostHistory
from tests.support.host_spools import settings_for, write_history
from tests.support.serve_runs import wait_for
from tests.support.source import ROOT
from tests.support.topic_reader import read_topics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1_200)]
TOPICS = ("usage.v1", "capacity.v1", "control.v1")
LIVES = 2
EVENTS_MAX = 50
BEGUN_S = 200


def live(settings: InferenceSettings, seed: int) -> set[str]:
    """One life of a host's processes, all in their spools, and over; its requests."""
    history = HostHistory(seed, requests=EVENTS_MAX)
    history.play(kills=1)
    for _ in write_history(history, settings):
        pass
    return set(history.opened)


def has_begun(settings: InferenceSettings, sources: int) -> bool:
    return len(outboxes_of(settings)) >= sources


def sidecar(
    settings: InferenceSettings, bootstrap: str, store_url: str
) -> "subprocess.Popen[bytes]":
    environment = os.environ | settings.as_environment()
    environment |= {"RENTROLL_KAFKA_BOOTSTRAP": bootstrap, "RENTROLL_STORE_URL": store_url}
    command = [sys.executable, "-m", "inference.run_sidecar"]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def test_source_that_follows_another_is_published_whole_though_the_sidecar_is_killed(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    settings = settings_for(tmp_path).model_copy(
        update={"source_max_records": EVENTS_MAX, "door_keys_file": tmp_path / "keys.json"}
    )
    store_url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    upgrade(store_url)
    ensure_topics(kafka_bootstrap)
    dice = random.Random(17)
    requests: set[str] = set()
    for number in range(LIVES):
        requests |= live(settings, 50 + number)
        running = sidecar(settings, kafka_bootstrap, store_url)
        wait_for(partial(has_begun, settings, number + 2), "the next source", BEGUN_S)
        # At once, or while it registers and publishes.
        time.sleep(dice.choice([0, 0.05, 0.3]))
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    requests |= live(settings, 49)
    running = sidecar(settings, kafka_bootstrap, store_url)
    wait_for(partial(has_begun, settings, LIVES + 2), "the last source", BEGUN_S)
    running.terminate()
    assert running.wait(180) == 0
    keys = registered_keys(open_store(store_url))
    by_source: dict[str, dict[int, Envelope]] = defaultdict(dict)
    values: dict[tuple[str, int], bytes] = {}
    for one in read_topics(kafka_bootstrap, TOPICS, list(keys)):
        event = decode_event(one.value)
        assert values.setdefault((event.source, event.sequence), one.value) == one.value
        by_source[event.source][event.sequence] = event
    assert by_source.keys() == keys.keys() == {path.name for path in outboxes_of(settings)}
    assert len(keys) > LIVES
    told: list[str] = []
    for source, events in by_source.items():
        assert sorted(events) == list(range(1, len(events) + 1))
        opened, closed = events[1], events[len(events)]
        assert isinstance(opened, SourceOpened)
        assert opened.data.public_key == keys[source]
        assert isinstance(closed, SourceClosed)
        told += [one.id for one in events.values() if isinstance(one, RequestFinished)]
    assert sorted(told) == sorted(requests)
