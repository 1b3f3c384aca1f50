"""Kafka topics, declared once: what is on them, their key, and how they are kept."""

from dataclasses import dataclass
from typing import Literal

from schemas.control import DeadLetter, SourceClosed, SourceOpened
from schemas.fields import Contract
from schemas.fleet import CapacityOwned, EngineInterval, ReservationChanged
from schemas.units import MS_PER_HOUR
from schemas.usage import EnginePartFinished, RequestFinished, UsageLost

DAY_MS = 24 * MS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `retention_ms` of -1 keeps everything."""

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"]
    retention_ms: int
    key: str
    messages: tuple[type[Contract], ...]

    def config(self) -> dict[str, str]:
        """Topic settings as the broker takes them."""
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "message.timestamp.type": "LogAppendTime",
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
