"""Creates the topics of `schemas.topics`, and refuses topics that are not as declared."""

from collections.abc import Sequence
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import AuthorizationError, TopicAlreadyExistsError

from infra.kafka.admin import administration
from infra.kafka.security import KafkaSecurity, kafka_security
from schemas.errors import ServerError
from schemas.topics import TOPICS, Topic


def ensure_topics(
    bootstrap: str, topics: Sequence[Topic] = TOPICS, security: KafkaSecurity | None = None
) -> None:
    """Create the topics that are missing; whatever exists is checked, and never changed.

    Args:
        bootstrap: `host:port[,host:port]`.
        topics: What must be there.
        security: How to be let in; None: as the settings of the environment say.

    Raises:
        ServerError: If the broker cannot be used, the user lacks a right, or a topic has fewer
            partitions or another cleanup policy than declared: compaction would delete usage,
            silently.
    """
    known = kafka_security() if security is None else security
    with administration(bootstrap, known) as admin:
        present = {one["name"] for one in admin.describe_topics() if not one["error_code"]}
        _create(admin, [topic for topic in topics if topic.name not in present], known)
        _check(admin, topics, known)


def _create(admin: KafkaAdminClient, topics: Sequence[Topic], security: KafkaSecurity) -> None:
    """Create topics, with the broker's own replication factor, and wait until they can be used."""
    for topic in topics:
        options = {"num_partitions": topic.partitions, "configs": topic.config()}
        try:
            admin.create_topics({topic.name: options}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            # Another process that starts now was faster; the check that follows covers its topic.
            continue
        except AuthorizationError as error:
            raise ServerError(
                f"{security.who()} may neither see topic {topic.name} (Describe) nor create it"
                " (Create): `rentroll kafka acls` shows what each role needs"
            ) from error


def _check(admin: KafkaAdminClient, topics: Sequence[Topic], security: KafkaSecurity) -> None:
    """Raise unless each topic has at least its partitions, and its cleanup policy."""
    names = [topic.name for topic in topics]
    partitions = {
        described["name"]: len(described["partitions"])
        for described in admin.describe_topics(names)
    }
    policies = _cleanup_policies(admin, names, security)
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


def _cleanup_policies(
    admin: KafkaAdminClient, names: Sequence[str], security: KafkaSecurity
) -> dict[str, str]:
    """cleanup.policy of each topic."""
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    answer: dict[str, dict[str, Any]] = admin.describe_configs(wanted, config_filter="all")
    found = answer[ConfigResourceType.TOPIC.name.lower()]
    # The client passes a refusal over in silence: what it may not see is then empty.
    unseen = [name for name in names if "cleanup.policy" not in found.get(name, {})]
    if unseen:
        raise ServerError(
            f"{security.who()} may not see the settings (DescribeConfigs) of {', '.join(unseen)}:"
            " `rentroll kafka acls` shows what each role needs"
        )
    return {name: str(configs["cleanup.policy"]["value"]) for name, configs in found.items()}
