"""Composes the bytes of events directly, for the hot path; equal to the contracts by test.

The structs here mirror `schemas` field by field, in the same order (a test holds them to it), and
msgspec writes them some twenty times faster than a model is built and dumped. Nothing here
validates: names were checked where they came in, numbers come out of the meter.
"""

from functools import lru_cache
from typing import NamedTuple

import msgspec

from inference.engine_account import FinishedPart, Interval
from schemas.control import CloseReason
from schemas.fleet import SignedRange
from schemas.ids import format_ms
from schemas.units import MS_PER_S
from schemas.usage import Outcome

THE_SOURCE = "-"
"""The subject of a record about the source itself; the outbox puts the source's id there."""


class Record(NamedTuple):
    """One event on its way through the spool: all of it but what the outbox decides.

    `kind` is the noun and verb of the event type. `data` is JSON without a line break. The
    outbox adds source and sequence, and the signed range to an interval and a closing.
    """

    kind: str
    id: str
    subject: str
    data: bytes


class PartWire(msgspec.Struct, frozen=True):
    """`schemas.usage.EnginePart`."""

    engine: str
    ordinal: int
    gpu_ns: int
    generated_tokens: int
    prompt_computed_tokens: int
    recomputed_tokens: int
    decode_scheduled_tokens: int
    drafts_rejected_tokens: int
    discarded_tokens: int


class RequestWire(msgspec.Struct, frozen=True, kw_only=True):
    """`schemas.usage.RequestFinishedData`."""

    project: str
    api_key: str
    client_request_id: str
    end_user: str
    model: str
    adapter: str
    endpoint: str
    service_tier: str
    region: str
    replica: str
    gpu_type: str
    gpus: int
    outcome: Outcome
    finish_reason: str
    http_status: int
    finished_at: str
    input_uncached_tokens: int = 0
    input_cache_read_tokens: int = 0
    input_cache_write_tokens: int = 0
    output_text_tokens: int = 0
    output_reasoning_tokens: int = 0
    generated_tokens: int = 0
    delivered_tokens: int = 0
    hidden_tokens: int = 0
    gpu_ns: int = 0
    gpu_prefill_ns: int = 0
    gpu_recompute_ns: int = 0
    attribution_model: str
    queue_ns: int = 0
    first_token_ns: int = 0
    total_ns: int = 0
    parts: tuple[PartWire, ...]


class IntervalWire(msgspec.Struct, frozen=True, kw_only=True):
    """`schemas.fleet.EngineIntervalData`, but for `range`, which the outbox appends."""

    engine: str
    model: str
    replica: str
    region: str
    gpu_type: str
    gpus: int
    start_unix_ns: int
    end_unix_ns: int
    owned_ns: int
    attributed_ns: int
    stall_ns: int
    idle_ns: int
    overhead_ns: int
    startup_ns: int
    open_step_start_ns: int
    open_step_end_ns: int
    unaccounted_ns: int
    in_flight_start_ns: int
    in_flight_end_ns: int
    ordinal_start: int
    ordinal_end: int
    tokens_scheduled: int
    steps: int
    running_requests: int
    waiting_requests: int
    oldest_open_at: str
    synthesized: bool


class OpenedWire(msgspec.Struct, frozen=True, kw_only=True):
    """`schemas.control.SourceOpenedData`."""

    host: str
    software: str
    public_key: str


class ClosedWire(msgspec.Struct, frozen=True, kw_only=True):
    """`schemas.control.SourceClosedData`, but for `range`, which the outbox appends."""

    reason: CloseReason


class CapacityWire(msgspec.Struct, frozen=True, kw_only=True):
    """`schemas.fleet.CapacityOwnedData`."""

    pool: str
    region: str
    gpu_type: str
    gpus_with_engine: int
    gpus_without_engine: int
    gpus_leased: int
    effective_at: str


class LostWire(msgspec.Struct, frozen=True, kw_only=True):
    """`schemas.usage.UsageLostData`."""

    reason: str
    requests: int
    first_lost_at: str
    last_lost_at: str


