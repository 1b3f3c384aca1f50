"""Events on `usage.v1`: one finished client request, and engine parts from another host."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.envelope import Envelope, SourceEvent
from schemas.fields import (
    Contract,
    Count,
    EventId,
    GpuCount,
    Label,
    Name,
    Nanoseconds,
    OptionalName,
    Sequence,
    SourceId,
    Timestamp,
    TokenCount,
)

Outcome = Literal["stop", "length", "client_gone", "abort", "error", "engine_death", "refused"]
OUTCOMES: tuple[Outcome, ...] = (
    "stop",
    "length",
    "client_gone",
    "abort",
    "error",
    "engine_death",
    "refused",
)

TOKEN_METERS = (
    "input_uncached_tokens",
    "input_cache_read_tokens",
    "input_cache_write_tokens",
    "output_text_tokens",
    "output_reasoning_tokens",
)
"""The token counters that a price can name; mutually exclusive, so nothing is billed twice."""
METERS = (*TOKEN_METERS, "gpu_ns", "requests", "reserved_gpu_ns")
"""Everything that a price can name."""

MAX_PARTS = 1024
"""n samples times prompts of one client request; more is refused at the door."""


class EnginePart(Contract):
    """What one engine request did for a client request; usually there is one.

    `ordinal` is dense from 1 per `engine` (one boot of one engine), in order of finishing.
    Law: `decode_scheduled = max(generated - 1, 0) + drafts_rejected + discarded`.
    """

    engine: SourceId
    ordinal: Sequence
    gpu_ns: Nanoseconds
    generated_tokens: TokenCount
    prompt_computed_tokens: TokenCount
    recomputed_tokens: TokenCount
    decode_scheduled_tokens: TokenCount
    drafts_rejected_tokens: TokenCount
    discarded_tokens: TokenCount

    @model_validator(mode="after")
    def _decode_is_accounted_for(self) -> Self:
        explained = (
            max(self.generated_tokens - 1, 0) + self.drafts_rejected_tokens + self.discarded_tokens
        )
        if self.decode_scheduled_tokens != explained:
            raise ValueError(
                f"decode_scheduled_tokens: {self.decode_scheduled_tokens} is not generated - 1"
                f" + drafts_rejected + discarded = {explained}",
            )
        return self


class RequestFinishedData(Contract):
    """Who used what, and what it cost in GPU time; exactly one per client request.

    Token counters are mutually exclusive; `output_text + output_reasoning` is what is billable
    of `generated`, without `hidden` (the overrun after a stop string). `gpu_ns` is the sum over
    `parts`; parts that ran behind another host's door come as `engine.part.finished`.
    `endpoint` is the route without its leading slash, such as `v1/chat/completions`.
    """

    project: Name
    api_key: Name
    client_request_id: Label
    end_user: OptionalName
    model: Name
    adapter: OptionalName
    endpoint: Name
    service_tier: Name
    region: Name
    replica: Name
    gpu_type: Name
    gpus: GpuCount
    outcome: Outcome
    finish_reason: OptionalName
    http_status: Annotated[int, Field(ge=100, le=599)]
    finished_at: Timestamp
    input_uncached_tokens: TokenCount
    input_cache_read_tokens: TokenCount
    input_cache_write_tokens: TokenCount
    output_text_tokens: TokenCount
    output_reasoning_tokens: TokenCount
    generated_tokens: TokenCount
    delivered_tokens: TokenCount
    hidden_tokens: TokenCount
    gpu_ns: Nanoseconds
    gpu_prefill_ns: Nanoseconds
    gpu_recompute_ns: Nanoseconds
    attribution_model: Name
    queue_ns: Nanoseconds
    first_token_ns: Nanoseconds
    total_ns: Nanoseconds
    parts: Annotated[tuple[EnginePart, ...], Field(max_length=MAX_PARTS)]

    @model_validator(mode="after")
    def _totals_agree(self) -> Self:
        parts_ns = sum(part.gpu_ns for part in self.parts)
        if self.gpu_ns != parts_ns:
            raise ValueError(f"gpu_ns: {self.gpu_ns} is not the sum over parts, {parts_ns}")
        if self.outcome == "refused" and self.parts:
            raise ValueError(f"parts: {len(self.parts)}, but a refused request reached no engine")
        if self.gpu_prefill_ns > self.gpu_ns:
            raise ValueError(f"gpu_prefill_ns: {self.gpu_prefill_ns} > gpu_ns {self.gpu_ns}")
        if self.gpu_recompute_ns > self.gpu_ns:
            raise ValueError(f"gpu_recompute_ns: {self.gpu_recompute_ns} > gpu_ns {self.gpu_ns}")
        visible = self.output_text_tokens + self.output_reasoning_tokens
        if visible + self.hidden_tokens > self.generated_tokens:
            raise ValueError(
                f"generated_tokens: {self.generated_tokens} < output {visible}"
                f" + hidden {self.hidden_tokens}",
            )
        if self.delivered_tokens > visible:
            raise ValueError(f"delivered_tokens: {self.delivered_tokens} > output {visible}")
        return self


class RequestFinished(Envelope):
    """`io.rentroll.request.finished.v1`: the event that is rated. Its subject is the tenant."""

    type: Literal["io.rentroll.request.finished.v1"]
    data: RequestFinishedData


class EnginePartFinishedData(EnginePart):
    """A part whose door is on another host; added by `request` at hour close."""

    request: EventId
    gpu_prefill_ns: Nanoseconds
    gpu_recompute_ns: Nanoseconds
    model: Name
    replica: Name
    gpu_type: Name
    gpus: GpuCount
    region: Name

    @model_validator(mode="after")
    def _of_it_is_not_more(self) -> Self:
        if self.gpu_prefill_ns > self.gpu_ns:
            raise ValueError(f"gpu_prefill_ns: {self.gpu_prefill_ns} > gpu_ns {self.gpu_ns}")
        if self.gpu_recompute_ns > self.gpu_ns:
            raise ValueError(f"gpu_recompute_ns: {self.gpu_recompute_ns} > gpu_ns {self.gpu_ns}")
        return self


class EnginePartFinished(Envelope):
    """`io.rentroll.engine.part.finished.v1`: its time is that of the request's admission."""

    type: Literal["io.rentroll.engine.part.finished.v1"]
    data: EnginePartFinishedData

    @model_validator(mode="after")
    def _same_time_as_its_request(self) -> Self:
        if self.id[:13] != self.data.request[:13]:
            raise ValueError(f"id: {self.id} has another time than its request {self.data.request}")
        return self


class UsageLostData(Contract):
    """Usage that a full disk or a dead spool could not record; never billed, always shown."""

    reason: Name
    requests: Count
    first_lost_at: Timestamp
    last_lost_at: Timestamp

    @model_validator(mode="after")
    def _not_backwards(self) -> Self:
        if self.last_lost_at < self.first_lost_at:
            raise ValueError(f"last_lost_at: {self.last_lost_at} < first {self.first_lost_at}")
        return self


class UsageLost(SourceEvent):
    """`io.rentroll.usage.lost.v1`: a declared loss, so that the figures say what they miss."""

    type: Literal["io.rentroll.usage.lost.v1"]
    data: UsageLostData
