"""Creates the topics of `schemas.topics`, and refuses topics that are not as declared."""

from collections.abc import Sequence
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from schemas.errors import ServerError
from schemas.topics import TOPICS, Topic

REQUEST_TIMEOUT_MS = 30_000


def ensure_topics(bootstrap: str, topics: Sequence[Topic] = TOPICS) -> None:
    """Create the topics that are missing; whatever exists is checked, and never changed.

    Args:
        bootstrap: `host:port[,host:port]`.
        topics: What must be there.

    Raises:
        ServerError: If the broker cannot be used, or a topic has fewer partitions or another
            cleanup policy than declared: compaction would delete usage, silently.
    """
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","), request_timeout_ms=REQUEST_TIMEOUT_MS
        )
        try:
            missing = [topic for topic in topics if topic.name not in set(admin.list_topics())]
            _create(admin, missing)
            _check(admin, topics)
        finally:
            admin.close()
    except KafkaError as error:
        raise ServerError(f"topics of Kafka at {bootstrap}: {error}") from error


def _create(admin: KafkaAdminClient, topics: Sequence[Topic]) -> None:
    """Create topics, with the broker's own replication factor, and wait until they can be used."""
    for topic in topics:
        options = {"num_partitions": topic.partitions, "configs": topic.config()}
        try:
            admin.create_topics({topic.name: options}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            # Another process that starts now was faster; the check that follows covers its topic.
            continue


def _check(admin: KafkaAdminClient, topics: Sequence[Topic]) -> None:
    """Raise unless each topic has at least its partitions, and its cleanup policy."""
    names = [topic.name for topic in topics]
    partitions = {
        described["name"]: len(described["partitions"])
        for described in admin.describe_topics(names)
    }
    policies = _cleanup_policies(admin, names)
    for topic in topics:
        if partitions[topic.name] < topic.partitions:
            raise ServerError(
                f"topic {topic.name} has {partitions[topic.name]} partitions, declared are"
                f" {topic.partitions}: add partitions, or delete the topic if it is empty"
            )
        if policies[topic.name] != topic.cleanup:
            raise ServerError(
                f"topic {topic.name} has cleanup.policy={policies[topic.name]}, declared is"
                f" {topic.cleanup}: mend it before anything is lost"
            )


def _cleanup_policies(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, str]:
    """cleanup.policy of each topic."""
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    answer: dict[str, dict[str, Any]] = admin.describe_configs(wanted, config_filter="all")
    return {
        name: str(configs["cleanup.policy"]["value"])
        for name, configs in answer[ConfigResourceType.TOPIC.name.lower()].items()
    }
