"""A real broker: topics are made as declared, and a topic that is not as declared is refused."""

from dataclasses import replace

import pytest
from kafka.admin import KafkaAdminClient

from infra.kafka.probe import cluster_of, serves
from infra.kafka.topics import ensure_topics
from schemas.errors import ServerError
from schemas.topics import CONTROL, TOPICS, USAGE, Topic


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
