"""A real broker: topics are made as declared, and a topic that is not as declared is refused."""

import socket
import subprocess
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from infra.kafka.class_archive import archive_of, archive_options
from infra.kafka.jars import fetch_jars, find_java
from infra.kafka.local import LocalKafka
from infra.kafka.probe import cluster_of, serves
from infra.kafka.topics import ensure_topics
from schemas.errors import ServerError
from schemas.topics import CONTROL, TOPICS, USAGE, Topic
from tests.support.servers.kafka import local_kafka


def renamed(topic: Topic, name: str) -> Topic:
    return replace(topic, name=name)


def partitions(bootstrap: str, name: str) -> int:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        (found,) = admin.describe_topics([name])
        return len(found["partitions"])
    finally:
        admin.close()


def test_declared_topics_are_made_and_making_them_again_changes_nothing(
    kafka_bootstrap: str,
) -> None:
    topics = [renamed(topic, f"made-{topic.name}") for topic in TOPICS]
    ensure_topics(kafka_bootstrap, topics)
    ensure_topics(kafka_bootstrap, topics)
    assert [partitions(kafka_bootstrap, topic.name) for topic in topics] == [4, 4, 1, 1]


def test_topic_with_too_few_partitions_is_refused_and_left_alone(kafka_bootstrap: str) -> None:
    topic = renamed(USAGE, "few-usage")
    ensure_topics(kafka_bootstrap, [replace(topic, partitions=2)])
    with pytest.raises(ServerError, match="topic few-usage has 2 partitions, declared are 4"):
        ensure_topics(kafka_bootstrap, [topic])
    assert partitions(kafka_bootstrap, topic.name) == 2


def test_topic_with_more_partitions_than_declared_is_accepted(kafka_bootstrap: str) -> None:
    topic = renamed(USAGE, "many-usage")
    ensure_topics(kafka_bootstrap, [replace(topic, partitions=6)])
    ensure_topics(kafka_bootstrap, [topic])


def test_topic_with_another_cleanup_policy_is_refused(kafka_bootstrap: str) -> None:
    topic = renamed(CONTROL, "policy-control")
    ensure_topics(kafka_bootstrap, [replace(topic, cleanup="delete")])
    with pytest.raises(ServerError, match=r"cleanup\.policy=delete, declared is compact"):
        ensure_topics(kafka_bootstrap, [topic])


def test_probe_names_the_cluster_of_a_broker_that_serves(kafka_bootstrap: str) -> None:
    assert cluster_of(kafka_bootstrap)
    assert serves(f"127.0.0.1:1,{kafka_bootstrap}")


def test_broker_keeps_its_topics_when_both_its_ports_change(tmp_path: Path) -> None:
    topic = renamed(USAGE, "moved-usage")
    with local_kafka(tmp_path) as before:
        ensure_topics(f"127.0.0.1:{before.port}", [topic])
    with (
        socket.create_server(("127.0.0.1", before.port)),
        socket.create_server(("127.0.0.1", before.controller_port)),
        local_kafka(tmp_path) as after,
    ):
        assert {before.port, before.controller_port}.isdisjoint({after.port, after.controller_port})
        assert after.cluster_id == before.cluster_id
        assert partitions(f"127.0.0.1:{after.port}", topic.name) == 4


def test_folder_whose_cluster_id_begins_with_a_dash_can_be_formatted(tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in count())
    folder = next(one for one in folders if LocalKafka(one, 1, 2).cluster_id.startswith("-"))
    folder.mkdir()
    with local_kafka(folder) as broker:
        assert serves(f"127.0.0.1:{broker.port}")


def test_whole_class_archive_is_adopted_and_half_of_one_is_thrown_away(tmp_path: Path) -> None:
    java, jars = find_java(), tmp_path / "jars"
    jars.symlink_to(fetch_jars())
    whole = tmp_path / "written.jsa"
    command = [java, f"-XX:ArchiveClassesAtExit={whole}", "-XX:+UseSerialGC", "-cp", f"{jars}/*"]
    subprocess.run(
        [*command, "kafka.tools.StorageTool", "random-uuid"], check=True, capture_output=True
    )
    nobody = 2**22 + 1  # above the highest pid that Linux gives
    archive = archive_of(java, jars)
    written = Path(f"{archive}.{nobody}")
    written.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert archive_options(java, jars)[0].startswith("-XX:ArchiveClassesAtExit=")
    assert not written.exists()
    written.write_bytes(whole.read_bytes())
    assert archive_options(java, jars)[0] == f"-XX:SharedArchiveFile={archive}"
    assert archive.exists()
