"""Reads what lies on topics, from the beginning to the end of this moment."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from kafka import KafkaConsumer, TopicPartition


class Lying(NamedTuple):
    """A record as a consumer sees it."""

    topic: str
    key: bytes
    value: bytes


def read_topics(bootstrap: str, topics: Sequence[str], sources: Sequence[str]) -> list[Lying]:
    """Every record of these sources on these topics."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, group_id=None)
    partitions = [
        TopicPartition(topic, number)
        for topic in topics
        for number in sorted(consumer.partitions_for_topic(topic) or [])
    ]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    found: list[Lying] = []
    while any((consumer.position(one) or 0) < ends[one] for one in partitions):
        for records in consumer.poll(timeout_ms=500).values():
            found += [Lying(one.topic, one.key, one.value) for one in records]
    consumer.close()
    return [one for one in found if source_of(one.value) in sources]


def source_of(value: bytes) -> str:
    """The source that a record names; empty for noise that other tests left on a shared topic."""
    try:
        return str(json.loads(value)["source"])
    except (ValueError, KeyError, TypeError):
        return ""
