"""Kafka topics, declared once: what is on them, their key, and how they are kept."""

from dataclasses import dataclass
from typing import Literal

from schemas.control import DeadLetter, SourceClosed, SourceOpened
from schemas.fields import Contract
from schemas.fleet import CapacityOwned, EngineInterval, ReservationChanged
from schemas.units import MS_PER_HOUR, VALUE_BYTES_MAX
from schemas.usage import EnginePartFinished, RequestFinished, UsageLost

DAY_MS = 24 * MS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `retention_ms` of -1 keeps everything; `max_message_bytes` is per batch."""

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"]
    retention_ms: int
    key: str
    messages: tuple[type[Contract], ...]
    max_message_bytes: int = 2 * VALUE_BYTES_MAX

    def config(self) -> dict[str, str]:
        """Topic settings as the broker takes them."""
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(self.max_message_bytes),
        }


USAGE = Topic(
    name="usage.v1",
    partitions=4,
    cleanup="delete",
    retention_ms=35 * DAY_MS,
    key="the event id: nothing depends on order, and one large tenant makes no hot partition",
    messages=(RequestFinished, EnginePartFinished, UsageLost),
)
CAPACITY = Topic(
    name="capacity.v1",
    partitions=4,
    cleanup="delete",
    retention_ms=35 * DAY_MS,
    key="the source",
    messages=(EngineInterval, CapacityOwned, ReservationChanged),
)
CONTROL = Topic(
    name="control.v1",
    partitions=1,
    cleanup="compact",
    retention_ms=-1,
    key="`<source>/opened` or `<source>/closed`",
    messages=(SourceOpened, SourceClosed),
)
DEAD_LETTERS = Topic(
    name="dlq.v1",
    partitions=1,
    cleanup="delete",
    retention_ms=-1,
    key="`<topic>/<partition>/<offset>` of the refused record",
    messages=(DeadLetter,),
)
TOPICS = (USAGE, CAPACITY, CONTROL, DEAD_LETTERS)

EVENTS: tuple[type[Contract], ...] = tuple(
    message for topic in (USAGE, CAPACITY, CONTROL) for message in topic.messages
)
"""Every event with an envelope."""


def event_type(event: type[Contract]) -> str:
    """The CloudEvents `type` of an event class, such as `io.rentroll.request.finished.v1`."""
    (literal,) = event.model_fields["type"].annotation.__args__  # type: ignore[union-attr]
    return str(literal)


TOPIC_OF_TYPE: dict[str, Topic] = {
    event_type(message): topic for topic in (USAGE, CAPACITY, CONTROL) for message in topic.messages
}
MODEL_OF_TYPE: dict[str, type[Contract]] = {event_type(event): event for event in EVENTS}


def record_key(event_type: str, event_id: str, source: str) -> str:
    """The Kafka key of an event's record, as its topic's `key` says in words.

    Raises:
        KeyError: If no event has that type.
    """
    topic = TOPIC_OF_TYPE[event_type]
    if topic is USAGE:
        return event_id
    if topic is CAPACITY:
        return source
    return f"{source}/{event_type.split('.')[3]}"


def dead_letter_key(topic: str, partition: int, offset: int) -> str:
    """The Kafka key of a dead letter: where the refused record lay."""
    return f"{topic}/{partition}/{offset}"
