"""Appends records to topics, and reads what lies behind given offsets: for work by hand."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.kafka.admin import in_our_words
from infra.kafka.security import KafkaSecurity, kafka_python_options, kafka_security
from schemas.errors import ServerError
from schemas.topics import DEAD_LETTERS

_POLL_MS = 500
_ANSWER_S = 60
_IDLE_POLLS_MAX = 60
"""Polls in a row without a record before the log's end, before the broker counts as gone."""


@dataclass(frozen=True, slots=True)
class Lying:
    """A record where it lies."""

    partition: int
    offset: int
    value: bytes


class TopicRecords:
    """Topics of one broker; every method raises `ServerError` if it cannot be used."""

    def __init__(self, bootstrap: str, security: KafkaSecurity | None = None) -> None:
        """Connect to nothing yet; `security` as settings say if it is not given.

        Raises:
            SettingsError: If the settings contradict one another.
        """
        self._bootstrap = bootstrap
        self._security = kafka_security() if security is None else security

    def ends(self, topic: str) -> dict[int, int]:
        """The offset after the last record, per partition."""
        with self._consumer() as consumer:
            found = consumer.end_offsets(_partitions(consumer, topic))
            return {place.partition: int(end) for place, end in found.items()}

    def append(self, topic: str, records: Sequence[tuple[str, bytes]]) -> list[tuple[int, int]]:
        """Append `(key, value)` pairs, in order; returns partition and offset of each.

        All of them are in every in-sync replica when it returns.
        """
        with in_our_words(self._bootstrap, self._security):
            producer = KafkaProducer(
                bootstrap_servers=self._bootstrap.split(","),
                acks="all",
                compression_type="lz4",
                max_request_size=DEAD_LETTERS.max_message_bytes,
                **kafka_python_options(self._security),
            )
            try:
                sent: list[Any] = [
                    producer.send(topic, key=key.encode(), value=one) for key, one in records
                ]
                placed = [one.get(timeout=_ANSWER_S) for one in sent]
            finally:
                producer.close(timeout=_ANSWER_S)
        return [(one.partition, one.offset) for one in placed]

    def behind(self, topic: str, after: Mapping[int, int]) -> Iterator[Lying]:
        """Every record at or behind the given offsets, up to the log's end of this moment."""
        with self._consumer() as consumer:
            partitions = _partitions(consumer, topic)
            consumer.assign(partitions)
            for place in partitions:
                consumer.seek(place, after.get(place.partition, 0))
            yield from _read(consumer, topic, consumer.end_offsets(partitions))

    @contextmanager
    def _consumer(self) -> Iterator[KafkaConsumer]:
        with in_our_words(self._bootstrap, self._security):
            consumer = KafkaConsumer(
                bootstrap_servers=self._bootstrap.split(","),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                **kafka_python_options(self._security),
            )
            try:
                yield consumer
            finally:
                consumer.close()


def _partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    numbers = sorted(consumer.partitions_for_topic(topic) or ())
    if not numbers:
        raise ServerError(f"topic {topic} is not there")
    return [TopicPartition(topic, number) for number in numbers]


def _read(
    consumer: KafkaConsumer, topic: str, ends: Mapping[TopicPartition, int]
) -> Iterator[Lying]:
    idle = 0
    while any((consumer.position(place) or 0) < end for place, end in ends.items()):
        fetched = consumer.poll(timeout_ms=_POLL_MS)
        idle = 0 if fetched else idle + 1
        if idle > _IDLE_POLLS_MAX:
            raise ServerError(f"{topic}: the broker sends nothing before the log's end")
        for place, records in fetched.items():
            for one in records:
                if one.offset < ends[place]:
                    yield Lying(one.partition, one.offset, one.value or b"")
