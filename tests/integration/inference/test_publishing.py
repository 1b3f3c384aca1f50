"""A simulation's outboxes reach a real Kafka, whole, under their keys, and only once emptied."""

import json
from pathlib import Path

import pytest

from inference.outbox import OutboxRow
from inference.publisher import PublishedCounts, publish_outboxes
from inference.settings import InferenceSettings
from inference.simulate.emitted import Emitted
from inference.simulate.register import register_sources
from inference.simulate.run import SAMPLE_TRACE, simulate
from infra.kafka.topics import ensure_topics
from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.sources import registered_keys
from schemas.errors import ServerError, SpoolError
from schemas.topics import record_key
from tests.support.simulated import outbox_rows, small_plan
from tests.support.topic_reader import Lying, read_topics

TOPICS = ("usage.v1", "capacity.v1", "control.v1")


def published(
    bootstrap: str, folder: Path, seed: int
) -> tuple[Emitted, list[OutboxRow], PublishedCounts]:
    ensure_topics(bootstrap)
    emitted = simulate(small_plan(SAMPLE_TRACE, seed=seed), folder)
    rows = outbox_rows(emitted.folder)
    return emitted, rows, publish_outboxes(emitted.folder, bootstrap)


def lying(bootstrap: str, emitted: Emitted) -> list[Lying]:
    return read_topics(bootstrap, TOPICS, [one.source for one in emitted.sources])


def test_everything_arrives_under_its_key_and_leaves_the_outbox(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    emitted, rows, counts = published(kafka_bootstrap, tmp_path, seed=101)
    assert counts.records == len(rows) == emitted.counts.records
    assert counts.value_bytes == emitted.counts.value_bytes
    assert (counts.resent, counts.rebuilds) == (0, 0)
    assert outbox_rows(emitted.folder) == []
    found = lying(kafka_bootstrap, emitted)
    assert sorted(found) == sorted((row.topic, row.key, row.value) for row in rows)
    for one in found:
        event = json.loads(one.value)
        assert one.key.decode() == record_key(event["type"], event["id"], event["source"])


def test_same_simulation_again_is_a_re_send_of_the_same_bytes(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    emitted, rows, _ = published(kafka_bootstrap, tmp_path / "first", seed=102)
    published(kafka_bootstrap, tmp_path / "again", seed=102)
    found = [one for one in lying(kafka_bootstrap, emitted) if one.topic != "control.v1"]
    usage = [row for row in rows if row.topic != "control.v1"]
    assert len(found) == 2 * len(usage)
    assert {one.value for one in found} == {row.value for row in usage}


def test_empty_folder_publishes_nothing_and_a_missing_one_is_an_error(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    assert publish_outboxes(tmp_path, kafka_bootstrap).records == 0
    with pytest.raises(SpoolError, match="no folder"):
        publish_outboxes(tmp_path / "nowhere", kafka_bootstrap)


def test_unreachable_kafka_ends_in_an_error_and_keeps_the_events(tmp_path: Path) -> None:
    emitted = simulate(small_plan(SAMPLE_TRACE), tmp_path)
    impatient = InferenceSettings.model_validate({"publish_timeout_s": 1})
    with pytest.raises(ServerError, match="acknowledged nothing for 1 s"):
        publish_outboxes(emitted.folder, "127.0.0.1:1", settings=impatient)
    assert len(outbox_rows(emitted.folder)) == emitted.counts.records


def test_sources_are_registered_with_their_keys_once(tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    upgrade(store_url)
    store = open_store(store_url)
    emitted = simulate(small_plan(SAMPLE_TRACE), tmp_path)
    for _ in range(2):
        register_sources(store, emitted, now_ms=5)
    assert registered_keys(store) == {one.source: one.public_key for one in emitted.sources}
    store.dispose()