class EngineLabels(NamedTuple):
    """What every event of one engine says about it."""

    engine: str
    model: str
    replica: str
    region: str
    gpu_type: str
    gpus: int


to_json = msgspec.json.Encoder().encode


@lru_cache(maxsize=4096)
def _second(unix_s: int) -> str:
    return format_ms(unix_s * MS_PER_S)[:20]


def format_time(unix_ms: int) -> str:
    """The same text as `schemas.ids.format_ms`, faster where many times share a second."""
    return f"{_second(unix_ms // MS_PER_S)}{unix_ms % MS_PER_S:03d}Z"


def part_of(engine: str, part: FinishedPart) -> PartWire:
    """A finished part as a request event carries it."""
    _, ordinal, gpu_ns, _, _, *tokens = part[:11]
    return PartWire(engine, ordinal, gpu_ns, *tokens)


def interval_record(
    event_id: str,
    labels: EngineLabels,
    interval: Interval,
    *,
    unaccounted_ns: int = 0,
    synthesized: bool = False,
) -> Record:
    """An interval of the meter on its way to the outbox, which adds the signed range."""
    data = IntervalWire(
        engine=labels.engine,
        model=labels.model,
        replica=labels.replica,
        region=labels.region,
        gpu_type=labels.gpu_type,
        gpus=labels.gpus,
        start_unix_ns=interval.start_ns,
        end_unix_ns=interval.end_ns,
        owned_ns=interval.owned_ns,
        attributed_ns=interval.attributed_ns,
        stall_ns=interval.stall_ns,
        idle_ns=interval.idle_ns,
        overhead_ns=interval.overhead_ns,
        startup_ns=interval.startup_ns,
        open_step_start_ns=interval.open_step_start_ns,
        open_step_end_ns=interval.open_step_end_ns,
        unaccounted_ns=unaccounted_ns,
        in_flight_start_ns=interval.in_flight_start_ns,
        in_flight_end_ns=interval.in_flight_end_ns,
        ordinal_start=interval.ordinal_start,
        ordinal_end=interval.ordinal_end,
        tokens_scheduled=interval.tokens_scheduled,
        steps=interval.steps,
        running_requests=interval.running_requests,
        waiting_requests=interval.waiting_requests,
        oldest_open_at=format_time(interval.oldest_open_ms),
        synthesized=synthesized,
    )
    return Record("engine.interval", event_id, THE_SOURCE, to_json(data))


class Composer:
    """Writes the final bytes of a source's events, in the field order of `schemas.envelope`."""

    def __init__(self, source: str) -> None:
        self._source = source.encode()
        self._heads: dict[str, bytes] = {}

    def compose(self, record: Record, sequence: int, signed: SignedRange | None = None) -> bytes:
        """The value bytes of one event.

        Args:
            record: What the spool held.
            sequence: The number that the outbox gave it.
            signed: The range to append to its data, for an interval or a closing.
        """
        kind, event_id, subject, data = record
        if signed is not None:
            data = data[:-1] + b',"range":' + to_json(_range_wire(signed)) + b"}"
        return (self._heads.get(kind) or self._head(kind)) % (
            event_id.encode(),
            sequence,
            self._source if subject == THE_SOURCE else subject.encode(),
            format_time(int(event_id[:8] + event_id[9:13], 16)).encode(),
            data,
        )

    def _head(self, kind: str) -> bytes:
        """A format per kind of event; `%` appears in no kind and in no source."""
        self._heads[kind] = (
            b'{"specversion":"1.0","id":"%b","source":"' + self._source + b'","sequence":%d,'
            b'"type":"io.rentroll.' + kind.encode() + b'.v1","subject":"%b","time":"%b",'
            b'"datacontenttype":"application/json","data":%b}'
        )
        return self._heads[kind]


def _range_wire(signed: SignedRange) -> dict[str, int | str]:
    return {
        "sequence_first": signed.sequence_first,
        "sequence_last": signed.sequence_last,
        "sha256": signed.sha256,
        "signature": signed.signature,
    }
