"""The envelope of every event: CloudEvents 1.0, structured JSON, with a dense sequence."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.fields import Contract, EventId, Name, Sequence, SourceId, Timestamp
from schemas.ids import EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS, format_ms, uuid7_unix_ms

SPECVERSION: Literal["1.0"] = "1.0"


class Envelope(Contract):
    """What every event carries around its `data`.

    `(source, id)` is unique. `source` is one incarnation of one host's outbox; `sequence` is
    dense from 1 per source, so a lost event is a hole that a query finds. `time` is the time
    inside the UUIDv7 `id`, never another one: every copy sorts, partitions and deduplicates the
    same way. `subject` is the tenant, or the source itself for events about the fleet.
    """

    specversion: Literal["1.0"]
    id: EventId
    source: SourceId
    sequence: Sequence
    type: Annotated[str, Field(pattern=r"^io\.rentroll(\.[a-z]+){2,3}\.v[0-9]+$", max_length=64)]
    subject: Name
    time: Timestamp
    datacontenttype: Literal["application/json"]

    @model_validator(mode="after")
    def _time_is_the_time_of_the_id(self) -> Self:
        unix_ms = uuid7_unix_ms(self.id)
        if not EVENT_TIME_FIRST_MS <= unix_ms < EVENT_TIME_LAST_MS:
            raise ValueError(f"id: its time {unix_ms} ms is outside the years 2015 to 2099")
        if self.time != format_ms(unix_ms):
            raise ValueError(f"time: {self.time} is not the time of the id, {format_ms(unix_ms)}")
        return self


class SourceEvent(Envelope):
    """An event about the fleet or the source itself, not about a tenant: its subject says so."""

    @model_validator(mode="after")
    def _subject_is_the_source(self) -> Self:
        if self.subject != self.source:
            raise ValueError(f"subject: {self.subject} is not the source {self.source}")
        return self
