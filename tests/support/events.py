"""Builds what one host sends: its source's events with dense sequences and real signatures."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from infra.signing import SourceKey
from schemas.control import SourceClosed, SourceOpened
from schemas.envelope import SPECVERSION, Envelope
from schemas.fleet import EngineInterval
from schemas.ids import (
    content_hash,
    derived_entropy,
    derived_uuid,
    format_ms,
    range_sha256,
    uuid7,
)
from schemas.periods import parse_period
from schemas.topics import TOPIC_OF_TYPE, record_key
from schemas.units import NS_PER_MS
from schemas.usage import EnginePartFinished, RequestFinished, UsageLost

OCTOBER_MS = int(parse_period("2026-10").start.timestamp()) * 1_000
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lies in the outbox and on its topic."""

    topic: str
    key: bytes
    value: bytes
    event: Envelope

    @property
    def content_hash(self) -> bytes:
        return content_hash(self.value)


def part_data(engine: str, ordinal: int, gpu_ns: int, generated: int = 20) -> dict[str, Any]:
    """What one engine request did, by its law."""
    return {
        "engine": engine,
        "ordinal": ordinal,
        "gpu_ns": gpu_ns,
        "generated_tokens": generated,
        "prompt_computed_tokens": 100,
        "recomputed_tokens": 0,
        "decode_scheduled_tokens": max(generated - 1, 0),
        "drafts_rejected_tokens": 0,
        "discarded_tokens": 0,
    }


def request_data(**changes: Any) -> dict[str, Any]:
    """Data of a valid `request.finished` with one part (engine and ordinal are the caller's)."""
    gpu_ns = changes.pop("gpu_ns", 40_000_000)
    generated = changes.pop("generated_tokens", 20)
    engine = changes.pop("engine", derived_uuid("engine", "1"))
    part = part_data(engine, changes.pop("ordinal", 1), gpu_ns, generated)
    return {
        "project": "search",
        "api_key": "key-1",
        "client_request_id": "",
        "end_user": "",
        "model": "llama-3.1-8b",
        "adapter": "",
        "endpoint": "v1/chat/completions",
        "service_tier": "standard",
        "region": "eu-1",
        "replica": "replica-1",
        "gpu_type": "H100",
        "gpus": 1,
        "outcome": "stop",
        "finish_reason": "stop",
        "http_status": 200,
        "finished_at": format_ms(OCTOBER_MS),
        "input_uncached_tokens": 100,
        "input_cache_read_tokens": 0,
        "input_cache_write_tokens": 0,
        "output_text_tokens": generated,
        "output_reasoning_tokens": 0,
        "generated_tokens": generated,
        "delivered_tokens": generated,
        "hidden_tokens": 0,
        "gpu_ns": gpu_ns,
        "gpu_prefill_ns": gpu_ns // 4,
        "gpu_recompute_ns": 0,
        "attribution_model": "fixed-marginal-1",
        "queue_ns": 1_000_000,
        "first_token_ns": 50_000_000,
        "total_ns": 900_000_000,
        "parts": (part,),
    } | changes


def rewritten(record: Record, **data: Any) -> Record:
    """The same event with other content under the same id and sequence: an alteration."""
    event = record.event.model_copy(
        update={"data": record.event.data.model_copy(update=data)}  # type: ignore[attr-defined]
    )
    return Record(record.topic, record.key, to_bytes(event), event)


def to_bytes(event: Envelope) -> bytes:
    """Value bytes as an outbox writes them: compact JSON."""
    return json.dumps(event.model_dump(mode="json"), separators=(",", ":")).encode()


