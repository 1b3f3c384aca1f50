"""Events on `control.v1` (a source opens and closes) and records on `dlq.v1`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.envelope import SourceEvent
from schemas.fields import Contract, Count, HexKey, Label, Name, SequenceOrNone, Sha256
from schemas.fleet import SignedRange, refuse_range_not_up_to
from schemas.units import VALUE_BYTES_MAX

CloseReason = Literal["drained", "synthesized"]


class SourceOpenedData(Contract):
    """A new incarnation of a host's outbox; always the event with sequence 1.

    The key is only *announced* here. It counts once the billing store has it registered.
    """

    host: Name
    software: Label
    public_key: HexKey


class SourceOpened(SourceEvent):
    """`io.rentroll.source.opened.v1`."""

    type: Literal["io.rentroll.source.opened.v1"]
    data: SourceOpenedData

    @model_validator(mode="after")
    def _is_the_first(self) -> Self:
        if self.sequence != 1:
            raise ValueError(f"sequence: {self.sequence}, but a source opens with 1")
        return self


class SourceClosedData(Contract):
    """The last event of a source: its sequence is the source's final one.

    `range` is signed for the purpose `closed` and ends at the sequence before this one.
    """

    reason: CloseReason
    range: SignedRange


class SourceClosed(SourceEvent):
    """`io.rentroll.source.closed.v1`."""

    type: Literal["io.rentroll.source.closed.v1"]
    data: SourceClosedData

    @model_validator(mode="after")
    def _range_ends_here(self) -> Self:
        refuse_range_not_up_to(self.sequence, self.data.range)
        return self


DETAIL_MAX = 2_000
BASE64_MAX = (VALUE_BYTES_MAX + 2) // 3 * 4


class DeadLetter(Contract):
    """A record that ingest refused, on `dlq.v1`: where it lay, why, and its exact bytes.

    `source`, `sequence`, `event_id` and `tenant` are what could be read of it, else empty or 0:
    they let completeness count a refused event as seen. `content_sha256` is over the bytes.
    """

    topic: Name
    partition: Annotated[int, Field(ge=0, le=65_535)]
    offset: Count
    reason: Name
    detail: Annotated[str, Field(max_length=DETAIL_MAX)]
    content_sha256: Sha256
    value_base64: Annotated[str, Field(max_length=BASE64_MAX)]
    source: Annotated[str, Field(max_length=36)]
    sequence: SequenceOrNone
    event_id: Annotated[str, Field(max_length=36)]
    tenant: Annotated[str, Field(max_length=128)]
