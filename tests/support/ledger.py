"""Writes records straight into the ledger's tables, as ingest would, by the contracts alone."""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from infra.clickhouse.client import Client
from schemas import tables
from schemas.fleet import EngineInterval
from schemas.ids import parse_ms
from schemas.tables import Table
from schemas.usage import EnginePartFinished, RequestFinished
from tests.support.events import Record

PART_FIELDS = (
    "engine",
    "ordinal",
    "gpu_ns",
    "generated_tokens",
    "prompt_computed_tokens",
    "recomputed_tokens",
    "decode_scheduled_tokens",
    "drafts_rejected_tokens",
    "discarded_tokens",
)


class LedgerWriter:
    """Gives each record the next offset of its topic's partition 0, and inserts it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.offsets: dict[str, int] = {}

    def write(self, records: Iterable[Record]) -> None:
        """One insert per table. The same record again is another copy at another offset."""
        by_table: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            table, row = _row(record, self._offset(record.topic))
            by_table.setdefault(table.name, []).append(row)
        for name, rows in by_table.items():
            self._insert(name, rows)

    def write_dead_letter(self, record: Record, *, sequence: int | None = None) -> None:
        """The record, as if ingest had refused it."""
        row = {
            "topic": record.topic,
            "kafka_partition": 0,
            "kafka_offset": self._offset(record.topic),
            "reason": "malformed",
            "detail": "refused by a test",
            "content_sha256": hashlib.sha256(record.value).hexdigest(),
            "value": base64.b64encode(record.value).decode(),
            "source": record.event.source,
            "sequence": record.event.sequence if sequence is None else sequence,
            "event_id": record.event.id,
            "tenant": record.event.subject,
        }
        self._insert("dead_letters", [row])

    def _offset(self, topic: str) -> int:
        self.offsets[topic] = self.offsets.get(topic, -1) + 1
        return self.offsets[topic]

    def _insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        columns = list(rows[0])
        self.client.insert(
            table,
            [[row[name] for name in columns] for row in rows],
            column_names=columns,
            settings={"insert_deduplicate": 0},
        )


def _row(record: Record, offset: int) -> tuple[Table, dict[str, Any]]:
    event = record.event
    row: dict[str, Any] = {
        "event_id": uuid.UUID(event.id),
        "event_time": _time(event.time),
        "content_hash": record.content_hash,
        "source": uuid.UUID(event.source),
        "sequence": event.sequence,
        "topic": record.topic,
        "kafka_partition": 0,
        "kafka_offset": offset,
    }
    if isinstance(event, RequestFinished):
        return tables.USAGE_EVENTS, row | _request(event)
    if isinstance(event, EnginePartFinished):
        data = event.data.model_dump()
        data |= {name: uuid.UUID(data[name]) for name in ("engine", "request")}
        return tables.ENGINE_PARTS, row | {"tenant": event.subject} | data
    if isinstance(event, EngineInterval):
        return tables.ENGINE_INTERVALS, row | _interval(event)
    data_text = json.dumps(event.model_dump()["data"], sort_keys=True, separators=(",", ":"))
    return tables.FLEET_EVENTS, row | {
        "type": event.type,
        "subject": event.subject,
        "data": data_text,
    }


def _request(event: RequestFinished) -> dict[str, Any]:
    data = event.data.model_dump(exclude={"parts"})
    parts = {
        f"parts_{name}": [getattr(part, name) for part in event.data.parts] for name in PART_FIELDS
    }
    parts["parts_engine"] = [uuid.UUID(one) for one in parts["parts_engine"]]
    data["finished_at"] = _time(event.data.finished_at)
    return {"tenant": event.subject} | data | parts


def _interval(event: EngineInterval) -> dict[str, Any]:
    data = event.data.model_dump(exclude={"range"})
    signed = event.data.range
    return data | {
        "engine": uuid.UUID(event.data.engine),
        "oldest_open_at": _time(event.data.oldest_open_at),
        "range_first": signed.sequence_first,
        "range_last": signed.sequence_last,
        "range_sha256": signed.sha256,
        "range_signature": signed.signature,
    }


def _time(text: str) -> datetime:
    unix_ms = parse_ms(text)
    return datetime.fromtimestamp(unix_ms // 1_000, UTC).replace(
        microsecond=unix_ms % 1_000 * 1_000
    )