class HostScript:
    """One host with one engine, told step by step; keeps every record it sent, in order.

    Times are milliseconds since the epoch. Same name, same bytes.
    """

    def __init__(self, name: str, *, opened_ms: int = OCTOBER_MS, host: str = "host-1") -> None:
        self.name = name
        self.host = host
        self.source = derived_uuid("test-source", name)
        self.engine = derived_uuid("test-engine", name)
        self.key = SourceKey(hashlib.sha256(f"key {name}".encode()).digest())
        self.records: list[Record] = []
        self._vouched = 0
        self._ordinal = self._ordinal_cut = 0
        self._attributed_ns = 0
        self._cut_ms = opened_ms
        self._send(
            SourceOpened,
            opened_ms,
            self.source,
            {"host": host, "software": "test 1", "public_key": self.key.public_key_hex()},
        )

    def request(self, at_ms: int, tenant: str = "acme", **changes: Any) -> Record:
        """A finished request, admitted at `at_ms`, with one part on this host's engine."""
        self._ordinal += 1
        data = request_data(engine=self.engine, ordinal=self._ordinal, **changes)
        self._attributed_ns += data["gpu_ns"]
        return self._send(RequestFinished, at_ms, tenant, data)

    def part_of(self, request: Record, gpu_ns: int = 7_000_000) -> Record:
        """A part that ran here for a request whose door is on another host."""
        self._ordinal += 1
        self._attributed_ns += gpu_ns
        asked = request.event.data  # type: ignore[attr-defined]
        part = part_data(self.engine, self._ordinal, gpu_ns)
        at_ms = int(request.event.id[:8] + request.event.id[9:13], 16)
        data = part | {
            "request": request.event.id,
            "gpu_prefill_ns": gpu_ns // 2,
            "gpu_recompute_ns": 0,
            "model": asked.model,
            "replica": "replica-2",
            "gpu_type": "H100",
            "gpus": 1,
            "region": "eu-1",
        }
        return self._send(EnginePartFinished, at_ms, request.event.subject, data)

    def lost(self, at_ms: int, requests: int = 3) -> Record:
        """A declared loss: requests that the host served and could not record."""
        data = {
            "reason": "spool-full",
            "requests": requests,
            "first_lost_at": format_ms(at_ms),
            "last_lost_at": format_ms(at_ms),
        }
        return self._send(UsageLost, at_ms, self.source, data)

    def interval(self, end_ms: int, *, oldest_open_ms: int | None = None, **changes: Any) -> Record:
        """The engine's interval since the last cut; nothing is in flight at its ends."""
        wall_ns = (end_ms - self._cut_ms) * NS_PER_MS
        data: dict[str, Any] = {
            "engine": self.engine,
            "model": "llama-3.1-8b",
            "replica": "replica-1",
            "region": "eu-1",
            "gpu_type": "H100",
            "gpus": 1,
            "start_unix_ns": self._cut_ms * NS_PER_MS,
            "end_unix_ns": end_ms * NS_PER_MS,
            "owned_ns": wall_ns,
            "attributed_ns": self._attributed_ns,
            "stall_ns": 0,
            "idle_ns": wall_ns - self._attributed_ns,
            "overhead_ns": 0,
            "startup_ns": 0,
            "open_step_start_ns": 0,
            "open_step_end_ns": 0,
            "unaccounted_ns": 0,
            "in_flight_start_ns": 0,
            "in_flight_end_ns": 0,
            "ordinal_start": self._ordinal_cut,
            "ordinal_end": self._ordinal,
            "tokens_scheduled": 0,
            "steps": 1,
            "running_requests": 0,
            "waiting_requests": 0,
            "oldest_open_at": format_ms(end_ms if oldest_open_ms is None else oldest_open_ms),
            "synthesized": False,
            "range": self._signed("interval"),
        } | changes
        self._cut_ms, self._ordinal_cut, self._attributed_ns = end_ms, self._ordinal, 0
        return self._send(EngineInterval, end_ms, self.source, data)

    def closed(self, at_ms: int) -> Record:
        """The source's last event."""
        data = {"reason": "drained", "range": self._signed("closed")}
        return self._send(SourceClosed, at_ms, self.source, data)

    def followed_by(self, name: str, at_ms: int) -> "HostScript":
        """The host's next source, in which this one's engine lives on; this one is closed."""
        following = HostScript(name, opened_ms=at_ms, host=self.host)
        following.engine, following._cut_ms = self.engine, self._cut_ms
        following._ordinal, following._ordinal_cut = self._ordinal, self._ordinal_cut
        following._attributed_ns = self._attributed_ns
        self.closed(at_ms)
        return following

    def _signed(self, purpose: Any) -> dict[str, Any]:
        first, last = self._vouched + 1, len(self.records)
        sha256 = range_sha256(record.content_hash for record in self.records[first - 1 :])
        self._vouched = last
        return self.key.sign_range(self.source, purpose, first, last, sha256).model_dump()

    def _send(self, model: type[Envelope], at_ms: int, subject: str, data: Any) -> Record:
        sequence = len(self.records) + 1
        event_type = model.model_fields["type"].annotation.__args__[0]  # type: ignore[union-attr]
        event = model.model_validate(
            {
                "specversion": SPECVERSION,
                "id": uuid7(at_ms, derived_entropy(self.name, str(sequence))),
                "source": self.source,
                "sequence": sequence,
                "type": event_type,
                "subject": subject,
                "time": format_ms(at_ms),
                "datacontenttype": "application/json",
                "data": data,
            }
        )
        topic = TOPIC_OF_TYPE[event_type].name
        key = record_key(event_type, event.id, self.source)
        record = Record(topic, key.encode(), to_bytes(event), event)
        self.records.append(record)
        return record


def one_busy_hour(name: str = "a", *, requests: int = 5, opened_ms: int = OCTOBER_MS) -> HostScript:
    """A host that served some requests in the hour it opened, and closed at the hour's end."""
    host = HostScript(name, opened_ms=opened_ms)
    for index in range(requests):
        host.request(opened_ms + 60_000 * (index + 1), gpu_ns=40_000_000 + index)
    host.interval(opened_ms + HOUR_MS)
    host.closed(opened_ms + HOUR_MS)
    return host
