"""One model becomes one row of its ledger table, field by field; the slow, obvious way."""

import base64
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from schemas.control import DeadLetter
from schemas.envelope import Envelope
from schemas.fleet import EngineInterval
from schemas.ids import parse_ms
from schemas.tables import (
    ENGINE_INTERVALS,
    ENGINE_PARTS,
    FLEET_EVENTS,
    USAGE_EVENTS,
    Table,
)
from schemas.usage import EnginePart, EnginePartFinished, RequestFinished

Row = dict[str, Any]


def row_of(event: Envelope) -> tuple[Table, Row]:
    """The table an event belongs to, and its row without content hash and transport columns."""
    envelope: Row = {
        "event_time": parse_ms(event.time),
        "event_id": UUID(event.id).bytes,
        "source": UUID(event.source).bytes,
        "sequence": event.sequence,
    }
    for kind, make in _MAKERS.items():
        if isinstance(event, kind):
            table, row = make(event)
            return table, envelope | row
    return FLEET_EVENTS, envelope | {
        "type": event.type,
        "subject": event.subject,
        "data": _canonical(event),
    }


def dead_letter_row(letter: DeadLetter) -> Row:
    """The row of `dead_letters`; its value is the refused bytes themselves.

    Raises:
        ValueError: If `value_base64` is not base64.
    """
    row = letter.model_dump(exclude={"partition", "offset", "value_base64"})
    return row | {
        "kafka_partition": letter.partition,
        "kafka_offset": letter.offset,
        "value": base64.b64decode(letter.value_base64, validate=True),
    }


def _usage(event: RequestFinished) -> tuple[Table, Row]:
    data = event.data
    row = {"tenant": event.subject, **data.model_dump(exclude={"parts", "finished_at"})}
    row["finished_at"] = parse_ms(data.finished_at)
    for name in EnginePart.model_fields:
        row[f"parts_{name}"] = [getattr(part, name) for part in data.parts]
    row["parts_engine"] = [UUID(part.engine).bytes for part in data.parts]
    return USAGE_EVENTS, row


def _part(event: EnginePartFinished) -> tuple[Table, Row]:
    ids = {"request": UUID(event.data.request).bytes, "engine": UUID(event.data.engine).bytes}
    return ENGINE_PARTS, {"tenant": event.subject, **event.data.model_dump(), **ids}


def _interval(event: EngineInterval) -> tuple[Table, Row]:
    signed = event.data.range
    return ENGINE_INTERVALS, {
        **event.data.model_dump(exclude={"range"}),
        "engine": UUID(event.data.engine).bytes,
        "oldest_open_at": parse_ms(event.data.oldest_open_at),
        "range_first": signed.sequence_first,
        "range_last": signed.sequence_last,
        "range_sha256": signed.sha256,
        "range_signature": signed.signature,
    }


def _canonical(event: Envelope) -> str:
    """An event's `data` with sorted keys and no spaces: equal data is equal text."""
    return json.dumps(event.model_dump()["data"], sort_keys=True, separators=(",", ":"))


_MAKERS: dict[type[Envelope], Callable[[Any], tuple[Table, Row]]] = {
    RequestFinished: _usage,
    EnginePartFinished: _part,
    EngineInterval: _interval,
}
